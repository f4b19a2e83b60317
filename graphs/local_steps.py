"""One local update: a worker moves its own replica by the mean gradient of a step."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from graphs.reduce_average import clip_factor, first_nonfinite
from tfnmt.optimizers.optimizers import Optimizer

REPLICA = "replica"


class Replica(NamedTuple):
    """The variables of one worker, on its own device.

    Attributes:
      vectors: variables [size] by name: the replica of the parameters, under `REPLICA`, and the vectors that the
        exchange keeps.
      slots: variables [size] by name: the slots of the local optimizer.
      updates: local updates since these slots began, a float64 scalar.
      copies: on each server, its part of what the worker knows of the parameters, where pulls are encoded.
      texts: where the worker asks for the rows of a table that its batches read: the batches that are read ahead, and
        the different numbers of these rows [R]; see `graphs.table_rows.new_text`.
    """

    vectors: Mapping[str, tf.Variable]
    slots: Mapping[str, tf.Variable]
    updates: tf.Variable
    copies: Sequence[tf.Variable] = ()
    texts: Sequence[tf.Variable] = ()

    @property
    def parameters(self) -> tf.Variable:
        """The replica [size]: the server parameters as pulled, moved since by local updates if there are any."""
        return self.vectors[REPLICA]

    def assign(self, changed: Mapping[str, Any]) -> list[Any]:
        """Gives the vectors of these names new values; the operations that do so."""
        return [self.vectors[name].assign(value, read_value=False) for name, value in changed.items()]


class LocalUpdate(NamedTuple):
    """How a worker moves its own replica.

    Attributes:
      optimizer: the equation of the update.
      learning_rate: of this step, a scalar.
      clip_norm: largest norm of the mean gradient; 0 for no clipping.
      steps: steps of the worker after which it moves its replica no more; None for never.
    """

    optimizer: Optimizer
    learning_rate: tf.Tensor
    clip_norm: float
    steps: int | None


def mean_norm(gradient_sum: tf.Tensor, target_tokens: tf.Tensor) -> tf.Tensor:
    """The norm of g / T; the norm of g where T is 0."""
    return tf.sqrt(2 * tf.nn.l2_loss(gradient_sum)) / tf.maximum(target_tokens, 1)


def clipped_mean(gradient_sum: tf.Tensor, target_tokens: tf.Tensor, clip_norm: float) -> tf.Tensor:
    """The mean gradient g / T [size], no longer than `clip_norm`."""
    factor = clip_factor(mean_norm(gradient_sum, target_tokens), clip_norm)
    return gradient_sum * (factor / tf.maximum(target_tokens, 1))


def move_replica(
    local: LocalUpdate, replica: Replica, gradient_sum: tf.Tensor, target_tokens: tf.Tensor, step: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One local update w ← Opt(w, g / T), unless the gradient is not finite.

    The optimizer reads `replica.updates` and not `step`, because slots may be younger than their worker: Adam would
    correct its moments by too many updates.

    Args:
      local: the update.
      replica: moved in place.
      gradient_sum: g [size].
      target_tokens: T, a scalar.
      step: steps of the worker before this one, an int64 scalar.

    Returns:
      Whether the replica was moved; whether the gradient was refused; its first element that is not finite, or -1.
    """
    tokens = tf.cast(target_tokens, gradient_sum.dtype)
    norm = mean_norm(gradient_sum, tokens)
    wanted = tokens > 0 if local.steps is None else (tokens > 0) & (step < local.steps)
    finite = tf.math.is_finite(norm)

    def apply() -> tf.Tensor:
        mean = gradient_sum * (clip_factor(norm, local.clip_norm) / tokens)
        slots, updates = {name: slot.handle for name, slot in replica.slots.items()}, replica.updates.read_value()
        local.optimizer.apply(replica.parameters.handle, slots, mean, local.learning_rate, updates)
        replica.updates.assign(updates + 1)
        return tf.constant(True)

    moved = tf.cond(wanted & finite, apply, lambda: tf.constant(False))
    refused = wanted & ~finite
    return moved, refused, tf.cond(refused, lambda: first_nonfinite(gradient_sum), lambda: tf.constant(-1, tf.int64))
