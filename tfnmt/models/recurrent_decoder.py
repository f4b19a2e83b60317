"""The recurrent decoder: a conditional cell with attention, further layers above it, and a deep output.

For each target token the conditional cell (Nematus, Sennrich et al. 2017) goes from s to s' with one recurrent cell
that reads the token before, looks up a context with s' as the query, and goes on from s' with cells that read the
context. Layers above have residual connections. The output reads the last state, the token before and the context.
"""

from typing import NamedTuple

import tensorflow as tf

from tfnmt.layout import Parameter
from tfnmt.models import layers as dense_layers
from tfnmt.models.additive_attention import KEYS, MEMORY, AdditiveAttention
from tfnmt.models.attention import padding_bias
from tfnmt.models.base import Views
from tfnmt.models.cells import CELLS
from tfnmt.models.dropout import SentenceDropout
from tfnmt.models.recurrence import Multiply, Tensors, add_bias, multiply_by, recur
from tfnmt.models.recurrent_settings import RecurrentSettings, deep_cell


class Memory(NamedTuple):
    """The memory of a source that the decoder reads."""

    annotations: tf.Tensor  # [B, S, 2 D], in the dtype of the products
    keys: tf.Tensor  # [B, S, A], the attention's
    bias: tf.Tensor  # [B, 1, S], hugely negative on padding
    start: Tensors  # the states before the first token, [B, D] each


class Decoder:
    """States and output of the target side. A state is one tuple of tensors [N, D] over all layers."""

    def __init__(self, settings: RecurrentSettings):
        """Names the cells: the conditional one, whose annotations have 2 D columns, and those above it."""
        self._sizes = width, embedding_width = settings.width, settings.embedding_width
        self._normalized = normalized = settings.recurrent_normalization
        kind = CELLS[settings.cell]
        self._first = kind("decoder/0/token", width, embedding_width, normalized)
        self._attention = AdditiveAttention("decoder/attention", width, 2 * width, settings.attention_width, normalized)
        self._second = deep_cell(settings, "decoder/0/context", 2 * width)
        self._higher = [deep_cell(settings, f"decoder/{layer}", width) for layer in range(1, settings.decoder_layers)]
        self._parts, self._state_size = kind.state_size, kind.state_size * settings.decoder_layers

    def parameters(self) -> list[Parameter]:
        """The parameters of the decoder."""
        width, embedding_width = self._sizes
        declared = dense_layers.dense_parameters(
            "decoder/start", 2 * width, self._state_size * width, blocks=self._state_size
        )
        declared += self._first.parameters() + self._attention.parameters() + self._second.parameters()
        for cell in self._higher:
            declared += cell.parameters()
        declared += dense_layers.dense_parameters("decoder/output", 3 * width + embedding_width, embedding_width)
        return declared + (dense_layers.norm_parameters("decoder/output", embedding_width) if self._normalized else [])

    def remember(self, views: Views, annotations: tf.Tensor, is_token: tf.Tensor) -> Memory:
        """The memory, which does not change from token to token; `annotations` [S, B, 2 D] are zero on padding."""
        multiply, weights = multiply_by(views), tf.cast(is_token, annotations.dtype)
        mean = tf.reduce_sum(annotations, axis=0) / tf.reduce_sum(weights, axis=0)[:, None]
        start = tf.tanh(add_bias(multiply(mean, "decoder/start/kernel"), views["decoder/start/bias"]))
        annotations = tf.transpose(annotations, [1, 0, 2])
        keys = self._attention.keys(multiply, views, annotations)
        annotations = tf.cast(annotations, views["decoder/start/kernel"].dtype)
        bias = padding_bias(tf.transpose(is_token), keys.dtype)[:, 0]
        return Memory(annotations, keys, bias, tuple(tf.split(start, self._state_size, axis=-1)))

    def run(
        self,
        views: Views,
        memory: Memory,
        embedded: tf.Tensor,
        dropout: SentenceDropout,
        state_dropout: SentenceDropout,
    ) -> tf.Tensor:
        """The output's states for given tokens before each position, `embedded` [T, B, E]: [T, B, E]."""
        states, contexts = self._run_conditional(views, memory, embedded, state_dropout)
        for layer, cell in enumerate(self._higher, 1):
            initial = memory.start[layer * self._parts : (layer + 1) * self._parts]
            states += cell.run(views, dropout(states), initial, state_dropout.mask(states, cell.width))
        return dropout(self._output(views, states, embedded, contexts))

    def step(
        self, views: Views, memory: Memory, state: Tensors, embedded: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        """One token for each of K hypotheses of each of B sentences: `state` [B K, D] each, `embedded` [B K, E].

        Returns:
          the output's states [B K, E], the new state, and the attention's weights [B, K, S]
        """
        views = {**views, MEMORY: memory.annotations, KEYS: memory.keys}
        multiply = multiply_by(views)
        projected = self._first.project(multiply, views, embedded)
        new_state, context, weights = self._conditional(multiply, views, state[: self._parts], projected, memory.bias)
        states = new_state[0]
        for layer, cell in enumerate(self._higher, 1):
            before = state[layer * self._parts : (layer + 1) * self._parts]
            behind = cell.step(multiply, views, before, cell.project(multiply, views, states))
            states, new_state = states + behind[0], new_state + behind
        return self._output(views, states, embedded, context), new_state, weights

    def _conditional(
        self,
        multiply: Multiply,
        views: Views,
        state: Tensors,
        projected: tf.Tensor,
        bias: tf.Tensor,
        mask: tf.Tensor | None = None,
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """The conditional cell at one position: its state, the context [N, 2 D] and the attention's weights."""
        state = self._first.step(multiply, views, state, projected, mask)
        context, weights = self._attention.read(multiply, views, state[0], bias)
        projected = self._second.project(multiply, views, context)
        return self._second.step(multiply, views, state, projected, mask), context, weights

    def _run_conditional(
        self, views: Views, memory: Memory, embedded: tf.Tensor, state_dropout: SentenceDropout
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """States [T, B, D] and contexts [T, B, 2 D] at all positions."""
        mask = state_dropout.mask(embedded, self._sizes[0])

        def step(multiply: Multiply, state: Tensors, projected: tf.Tensor, constants: Views) -> tuple[Tensors, Tensors]:
            state, context, _ = self._conditional(multiply, constants, state, projected, memory.bias, mask)
            return state, (context,)

        parts = (self._first, self._attention, self._second)
        weights = {name: views[name] for part in parts for name in part.weights}
        weights |= {self._second.input_kernel: views[self._second.input_kernel], MEMORY: memory.annotations}
        constants = {name: views[name] for part in parts for name in part.constants}
        constants |= {name: views[name] for name in self._second.input_constants} | {KEYS: memory.keys}
        projected = self._first.project(multiply_by(views), views, embedded)
        initial = memory.start[: self._parts]
        states, (contexts,) = recur(step, initial, projected, weights, constants, outputs=1)
        return states[0], contexts

    def _output(self, views: Views, states: tf.Tensor, embedded: tf.Tensor, contexts: tf.Tensor) -> tf.Tensor:
        """The states, the tokens before and the contexts, combined behind a tanh: [..., E]."""
        inputs = tf.concat([states, embedded, contexts], axis=-1)
        outputs = add_bias(multiply_by(views)(inputs, "decoder/output/kernel"), views["decoder/output/bias"])
        if self._normalized:
            outputs = dense_layers.layer_norm(views, "decoder/output", outputs)
        return tf.tanh(outputs)
