"""The reduce-average subgraph: payloads to one server update, where the server's variables live."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from tfnmt.optimizers.optimizers import Optimizer


class Server:
    """What a server holds: its parameters, the optimizer's slots, and how many updates it has applied.

    Attributes:
      parameters: variable [size].
      slots: variables [size] by name.
      version: updates applied so far, int64.
      average: exponential moving average of the parameters, variable [size]; None when there is none.
    """

    def __init__(self, initial: tf.Tensor, optimizer: Optimizer, averaged: bool = False):
        self.parameters = tf.Variable(initial, trainable=False, name="parameters")
        self.slots = {
            name: tf.Variable(tf.fill(tf.shape(initial), tf.constant(first, initial.dtype)), trainable=False, name=name)
            for name, first in optimizer.slots.items()
        }
        self.version = tf.Variable(0, dtype=tf.int64, trainable=False, name="version")
        self.average = tf.Variable(initial, trainable=False, name="average") if averaged else None

    def vectors(self) -> Mapping[str, tf.Variable]:
        """All vectors by name: what a checkpoint holds of this server beside the version."""
        average = {} if self.average is None else {"average": self.average}
        return {"parameters": self.parameters, **self.slots, **average}


class Update(NamedTuple):
    """What became of one server update."""

    applied: tf.Tensor  # bool scalar; False when the gradient was not finite
    gradient_norm: tf.Tensor  # scalar, of the mean gradient before clipping
    learning_rate: tf.Tensor  # scalar
    nonfinite_at: tf.Tensor  # int64 scalar: first element that is not finite; -1 when all are


def server_update(
    server: Server,
    optimizer: Optimizer,
    learning_rate: Callable[[tf.Tensor], tf.Tensor],
    gradient_sum: tf.Tensor,
    target_tokens: tf.Tensor,
    clip_norm: float = 0.0,
    average_rate: float = 0.0,
) -> Update:
    """Divides the gradient sum by its tokens, clips it, and moves the server; refuses what is not finite.

    Args:
      server: what is moved, in place.
      optimizer: how.
      learning_rate: the schedule, version -> scalar.
      gradient_sum: sum of the gradients of all target tokens of the update [size].
      target_tokens: their number, a scalar of the gradient's dtype. Without tokens nothing moves.
      clip_norm: largest norm of the mean gradient; 0 for no clipping.
      average_rate: smallest weight of the newest parameters in the moving average.
    """
    norm = tf.sqrt(2 * tf.nn.l2_loss(gradient_sum)) / tf.maximum(target_tokens, 1)
    rate = learning_rate(server.version)
    finite = tf.math.is_finite(norm)

    def apply() -> tf.Tensor:
        # One factor for the mean and the clipping: the vector is passed over once.
        gradient = gradient_sum * (_clip_factor(norm, clip_norm) / target_tokens)
        handles = {name: slot.handle for name, slot in server.slots.items()}
        optimizer.apply(server.parameters.handle, handles, gradient, rate, server.version)
        _move_average(server, average_rate)
        server.version.assign_add(1)
        return tf.constant(-1, tf.int64)

    applied = finite & (target_tokens > 0)
    nonfinite_at = tf.cond(applied, apply, lambda: _first_nonfinite(gradient_sum))
    return Update(applied, norm, rate, nonfinite_at)


def _clip_factor(norm: tf.Tensor, clip_norm: float) -> tf.Tensor:
    return tf.minimum(clip_norm / norm, 1) if clip_norm else tf.ones_like(norm)


def _move_average(server: Server, rate: float) -> None:
    """a ← a + d (θ - a), d = max(rate, 1 - (t + 1) / (t + 10)): short memory at first (Marian's smoothing)."""
    if server.average is None:
        return
    updates = tf.cast(server.version, server.average.dtype)
    weight = tf.maximum(tf.cast(rate, updates.dtype), 1 - (updates + 1) / (updates + 10))
    server.average.assign_add(weight * (server.parameters - server.average))


def _first_nonfinite(vector: tf.Tensor) -> tf.Tensor:
    broken = tf.logical_not(tf.math.is_finite(vector))
    return tf.where(tf.reduce_any(broken), tf.argmax(broken, output_type=tf.int64), tf.constant(-1, tf.int64))
