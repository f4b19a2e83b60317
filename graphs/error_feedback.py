"""Error feedback: what an encoding does not send is kept, and added to what is sent next.

With g what is to be sent, r what was kept, C encoding and decoding:

    q = C(g + r);   r ← g + r - q

So q + r is what went in, exactly, and everything is sent in the end: the sum of all q and the last r are the sum of all
g (Seide et al., 2014; Karimireddy et al., 2019).

On the way back the servers hold a copy v of what each worker knows of the parameters θ, and send what it lacks:

    q = C(θ - v);   v ← v + q   on both sides

So θ - v is what the servers have kept, and all that a worker has pulled adds up to θ but for that (two-way compression:
Tang et al., 2019).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from graphs.encodings import Encoding
from graphs.fragments import WHOLE_VECTOR, Fragment
from graphs.reduce_average import ServerShard, first_nonfinite

RESIDUAL, KNOWN = "residual", "known"
"""The names of what a worker has kept of its payloads, and of what it knows of the parameters."""


class Sent(NamedTuple):
    """What becomes of a payload [size] that is encoded in parts."""

    parts: Sequence[tf.Tensor]  # encoded
    residual: tf.Tensor  # [size]
    nonfinite_at: tf.Tensor  # int64 scalar, the payload's first element that is not finite, or -1


def send(
    encoding: Encoding,
    split: Callable[[tf.Tensor], Sequence[tf.Tensor]],
    payload: tf.Tensor,
    residual: tf.Tensor,
    weight: tf.Tensor,
) -> Sent:
    """Encodes a payload and what was kept of those before.

    What the servers will refuse changes nothing of what was kept: a payload that is not finite, or weighs nothing. Of
    the first every element travels as infinite, or the largest ones could be sent and not the one that is no number.

    Args:
      encoding: of each part.
      split: vector [size] -> its parts.
      payload: g [size].
      residual: r [size].
      weight: of the payload, a scalar.
    """
    whole = payload + residual
    finite = tf.math.is_finite(tf.nn.l2_loss(whole))
    infinity = tf.constant(float("inf"), whole.dtype)
    sizes = [part.shape[0] for part in split(payload)]
    parts = [encoding.encode(part, weight) for part in split(tf.where(finite, whole, infinity))]
    sent = [encoding.decode(part, weight, size, whole.dtype) for part, size in zip(parts, sizes)]
    kept = tf.where(finite & (weight > 0), whole - tf.concat(sent, axis=0), residual)
    place = tf.cond(finite, lambda: tf.constant(-1, tf.int64), lambda: first_nonfinite(whole))
    return Sent(parts, kept, place)


def pull_whole(shards: Sequence[ServerShard], copies: Sequence[tf.Variable]) -> tf.Tensor:
    """The parameters [size] as they are, which the worker of these copies knows then.

    Args:
      shards: of the servers.
      copies: on each server, the variable for its part of what the worker knows.
    """
    parts = []
    for shard, copy in zip(shards, copies):
        with tf.device(shard.device):
            parts.append(shard.parameters.read_value())
            copy.assign(parts[-1])
    return tf.concat(parts, axis=0)


def pull_change(
    encoding: Encoding,
    shards: Sequence[ServerShard],
    copies: Sequence[tf.Variable],
    known: tf.Tensor,
    fragment: Fragment = WHOLE_VECTOR,
) -> tf.Tensor:
    """What the worker of these copies knows [size] of the parameters, once it has pulled what it lacks.

    Args:
      encoding: of the change, by each server for its part.
      shards: of the servers.
      copies: on each server, the variable for its part of what the worker knows.
      known: what the worker knows of the fragment.
      fragment: of which the change is pulled.
    """
    size, dtype = shards[0].parameters.shape[0], known.dtype

    def give(shard: ServerShard, copy: tf.Variable) -> tf.Tensor:
        with tf.device(shard.device):
            change = shard.parameters.read_value() - copy.read_value()
            encoded = encoding.encode(change, tf.ones([], tf.float64))
            copy.assign_add(_change(encoding, encoded, size, dtype))
            return encoded

    # Decoded once more, by the worker: the encoded numbers travel.
    given = fragment.on_each_server(give, shards, copies)
    return known + tf.concat([_change(encoding, encoded, size, dtype) for encoded in given], axis=0)


def _change(encoding: Encoding, encoded: tf.Tensor, size: int, dtype: tf.DType) -> tf.Tensor:
    """The change that was encoded; what does not fit into its numbers is not sent yet."""
    decoded = encoding.decode(encoded, tf.ones([], tf.float64), size, dtype)
    return tf.where(tf.math.is_finite(decoded), decoded, tf.zeros_like(decoded))
