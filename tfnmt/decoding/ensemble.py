"""Several models, or several checkpoints of one, that translate together."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfnmt.batch import Batch
from tfnmt.models.base import Model, Nest


class Ensemble:
    """Averages its members' next-token probabilities. It has the decoding half of `Model`.

    Wherever a model takes views or a memory or a cache, an ensemble takes one of each member.
    """

    def __init__(self, models: Sequence[Model]):
        """Joins `models`, which must share their vocabularies; one model may occur several times."""
        self.models = tuple(models)

    def log_probabilities(self, views: Sequence[Any], batch: Batch) -> tf.Tensor:
        """Log of the mean probability of each target token, float32 [B, T]; zero on padding."""
        return _log_mean([model.log_probabilities(own, batch) for model, own in zip(self.models, views)])

    def encode(self, views: Sequence[Any], source_ids: tf.Tensor) -> Nest:
        """Each member's memory of `source_ids` [B, S]."""
        return tuple(model.encode(own, source_ids) for model, own in zip(self.models, views))

    def start(self, views: Sequence[Any], memory: Nest, beams: int, length: tf.Tensor) -> Nest:
        """Each member's cache before the first token."""
        return tuple(
            model.start(own, its_memory, beams, length) for model, own, its_memory in zip(self.models, views, memory)
        )

    def step(
        self, views: Sequence[Any], memory: Nest, cache: Nest, previous_ids: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, Nest, tf.Tensor]:
        """Log of the mean probability [B, K, V], the members' caches, and the mean attention [B, K, S]."""
        members = [
            model.step(own, its_memory, its_cache, previous_ids, step)
            for model, own, its_memory, its_cache in zip(self.models, views, memory, cache)
        ]
        logits, caches, attention = zip(*members)
        return (_log_mean([tf.nn.log_softmax(own) for own in logits]), caches, tf.add_n(attention) / len(members))


def _log_mean(log_probabilities: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.reduce_logsumexp(tf.stack(log_probabilities), axis=0) - tf.math.log(float(len(log_probabilities)))
