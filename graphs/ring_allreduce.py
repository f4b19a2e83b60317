"""The ring-allreduce subgraph: every rank's payload to their sum on every rank, over Horovod.

Gloo, MPI and NCCL add up each part of the vector on one rank and hand the result round, so that all ranks hold the same
bits. A payload that is not finite is left out, as servers would refuse it: it travels as zeros of no weight.

The bandwidth-optimal ring: Patarasuk & Yuan, 2009; Horovod: Sergeev & Del Balso, 2018.
"""

import horovod.tensorflow as hvd
import tensorflow as tf

from graphs.reduce_average import first_nonfinite
from tfnmt.layout import Layout

_HALF_SCALE = 256.0
"""What a mean travels multiplied by in 16 bits: its usual elements are then far from the smallest and the largest."""


def ring_allreduce(payload: tf.Variable, weight: tf.Tensor, numbers: tf.Tensor, half: bool = False) -> tf.Tensor:
    """Replaces the payload by the sum of all ranks' payloads.

    Args:
      payload: variable [size], a gradient sum or a delta.
      weight: what it counts when the sum is divided, a float64 scalar.
      numbers: float64 [k], handed to everybody as they are.
      half: whether the payload travels in 16 bits, as a mean.

    Returns:
      float64 [N, 2 + k]: of each rank the weight that counted, the first element of its payload that was not finite or
      -1, and its numbers.
    """
    own = payload.read_value()
    finite = tf.math.is_finite(tf.nn.l2_loss(own))
    nonfinite_at = tf.cond(finite, lambda: tf.constant(-1, tf.int64), lambda: first_nonfinite(own))
    kept = tf.cond(finite, lambda: own, lambda: tf.zeros_like(own))
    weight = tf.where(finite, weight, tf.zeros_like(weight))
    row = tf.concat([tf.stack([weight, tf.cast(nonfinite_at, tf.float64)]), numbers], axis=0)
    table = hvd.allgather(row[tf.newaxis], name="table")
    payload.assign(_sum_in_half(kept, tf.reduce_sum(table[:, 0])) if half else _sum(kept))
    return table


def parameter_sums(layout: Layout, parameters: tf.Variable) -> tf.Tensor:
    """The sum of the bits of each parameter, int64 [parameters]: equal on ranks whose copies are."""
    words = tf.bitcast(parameters.read_value(), tf.int32 if parameters.dtype.size == 4 else tf.int64)
    views = layout.unpack(tf.cast(words, tf.int64))
    return tf.stack([tf.reduce_sum(views[parameter.name]) for parameter in layout.parameters])


def _sum(vector: tf.Tensor) -> tf.Tensor:
    return hvd.allreduce(vector, op=hvd.Sum, name="payload")


def _sum_in_half(vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    scale = tf.cast(_HALF_SCALE / tf.maximum(weight, 1.0), vector.dtype)
    return tf.cast(_sum(tf.cast(vector * scale, tf.float16)), vector.dtype) / scale
