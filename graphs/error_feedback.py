"""Error feedback: what an encoding does not send is kept, and added to what is sent next.

With g what is to be sent, r what was kept, C encoding and decoding:

    q = C(g + r);   r ← g + r - q

So q + r is what went in, exactly, and everything is sent in the end: the sum of all q and the last r are the sum of all
g (Seide et al., 2014; Karimireddy et al., 2019).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from graphs.encodings import Encoding
from graphs.reduce_average import first_nonfinite

RESIDUAL = "residual"
"""The name of what a worker has kept of its payloads."""


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
