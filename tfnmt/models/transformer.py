"""The Transformer ("Attention Is All You Need", Vaswani et al. 2017), with normalization before or after each layer.

Departures from the paper: keys and values that the decoder reads of the encoder come from one product for all its
layers; with `--normalization=pre` every sub-layer reads normalized states and the last states are normalized again.
"""

from typing import NamedTuple

import tensorflow as tf

from tfnmt.batch import BEGIN_ID, Batch, is_token
from tfnmt.models import layers, output
from tfnmt.models.attention import attend, attend_once, causal_bias, join_heads, padding_bias, split_heads
from tfnmt.models.base import LossSums, Model, Views
from tfnmt.models.dropout import Dropout
from tfnmt.models.transformer_parameters import MEMORY, TransformerSettings, declare


class Memory(NamedTuple):
    """The memory of a source that the decoder reads."""

    keys: tuple[tf.Tensor, ...]  # for each decoder layer, [B, S, D]
    values: tuple[tf.Tensor, ...]  # for each decoder layer, [B, S, D]
    bias: tf.Tensor  # [B, 1, 1, S]


class Cache(NamedTuple):
    """Keys and values of the tokens decoded so far."""

    keys: tuple[tf.Tensor, ...]  # for each decoder layer, [B, K, T, D]; T grows with every step
    values: tuple[tf.Tensor, ...]  # for each decoder layer, [B, K, T, D]


