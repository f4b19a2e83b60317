"""The recurrent encoder: two stacks of layers that read the source in opposite directions."""

import tensorflow as tf

from tfnmt.layout import Parameter
from tfnmt.models.base import Views
from tfnmt.models.cells import Cell, DeepCell
from tfnmt.models.sentence_dropout import SentenceDropout


class Encoder:
    """Annotates each source token with the states of both stacks, [S, B, 2 D]."""

    def __init__(
        self,
        kind: type[Cell],
        width: int,
        input_width: int,
        *,
        layers: int,
        depth: int,
        alternating: bool,
        normalized: bool,
    ):
        """Sizes.

        Args:
          kind: the cells.
          width: D of each stack.
          input_width: columns of the embeddings.
          layers: layers of each stack; every one but the first has a residual connection.
          depth: cells that a state passes through for each token.
          alternating: whether a stack turns its direction with each layer, so that its states know both sides.
          normalized: whether there is layer normalization.
        """
        self._alternating = alternating
        self._stacks = [
            [
                DeepCell(
                    kind, f"encoder/{direction}/{layer}", width, width if layer else input_width, depth, normalized
                )
                for layer in range(layers)
            ]
            for direction in ("forward", "backward")
        ]

    def parameters(self) -> list[Parameter]:
        """What the encoder declares."""
        return [parameter for stack in self._stacks for cell in stack for parameter in cell.parameters()]

    def annotate(
        self,
        views: Views,
        embedded: tf.Tensor,
        is_token: tf.Tensor,
        dropout: SentenceDropout,
        state_dropout: SentenceDropout,
    ) -> tf.Tensor:
        """States of both stacks' last layers.

        Args:
          views: the parameters.
          embedded: [S, B, E].
          is_token: bool [S, B]; states on padding are zero.
          dropout: of what the layers above the first read.
          state_dropout: of the states on their way to the next token.

        Returns:
          [S, B, 2 D]
        """
        annotations = []
        for stack, first_backwards in zip(self._stacks, (False, True), strict=True):
            states = embedded
            for layer, cell in enumerate(stack):
                backwards = first_backwards ^ (self._alternating and layer % 2 == 1)
                inputs = dropout(states) if layer else states
                mask = state_dropout.mask(inputs, cell.width)
                # Padding comes first in the other direction, and the state must be zero still when the sentence begins.
                new = cell.run(views, inputs, cell.zeros(inputs), mask, keep=is_token, backwards=backwards)
                states = states + new if layer else new
            annotations.append(states)
        return tf.concat(annotations, axis=-1)
