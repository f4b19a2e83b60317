"""A model small enough to check by hand, and batches of variable length for it."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfnmt.batch import END_ID, Batch, is_token
from tfnmt.layout import Layout, Parameter
from tfnmt.models import layers, output
from tfnmt.models.base import LossSums

VOCABULARY_SIZE = 11
SOURCE_SIZE = 40
WIDTH = 3


def _normal(shape, seed):
    return tf.random.stateless_normal(shape, seed, stddev=0.5)


class ToyModel:
    """Scores each target token from the mean source embedding and the token before: a tied softmax."""

    parameters = (
        Parameter("embedding", (VOCABULARY_SIZE, WIDTH), _normal),
        Parameter("transform", (WIDTH, WIDTH), _normal),
        Parameter("bias", (VOCABULARY_SIZE,), _normal),
    )
    source_table = "embedding"

    def __init__(self, dropout: float = 0.0):
        self._dropout = dropout

    def loss(self, views, batch, seed=None):
        embedding = views["embedding"]
        mask = tf.cast(is_token(batch.source_ids), embedding.dtype)[..., tf.newaxis]
        read = tf.gather(views[self.source_table], batch.source_ids)
        source = tf.reduce_sum(read * mask, 1, keepdims=True) / tf.reduce_sum(mask, 1, keepdims=True)
        previous = tf.gather(embedding, tf.pad(batch.target_ids, [[0, 0], [1, 0]])[:, :-1])
        states, ids = tf.reshape(previous + source, [-1, WIDTH]), tf.reshape(batch.target_ids, [-1])  # few operations
        hidden = tf.tanh(tf.matmul(states, views["transform"]))
        if seed is not None and self._dropout:
            hidden = tf.nn.experimental.stateless_dropout(hidden, self._dropout, seed)
        logits = tf.nn.bias_add(tf.matmul(hidden, embedding, transpose_b=True), views["bias"])
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits)
        weights = tf.cast(is_token(ids), logits.dtype)
        total = tf.reduce_sum(losses * weights)
        return LossSums(total, total, tf.reduce_sum(weights))


class TableModel(ToyModel):
    """The toy with its table as the models read theirs, and with label smoothing."""

    parameters = (dataclasses.replace(ToyModel.parameters[0], by_token=True), *ToyModel.parameters[1:])

    def loss(self, views, batch, seed=None):
        table = views["embedding"]
        mask = tf.cast(is_token(batch.source_ids), table.dtype)[..., tf.newaxis]
        source = tf.reduce_sum(layers.embed(table, batch.source_ids) * mask, 1, keepdims=True)
        source /= tf.reduce_sum(mask, 1, keepdims=True)
        previous = layers.embed(table, tf.pad(batch.target_ids, [[0, 0], [1, 0]])[:, :-1])
        hidden = tf.tanh(tf.matmul(previous + source, views["transform"]))
        return output.loss_sums(hidden, table, views["bias"], batch.target_ids, 0.1)


class PoisonedModel(ToyModel):
    """The gradient of one parameter is not a number on the batch at one place."""

    def __init__(self, place, parameter="bias"):
        super().__init__()
        self._place, self._parameter = place, parameter

    def loss(self, views, batch, seed=None):
        sums = super().loss(views, batch, seed)
        poison = tf.where(batch.position[2] == self._place, np.nan, 0.0)
        return sums._replace(loss=sums.loss + tf.cast(poison, sums.loss.dtype) * tf.reduce_sum(views[self._parameter]))


class PoisonedTableModel(PoisonedModel, TableModel):
    """The same of the toy whose table may be sharded."""


class WideTableModel(TableModel):
    """Nothing but a table of few rows, each as long as a whole model."""

    parameters = (Parameter("embedding", (VOCABULARY_SIZE, 1 << 15), _normal, by_token=True), ToyModel.parameters[2])

    def loss(self, views, batch, seed=None):
        previous = layers.embed(views["embedding"], tf.pad(batch.target_ids, [[0, 0], [1, 0]])[:, :-1])
        return output.loss_sums(tf.tanh(previous) / 100, views["embedding"], views["bias"], batch.target_ids, 0.1)


class SourceTableModel(ToyModel):
    """The toy with a table of its own for source tokens, which is only looked up."""

    parameters = (Parameter("source", (SOURCE_SIZE, WIDTH), _normal, looked_up=True), *ToyModel.parameters)
    source_table = "source"


class WideSourceModel(SourceTableModel):
    """The same for a vocabulary of which a batch reads next to nothing."""

    parameters = (
        dataclasses.replace(SourceTableModel.parameters[0], shape=(1 << 18, WIDTH)),
        *ToyModel.parameters,
        Parameter("ballast", (1 << 18,), lambda shape, seed: tf.zeros(shape)),
    )


class PoisonedSourceModel(PoisonedModel, SourceTableModel):
    """What is poisoned with a table of its own for source tokens."""


class WideModel(ToyModel):
    """The toy, beside a million numbers that are only sent to and fro."""

    parameters = (*ToyModel.parameters, Parameter("ballast", (1 << 20,), lambda shape, seed: tf.zeros(shape)))


def make_batches(count: int, sentences: int = 4, seed: int = 0, epoch_length: int = 1000):
    """`count` batches of sentences of very different lengths, so that a mean of means shows."""
    random = np.random.default_rng(seed)
    batches = []
    for number in range(count):
        lengths = random.integers(1, 9, size=(sentences, 2))
        sides = []
        for side in range(2):
            ids = np.zeros((sentences, lengths[:, side].max() + 1), np.int32)
            for row, length in enumerate(lengths[:, side]):
                ids[row, :length] = random.integers(4, VOCABULARY_SIZE, length)
                ids[row, length] = END_ID
            sides.append(tf.constant(ids))
        position = tf.constant([number // epoch_length, 0, number], tf.int64)
        batches.append(Batch(sides[0], sides[1], position))
    return batches


def with_other_sources(batches):
    """The batches with source tokens from a vocabulary of `SOURCE_SIZE`, of which each batch has a third."""
    return [
        batch._replace(source_ids=tf.where(ids > END_ID, 3 * ids + number % 3, ids))
        for number, (batch, ids) in enumerate((batch, batch.source_ids) for batch in batches)
    ]


def dataset(batches):
    """An endless dataset reader over `batches`, which resumes behind a position; worker i of N reads every N-th.

    Autotuning is off: the end of an iterator would wait for its thread, for tens of seconds where cores are busy.
    """
    options = tf.data.Options()
    options.autotune.enabled = False

    def make(position, worker=0, workers=1):
        chosen = batches[worker if position is None else position[2] + workers :: workers]
        sides = [[batch[side].numpy() for batch in chosen] for side in range(2)]
        flat = [
            tf.RaggedTensor.from_row_lengths(np.concatenate([ids.ravel() for ids in side]), [ids.size for ids in side])
            for side in sides
        ]
        shapes = [tf.constant([ids.shape for ids in side]) for side in sides]
        positions = tf.stack([batch.position for batch in chosen])

        @tf.autograph.experimental.do_not_convert
        def restore(source, source_shape, target, target_shape, position):
            return Batch(tf.reshape(source, source_shape), tf.reshape(target, target_shape), position)

        parts = (flat[0], shapes[0], flat[1], shapes[1], positions)
        return tf.data.Dataset.from_tensor_slices(parts).map(restore).repeat().with_options(options)

    return make


def join(batches):
    """One batch that holds the sentences of all `batches`."""

    def stack(side):
        longest = max(ids.shape[1] for ids in side)
        return tf.concat([tf.pad(ids, [[0, 0], [0, longest - ids.shape[1]]]) for ids in side], axis=0)

    return Batch(
        stack([batch.source_ids for batch in batches]),
        stack([batch.target_ids for batch in batches]),
        batches[-1].position,
    )


def layout():
    """The toy's layout."""
    return Layout(ToyModel.parameters)
