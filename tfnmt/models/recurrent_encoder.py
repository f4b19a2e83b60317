"""The recurrent encoder: two stacks of layers that read the source in opposite directions."""

import tensorflow as tf

from tfnmt.layout import Parameter
from tfnmt.models.base import Views
from tfnmt.models.dropout import SentenceDropout
from tfnmt.models.recurrent_settings import RecurrentSettings, deep_cell


class Encoder:
    """Annotates each source token with the states of both stacks, [S, B, 2 D]."""

    def __init__(self, settings: RecurrentSettings):
        """Names the cells; every layer of a stack but the first has a residual connection."""
        self._alternating = settings.encoder_type == "alternating"
        self._stacks = [
            [
                deep_cell(
                    settings,
                    f"encoder/{direction}/{layer}",
                    settings.width if layer else settings.embedding_width,
                )
                for layer in range(settings.encoder_layers)
            ]
            for direction in ("forward", "backward")
        ]

    def parameters(self) -> list[Parameter]:
        """The parameters of the encoder."""
        return [parameter for stack in self._stacks for cell in stack for parameter in cell.parameters()]

    def annotate(
        self,
        views: Views,
        embedded: tf.Tensor,
        is_token: tf.Tensor,
        dropout: SentenceDropout,
        state_dropout: SentenceDropout,
    ) -> tf.Tensor:
        """States [S, B, 2 D] of both stacks' last layers for `embedded` [S, B, E]; zero where `is_token` [S, B] is not.

        The first dropout is that of what the layers above the first read.
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