class Transformer(Model):
    """Encoder and decoder of self-attention and feed-forward layers."""

    settings: TransformerSettings

    def __init__(self, settings: TransformerSettings, source_vocabulary_size: int, target_vocabulary_size: int):
        super().__init__(settings, source_vocabulary_size, target_vocabulary_size, settings.width)
        self.parameters = (*self._tables.parameters, *declare(settings))

    def loss(self, views: Views, batch: Batch, seed: tf.Tensor | None = None) -> LossSums:
        """See `Model.loss`."""
        views = self.cast(views)
        states, kernel = self._decode(views, batch, seed), views[self._tables.output]
        return output.loss_sums(states, kernel, None, batch.target_ids, self.settings.label_smoothing)

    def log_probabilities(self, views: Views, batch: Batch) -> tf.Tensor:
        """See `Model.log_probabilities`."""
        views = self.cast(views)
        states = self._decode(views, batch, None)
        return output.log_probabilities(states, views[self._tables.output], None, batch.target_ids)

    def cast(self, views: Views) -> Views:
        """See `Model.cast`."""
        return layers.in_precision(views, self.settings.precision)

    def encode(self, views: Views, source_ids: tf.Tensor) -> Memory:
        """See `Model.encode`."""
        return self._encode(self.cast(views), source_ids, _Pass(self.settings))

    def start(self, views: Views, memory: Memory, beams: int, length: tf.Tensor) -> Cache:
        """See `Model.start`."""
        shape = [tf.shape(memory.bias)[0], beams, 0, self.settings.width]
        empty = tuple(tf.zeros(shape, memory.bias.dtype) for _ in range(self.settings.decoder_layers))
        return Cache(empty, empty)

    def step(
        self, views: Views, memory: Memory, cache: Cache, previous_ids: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, Cache, tf.Tensor]:
        """See `Model.step`. The attention is the last layer's, the mean of its heads."""
        views = self.cast(views)
        states = self._embed(views, self._tables.target, previous_ids, positions=(step, 1))
        keys, values, weights = [], [], None
        for layer in range(self.settings.decoder_layers):
            name = f"decoder/{layer}"
            read = Memory(memory.keys[layer], memory.values[layer], memory.bias)
            past = (cache.keys[layer], cache.values[layer])
            states, (key, value), weights = self._decoder_step(views, name, states, read, past)
            keys.append(key)
            values.append(value)
        states = self._last_norm(views, "decoder", states)
        scores = output.logits(states, views[self._tables.output])
        return scores, Cache(tuple(keys), tuple(values)), tf.cast(tf.reduce_mean(weights, axis=2), tf.float32)

    def operations_per_pair(self, source_length: int, target_length: int) -> float:
        """See `Model.operations_per_pair`."""
        width, hidden = self.settings.width, self.settings.feed_forward_width
        encoder, decoder = self.settings.encoder_layers, self.settings.decoder_layers
        per_source = encoder * (4 * width**2 + 2 * width * hidden) + decoder * 2 * width**2
        per_target = decoder * (6 * width**2 + 2 * width * hidden) + width * self._target_vocabulary_size
        source_pairs = encoder * source_length**2
        target_pairs = decoder * (target_length**2 + target_length * source_length)
        kernels = per_source * source_length + per_target * target_length
        attention = 2 * width * (source_pairs + target_pairs)
        return 6.0 * (kernels + attention)  # a multiplication and an addition, forward and twice backward

    def _decode(self, views: Views, batch: Batch, seed: tf.Tensor | None) -> tf.Tensor:
        """The decoder's last states for every target position: [B, T, D]."""
        run = _Pass(self.settings, seed)
        memory = self._encode(views, batch.source_ids, run)
        previous_ids = tf.pad(batch.target_ids[:, :-1], [[0, 0], [1, 0]], constant_values=BEGIN_ID)
        states = run.residual(self._embed(views, self._tables.target, previous_ids))
        bias = causal_bias(tf.shape(previous_ids)[1], states.dtype)
        for layer in range(self.settings.decoder_layers):
            name = f"decoder/{layer}"
            read = Memory(memory.keys[layer], memory.values[layer], memory.bias)
            states = self._self_attention(views, name, states, bias, run)
            states = self._cross_attention(views, name, states, read, run)
            states = self._feed_forward(views, name, states, run)
        return self._last_norm(views, "decoder", states)

    def _encode(self, views: Views, source_ids: tf.Tensor, run: "_Pass") -> Memory:
        states = run.residual(self._embed(views, self._tables.source, source_ids))
        bias = padding_bias(is_token(source_ids), states.dtype)
        for layer in range(self.settings.encoder_layers):
            states = self._self_attention(views, f"encoder/{layer}", states, bias, run)
            states = self._feed_forward(views, f"encoder/{layer}", states, run)
        states, norm = self._before(views, "encoder", states, run)
        keys_values = layers.dense(views, MEMORY, states, norm=norm)
        parts = tf.split(keys_values, 2 * self.settings.decoder_layers, axis=-1)
        return Memory(tuple(parts[0::2]), tuple(parts[1::2]), bias)

    def _embed(self, views: Views, table: str, ids: tf.Tensor, positions=None) -> tf.Tensor:
        """Scaled embeddings plus position signals: [B, T, D] for `ids` [B, T]."""
        first, count = positions or (0, tf.shape(ids)[1])
        width = self.settings.width
        embedded = layers.embed(views[table], ids)
        signal = layers.positions(first, count, width, embedded.dtype)
        return embedded * tf.constant(width**0.5, embedded.dtype) + signal

    def _last_norm(self, views: Views, name: str, states: tf.Tensor) -> tf.Tensor:
        return layers.layer_norm(views, f"{name}/norm", states) if self.settings.normalization == "pre" else states

    def _before(self, views: Views, name: str, states: tf.Tensor, run: "_Pass") -> tuple[tf.Tensor, str | None]:
        """The inputs of the first dense layer of `name`, and the layer normalization that it has to fold in."""
        if self.settings.normalization == "post":
            return states, None
        norm = f"{name}/norm"
        return (layers.normalize(states), norm) if run.many_rows else (layers.layer_norm(views, norm, states), None)

    def _after(self, views: Views, name: str, states: tf.Tensor, branch: tf.Tensor, dropout: Dropout) -> tf.Tensor:
        """The states behind the sub-layer `name`, whose last dense layer reads `branch`."""
        states = dropout.add(states, layers.dense(views, f"{name}/output", branch, scale=dropout.scale))
        return layers.layer_norm(views, f"{name}/norm", states) if self.settings.normalization == "post" else states

    def _self_attention(self, views: Views, layer: str, states: tf.Tensor, bias: tf.Tensor, run: "_Pass") -> tf.Tensor:
        name, heads = f"{layer}/self_attention", self.settings.heads
        queries, keys, values = (split_heads(part, heads) for part in self._query_key_value(views, name, states, run))
        read = join_heads(attend(queries, keys, values, bias, run.attention))
        return self._after(views, name, states, read, run.residual)

    def _query_key_value(self, views: Views, name: str, states: tf.Tensor, run: "_Pass") -> list[tf.Tensor]:
        inputs, norm = self._before(views, name, states, run)
        return tf.split(layers.dense(views, f"{name}/query_key_value", inputs, norm=norm), 3, axis=-1)

    def _cross_attention(self, views: Views, layer: str, states: tf.Tensor, memory: Memory, run: "_Pass") -> tf.Tensor:
        name, heads = f"{layer}/cross_attention", self.settings.heads
        inputs, norm = self._before(views, name, states, run)
        queries = split_heads(layers.dense(views, f"{name}/query", inputs, norm=norm), heads)
        keys, values = split_heads(memory.keys, heads), split_heads(memory.values, heads)
        read = join_heads(attend(queries, keys, values, memory.bias, run.attention))
        return self._after(views, name, states, read, run.residual)

    def _feed_forward(self, views: Views, layer: str, states: tf.Tensor, run: "_Pass") -> tf.Tensor:
        name = f"{layer}/feed_forward"
        inputs, norm = self._before(views, name, states, run)
        spare = layers.spare_columns(self.settings.feed_forward_width) if run.many_rows else 0
        hidden = layers.dense(views, f"{name}/hidden", inputs, norm=norm, relu=True, spare_outputs=spare)
        return self._after(views, name, states, run.feed_forward(hidden), run.residual)

    def _decoder_step(
        self,
        views: Views,
        layer: str,
        states: tf.Tensor,
        memory: Memory,
        past: tuple[tf.Tensor, tf.Tensor],
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
        """One decoder layer on one token of each hypothesis, `states` [B, K, D]."""
        heads, run = self.settings.heads, _Pass(self.settings, many_rows=False)
        name = f"{layer}/self_attention"
        queries, *new = self._query_key_value(views, name, states, run)
        past = tuple(tf.concat([cache, part[:, :, None]], axis=2) for cache, part in zip(past, new))
        read = self._attend_past(queries, *past)
        states = self._after(views, name, states, read, run.residual)
        name = f"{layer}/cross_attention"
        inputs, norm = self._before(views, name, states, run)
        queries = layers.dense(views, f"{name}/query", inputs, norm=norm)
        read, weights = attend_once(queries, memory.keys, memory.values, memory.bias, heads)
        states = self._after(views, name, states, read, run.residual)
        return self._feed_forward(views, layer, states, run), past, weights

    def _attend_past(self, queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        """Self-attention of one token of each hypothesis over those up to this one: [B, K, D]."""
        width, length = self.settings.width, tf.shape(keys)[2]
        rows = tf.reshape(queries, [-1, 1, width])
        keys, values = (tf.reshape(part, [-1, length, width]) for part in (keys, values))
        attended, _ = attend_once(rows, keys, values, tf.zeros([], queries.dtype), self.settings.heads)
        return tf.reshape(attended, tf.shape(queries))


class _Pass:
    """The options of one pass over the layers: dropouts, and whether there are many rows.

    With many rows the states are larger than the kernels, so that work on kernels saves time.
    """

    def __init__(self, settings: TransformerSettings, seed: tf.Tensor | None = None, many_rows: bool = True):
        self.residual = Dropout(settings.dropout, seed, purpose=0)  # of residual branches and embeddings
        self.attention = Dropout(settings.attention_dropout, seed, purpose=1)  # of attention weights
        self.feed_forward = Dropout(settings.feed_forward_dropout, seed, purpose=2)  # of hidden units
        self.many_rows = many_rows
