"""A model that reads its next-token logits from a table, and an exhaustive search over what it can say."""

import itertools
import math

import numpy as np
import tensorflow as tf

from tfnmt.batch import BEGIN_ID, END_ID, UNKNOWN_ID, Batch
from tfnmt.layout import Parameter
from tfnmt.models.base import LossSums, Model, ModelSettings

HISTORIES = 97  # a prime; a prefix is known by its remainder


def _random(shape, seed):
    return 2.0 * tf.random.stateless_normal(shape, seed)


class ScriptedModel(Model):
    """Logits depend on the source's first token and on the whole prefix, which only the cache remembers."""

    def __init__(self, vocabulary_size: int, sources: int = 8):
        self.settings = ModelSettings()
        self.parameters = (Parameter("table", (sources, HISTORIES, vocabulary_size), _random),)

    def loss(self, views, batch, seed=None):
        total = -tf.reduce_sum(self.log_probabilities(views, batch))
        return LossSums(total, total, tf.cast(tf.math.count_nonzero(batch.target_ids), tf.float32))

    def log_probabilities(self, views, batch: Batch):
        memory = self.encode(views, batch.source_ids)
        cache = self.start(views, memory, 1, tf.shape(batch.target_ids)[1])
        previous, rows = tf.fill([batch.target_ids.shape[0], 1], BEGIN_ID), []
        for step in range(batch.target_ids.shape[1]):
            logits, cache, _ = self.step(views, memory, cache, previous, tf.constant(step))
            previous = batch.target_ids[:, step : step + 1]
            rows.append(tf.gather(tf.nn.log_softmax(logits)[:, 0], previous[:, 0], batch_dims=1))
        return tf.where(batch.target_ids == 0, 0.0, tf.stack(rows, axis=1))

    def encode(self, views, source_ids):
        padding = tf.cast(source_ids == 0, tf.float32)
        return {"kind": source_ids[:, 0], "attention": (1 - padding) / tf.reduce_sum(1 - padding, 1, keepdims=True)}

    def start(self, views, memory, beams, length):
        return {"history": tf.zeros([tf.shape(memory["kind"])[0], beams, 1], tf.int32)}

    def step(self, views, memory, cache, previous_ids, step):
        history = (31 * cache["history"][:, :, 0] + previous_ids) % HISTORIES
        kinds = tf.broadcast_to(memory["kind"][:, None], tf.shape(history))
        logits = tf.gather_nd(views["table"], tf.stack([kinds, history], axis=2))
        attention = tf.repeat(memory["attention"][:, None], tf.shape(history)[1], axis=1)
        return logits, {"history": history[:, :, None]}, attention

    def operations_per_pair(self, source_length, target_length):
        return 1.0


def log_probability(table: np.ndarray, kind: int, tokens: list[int]) -> float:
    """The log-probability of `tokens`, END_ID included, computed by hand."""
    total, history = 0.0, 0
    for previous, token in zip([BEGIN_ID, *tokens], tokens):
        history = (31 * history + previous) % HISTORIES
        logits = table[kind, history].astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
    return total


def exhaustive_search(table: np.ndarray, kind: int, limit: int, exponent: float, allow_unknown: bool = False):
    """Every finished translation of at most `limit` tokens as (score, tokens), best first."""
    words = [token for token in range(table.shape[2]) if token > END_ID or (allow_unknown and token == UNKNOWN_ID)]
    found = []
    for length in range(limit):
        penalty = math.pow((5 + length + 1) / 6, exponent)
        for tokens in itertools.product(words, repeat=length):
            tokens = [*tokens, END_ID]
            found.append((log_probability(table, kind, tokens) / penalty, tokens))
    return sorted(found, reverse=True)
