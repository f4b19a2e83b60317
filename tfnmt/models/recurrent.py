"""The recurrent encoder-decoder with attention of the papers on asynchronous SGD (Bogoychev et al. 2018).

One layer on either side is Nematus' shallow model; several layers, `--encoder_type=alternating`,
`--transition_depth=2` and `--recurrent_normalization` are the deep model of "Deep architectures for neural machine
translation" (Miceli Barone et al. 2017), which Marian calls best-deep.
"""

import tensorflow as tf

from tfnmt.batch import BEGIN_ID, Batch, is_token
from tfnmt.layout import Parameter
from tfnmt.models import layers, output
from tfnmt.models.base import LossSums, Model, Views
from tfnmt.models.dropout import Dropout, SentenceDropout
from tfnmt.models.recurrence import Tensors
from tfnmt.models.recurrent_decoder import Decoder, Memory
from tfnmt.models.recurrent_encoder import Encoder
from tfnmt.models.recurrent_settings import RecurrentSettings


class Recurrent(Model):
    """Two stacks of recurrent layers read the source; a conditional cell and layers above it write the target."""

    settings: RecurrentSettings

    def __init__(self, settings: RecurrentSettings, source_vocabulary_size: int, target_vocabulary_size: int):
        super().__init__(settings, source_vocabulary_size, target_vocabulary_size, settings.embedding_width)
        self._encoder, self._decoder = Encoder(settings), Decoder(settings)
        self.parameters = (
            *self._tables.parameters,
            *self._encoder.parameters(),
            *self._decoder.parameters(),
            Parameter("output/bias", (target_vocabulary_size,), layers.zeros),
        )

    def loss(self, views: Views, batch: Batch, seed: tf.Tensor | None = None) -> LossSums:
        """See `Model.loss`."""
        states, target_ids = self._decode(views, batch, seed), tf.transpose(batch.target_ids)
        kernel, bias = self._projection(views)
        return output.loss_sums(tf.cast(states, kernel.dtype), kernel, bias, target_ids, self.settings.label_smoothing)

    def log_probabilities(self, views: Views, batch: Batch) -> tf.Tensor:
        """See `Model.log_probabilities`."""
        states, target_ids = self._decode(views, batch, None), tf.transpose(batch.target_ids)
        kernel, bias = self._projection(views)
        scores = output.log_probabilities(tf.cast(states, kernel.dtype), kernel, bias, target_ids)
        return tf.transpose(tf.cast(scores, tf.float32))

    def cast(self, views: Views) -> Views:
        """See `Model.cast`. Only kernels are cast; states and what lies between products stay float32."""
        kernels = {name: view for name, view in views.items() if _is_kernel(name)}
        return {**views, **layers.in_precision(kernels, self.settings.precision)}

    def encode(self, views: Views, source_ids: tf.Tensor) -> Memory:
        """See `Model.encode`."""
        return self._encode(self.cast(views), source_ids, _Dropouts(self.settings, None))

    def start(self, views: Views, memory: Memory, beams: int, length: tf.Tensor) -> Tensors:
        """See `Model.start`."""
        return tuple(tf.tile(part[:, None], [1, beams, 1]) for part in memory.start)

    def step(
        self, views: Views, memory: Memory, cache: Tensors, previous_ids: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        """See `Model.step`."""
        shape = tf.shape(previous_ids)
        embedded = tf.gather(views[self._tables.target], tf.reshape(previous_ids, [-1]))
        state = tuple(tf.reshape(part, [-1, self.settings.width]) for part in cache)
        states, state, weights = self._decoder.step(self.cast(views), memory, state, embedded)
        kernel, bias = self._projection(views)
        scores = output.logits(tf.cast(states, kernel.dtype), kernel, bias)
        scores = tf.reshape(tf.cast(scores, tf.float32), [shape[0], shape[1], self._target_vocabulary_size])
        cache = tuple(tf.reshape(part, tf.shape(old)) for part, old in zip(state, cache, strict=True))
        return scores, cache, tf.cast(weights, tf.float32)

    def operations_per_pair(self, source_length: int, target_length: int) -> float:
        """See `Model.operations_per_pair`."""
        settings, width = self.settings, self.settings.width
        kernels = {parameter.name: parameter.size for parameter in self.parameters if _is_kernel(parameter.name)}
        kernels["output/kernel"] = settings.embedding_width * self._target_vocabulary_size
        once = kernels.pop("decoder/start/kernel")
        read = sum(size for name, size in kernels.items() if name.startswith(("encoder/", "decoder/attention/key")))
        written = sum(kernels.values()) - read
        looked_up = settings.attention_width + 2 * width
        both = looked_up * source_length * target_length
        # A multiplication and an addition, forward and twice backward.
        return 6.0 * (once + read * source_length + written * target_length + both)

    def _decode(self, views: Views, batch: Batch, seed: tf.Tensor | None) -> tf.Tensor:
        """The states that the projection reads at every target position: [T, B, E]."""
        dropouts, views = _Dropouts(self.settings, seed), self.cast(views)
        memory = self._encode(views, batch.source_ids, dropouts)
        previous_ids = tf.pad(batch.target_ids[:, :-1], [[0, 0], [1, 0]], constant_values=BEGIN_ID)
        embedded = self._embed(views[self._tables.target], previous_ids, dropouts)
        return self._decoder.run(views, memory, embedded, dropouts.layers, dropouts.states)

    def _encode(self, views: Views, source_ids: tf.Tensor, dropouts: "_Dropouts") -> Memory:
        embedded = self._embed(views[self._tables.source], source_ids, dropouts)
        tokens = is_token(tf.transpose(source_ids))
        annotations = self._encoder.annotate(views, embedded, tokens, dropouts.layers, dropouts.states)
        return self._decoder.remember(views, dropouts.layers(annotations), tokens)

    def _embed(self, table: tf.Tensor, ids: tf.Tensor, dropouts: "_Dropouts") -> tf.Tensor:
        """Embeddings [T, B, E] of `ids` [B, T]."""
        embedded = layers.embed(table, tf.transpose(ids))
        read = dropouts.words(tf.ones_like(embedded[..., :1]))
        return dropouts.layers(embedded * read if dropouts.words.active else embedded)

    def _projection(self, views: Views) -> tuple[tf.Tensor, tf.Tensor]:
        """The output's kernel [V, E] and bias [V], in the dtype of the products."""
        projection: Views = {"kernel": views[self._tables.output], "bias": views["output/bias"]}
        projection = layers.in_precision(projection, self.settings.precision)
        return projection["kernel"], projection["bias"]


class _Dropouts:
    """The dropouts of one step; each has places of its own."""

    def __init__(self, settings: RecurrentSettings, seed: tf.Tensor | None):
        self.layers = SentenceDropout(settings.dropout, seed, purpose=0)
        self.states = SentenceDropout(settings.state_dropout, seed, purpose=1)
        self.words = Dropout(settings.word_dropout, seed, purpose=2)


def _is_kernel(name: str) -> bool:
    return name.endswith("/kernel")
