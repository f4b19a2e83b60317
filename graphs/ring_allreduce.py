"""The ring-allreduce subgraph: every rank's payload to their sum on every rank.

The transport leaves the same bits on all ranks: Gloo, MPI and NCCL add up each part of the vector on one of them and
hand the result round. A payload that is not finite is left out, as servers would refuse it: it travels as zeros of no
weight.

The bandwidth-optimal ring: Patarasuk & Yuan, 2009; Horovod: Sergeev & Del Balso, 2018.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from graphs.reduce_average import first_nonfinite
from tfnmt.layout import Layout
from tfnmt.transport import Transport

_HALF_SCALE = 256.0
"""What a mean travels multiplied by in 16 bits: its usual elements are then far from the smallest and the largest."""


def ring_allreduce(
    transport: Transport, payload: Sequence[tf.Variable], weight: tf.Tensor, numbers: tf.Tensor, half: bool = False
) -> tf.Tensor:
    """Replaces the payload by the sum of all ranks' payloads.

    Args:
      transport: to the other ranks.
      payload: variables [size]: a gradient sum or a delta; behind it, slots.
      weight: what it counts when the sum is divided, a float64 scalar.
      numbers: float64 [k], handed to everybody as they are.
      half: whether the payload travels in 16 bits, as a mean.

    Returns:
      float64 [N, 2 + k]: of each rank the weight that counted, the first element of its payload that was not finite or
      -1, and its numbers.
    """
    # One vector, one sum: Horovod would fuse several as their timing has it, and so change the order of the additions.
    own = _joined(payload)
    nonfinite_at = _first_nonfinite([own])
    counts = (nonfinite_at < 0) & (weight > 0)
    kept = tf.cond(counts, lambda: own, lambda: tf.zeros_like(own))
    table = _exchange(transport, tf.where(counts, weight, tf.zeros_like(weight)), nonfinite_at, numbers)
    summed = _sum_in_half(transport, kept, tf.reduce_sum(table[:, 0])) if half else transport.allreduce(kept, "payload")
    for variable, vector in zip(payload, tf.split(summed, len(payload)) if len(payload) > 1 else [summed]):
        variable.assign(vector)
    return table


def pack_sums(
    transport: Transport, layout: Layout, pieces: int, nonfinite_at: tf.Variable, gradients: Mapping[str, tf.Tensor]
) -> tf.Tensor:
    """The vector [size] of the sums of all ranks' gradients, in pieces that overlap with the backward pass.

    Each piece is on its way as soon as backward has come so far. So what is not finite on one rank is so on all.

    Args:
      transport: to the other ranks.
      layout: of the vector, in one shard.
      pieces: how many, at most.
      nonfinite_at: int64 scalar, set to the first element of this rank's own gradient that is not finite, or -1.
      gradients: this rank's by name.
    """
    own = [part.pack(gradients) for part in layout.split(pieces)]
    nonfinite_at.assign(_first_nonfinite(own))
    return tf.concat([transport.allreduce(piece, f"piece_{number}") for number, piece in enumerate(own)], axis=0)


def exchange_numbers(
    transport: Transport,
    summed: Sequence[tf.Variable],
    weight: tf.Tensor,
    numbers: tf.Tensor,
    nonfinite_at: tf.Variable,
) -> tf.Tensor:
    """The table that `ring_allreduce` returns, of what `pack_sums` has summed; no weight counts if it is not finite."""
    finite = tf.math.is_finite(tf.nn.l2_loss(_joined(summed)))
    return _exchange(transport, tf.where(finite, weight, tf.zeros_like(weight)), nonfinite_at.read_value(), numbers)


def parameter_sums(layout: Layout, parameters: tf.Variable) -> tf.Tensor:
    """The sum of the bits of each parameter, int64 [parameters]: equal on ranks whose copies are."""
    words = tf.bitcast(parameters.read_value(), tf.int32 if parameters.dtype.size == 4 else tf.int64)
    views = layout.unpack(tf.cast(words, tf.int64))
    return tf.stack([tf.reduce_sum(views[parameter.name]) for parameter in layout.parameters])


def _joined(payload: Sequence[tf.Variable]) -> tf.Tensor:
    vectors = [variable.read_value() for variable in payload]
    return tf.concat(vectors, axis=0) if len(vectors) > 1 else vectors[0]


def _first_nonfinite(pieces: Sequence[tf.Tensor]) -> tf.Tensor:
    """The place in the whole vector; -1 when every element is finite."""
    finite = tf.math.is_finite(tf.add_n([tf.nn.l2_loss(piece) for piece in pieces]))
    return tf.cond(finite, lambda: tf.constant(-1, tf.int64), lambda: first_nonfinite(tf.concat(pieces, axis=0)))


def _exchange(transport: Transport, weight: tf.Tensor, nonfinite_at: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    row = tf.concat([tf.stack([weight, tf.cast(nonfinite_at, tf.float64)]), numbers], axis=0)
    return transport.allgather(row[tf.newaxis], "table")


def _sum_in_half(transport: Transport, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    scale = tf.cast(_HALF_SCALE / tf.maximum(weight, 1.0), vector.dtype)
    return tf.cast(transport.allreduce(tf.cast(vector * scale, tf.float16), "payload"), vector.dtype) / scale
