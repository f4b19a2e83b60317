"""Stale payloads: what the servers make of one that was computed at parameters which have moved on since.

With s its staleness, the server updates between the worker's pull and this push, T its target tokens, g its mean
gradient, w the parameters as the worker pulled them, and θ as the servers hold them now:

    rate:          α ← α c,   c = (1 + s)^-a
    limit:         a payload with s > s_max is dropped
    compensation:  g ← g + λ g ⊙ g ⊙ (θ - w)

With a = 1 that is the rate of Zhang et al. ("Staleness-aware Async-SGD", IJCAI 2016), with a = 1/2 a usual choice since
Xie et al. ("Asynchronous Federated Optimization", 2019). The compensation is Zheng et al.'s (DC-ASGD, ICML 2017) with a
constant λ: the first-order term of the gradient at θ, with g ⊙ g for the diagonal of its Hessian.

Of K payloads in one update each is damped by its own c, and they are averaged by their remaining weights:

    g = Σ c T g / Σ c T,   α ← α Σ c T / ΣT

With SGD that is Σ α c T g / ΣT, each gradient at a rate of its own. An optimizer that is blind to the length of a
gradient, as Adam is, still moves by less. A payload that is not a gradient has no rate but its length: a delta becomes
c times itself.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from graphs.reduce_average import Correct, ServerShard


@dataclasses.dataclass(frozen=True)
class Staleness:
    """The constants of this module; by default stale payloads count like fresh ones.

    >>> [Staleness(exponent=1.0).share(staleness) for staleness in (0, 1, 3)]
    [1.0, 0.5, 0.25]
    >>> Staleness(limit=2).drops(2), Staleness(limit=2).drops(3), Staleness().drops(99)
    (False, True, False)

    Attributes:
      exponent: a; 0 for a rate that does not depend on the staleness.
      limit: s_max; None for no limit.
      compensation: λ; 0 for none.
    """

    exponent: float = 0.0
    limit: int | None = None
    compensation: float = 0.0

    def drops(self, staleness: int) -> bool:
        """Whether a payload is too stale."""
        return self.limit is not None and staleness > self.limit

    def share(self, staleness: int) -> float:
        """What is left of the rate, c."""
        return (1 + staleness) ** -self.exponent

    def strength(self, staleness: int) -> float:
        """λ, and 0 for a payload that is not stale."""
        return self.compensation if staleness else 0.0


def compensated(
    gradient_sum: tf.Tensor, weight: tf.Tensor, parameters: tf.Tensor, pulled: tf.Tensor, strength: tf.Tensor
) -> tf.Tensor:
    """The gradient sum [size] as it would be at the servers' parameters now, to first order: T (g + λ g ⊙ g ⊙ (θ - w)).

    >>> g, w, theta = (tf.constant([value], tf.float64) for value in (6.0, 1.0, 1.5))
    >>> compensated(g, tf.constant(2.0, tf.float64), theta, w, tf.constant(0.1, tf.float64)).numpy().tolist()
    [6.9]

    Args:
      gradient_sum: T g [size].
      weight: T, a scalar; without any the sum stays as it is.
      parameters: θ [size].
      pulled: w [size].
      strength: λ, a float64 scalar; 0 leaves every bit as it is, whatever θ and w are.
    """
    dtype = gradient_sum.dtype
    more = gradient_sum * gradient_sum * (parameters - pulled) * tf.cast(strength / tf.maximum(weight, 1), dtype)
    # Not added as zeros: the square of a long gradient may be infinite, and 0 times that is not a number.
    return tf.where((strength > 0) & (weight > 0), gradient_sum + more, gradient_sum)


def compensation(
    shards: Sequence[ServerShard], pulled: Sequence[tf.Variable], weight: tf.Tensor, strength: tf.Tensor
) -> Correct | None:
    """What compensates the pieces of a gradient sum, each on its server; None where nobody asked what was pulled.

    Args:
      shards: of the servers.
      pulled: on each server, the variable for its part of what the worker had pulled; none for no compensation.
      weight: of the gradient sum, a scalar.
      strength: λ, a float64 scalar.
    """

    def correct(pieces: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        corrected = []
        for shard, piece, before in zip(shards, pieces, pulled):
            with tf.device(shard.device):
                numbers = (shard.parameters.read_value(), before.read_value(), strength)
                corrected.append(compensated(piece, weight, *numbers))
        return corrected

    return correct if pulled else None


def pulled_of(outbox: Sequence[tf.Variable], vectors: int, shards: int, tables: int = 0) -> Sequence[tf.Variable]:
    """The variables behind the payload of so many vectors that hold what its worker pulled; none where nobody asks.

    Behind these there are two for each of so many tables of which rows travel.
    """
    return outbox[vectors * shards : len(outbox) - 2 * tables]
