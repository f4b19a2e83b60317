"""What workers push: sums of gradients, sums of mean gradients, or parameter deltas.

Each class has the functions of `graphs.exchange.Exchange`, which the graph of a block calls.

>>> import numpy as np
>>> exchange = ParameterDelta()
>>> held = exchange.pull({}, np.array([1.0, 2.0]))
>>> payload, _ = exchange.push({**held, REPLICA: np.array([1.5, 1.0])})
>>> payload.tolist()
[0.5, -1.0]
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from graphs.exchange import Gradient, Vectors
from graphs.local_steps import REPLICA
from graphs.work import Sums


class GradientSum:
    """A worker pulls w = θ, adds up the gradients of its steps, g ← g + Σ∇, and pushes g with its target tokens T.

    The servers add up the payloads of an update and divide once, by the sum of all T. So a long batch weighs more than
    a short one, and N workers equal one worker with the joined batch.
    """

    name = "gradient sum"
    keeps: Sequence[str] = ("gathered",)
    saved: Sequence[str] = ()
    trains_replicas = False
    clips_at_servers = True

    def pull(self, held: Vectors, servers: tf.Tensor) -> Vectors:
        """See `graphs.exchange.Exchange`."""
        return {REPLICA: servers}

    def gather(self, held: Vectors, gradient: Gradient, first: bool) -> Vectors:
        """See `graphs.exchange.Exchange`."""
        return {"gathered": gradient.sum if first else held["gathered"] + gradient.sum}

    def push(self, held: Vectors) -> tuple[Any, Vectors]:
        """See `graphs.exchange.Exchange`."""
        return held["gathered"], {}

    def weight(self, sums: Sums) -> Any:
        """The target tokens T."""
        return sums.target_tokens

    def averaged(self, sums: Sums) -> tuple[Any, Any]:
        """All target tokens and batches of the sum."""
        return sums.target_tokens, sums.batches


class StepSum(GradientSum):
    """A worker adds up the mean gradients of its steps, each clipped, g ← g + ∇ / T, and pushes g.

    A payload of k steps moves the servers as far as k steps of plain SGD would (Dean et al., 2012). With `GradientSum`
    the k steps would be one step on a larger batch.
    """

    name = "sum of mean gradients"
    clips_at_servers = False

    def gather(self, held: Vectors, gradient: Gradient, first: bool) -> Vectors:
        """See `graphs.exchange.Exchange`."""
        return {"gathered": gradient.mean() if first else held["gathered"] + gradient.mean()}

    def weight(self, sums: Sums) -> Any:
        """One; 0 for a payload without a target token."""
        return tf.minimum(tf.cast(sums.target_tokens, tf.float64), 1.0)

    def averaged(self, sums: Sums) -> tuple[Any, Any]:
        """The target tokens and batches of one step, the mean over the steps."""
        steps = max(sums.steps, 1)
        return sums.target_tokens / steps, sums.batches / steps


class ParameterDelta:
    """A worker pulls w = θ, trains w by its local optimizer, and pushes w - θ; the servers read the mean delta."""

    name = "parameter delta"
    keeps: Sequence[str] = ("pulled",)
    saved: Sequence[str] = ()
    trains_replicas = True
    clips_at_servers = False

    def pull(self, held: Vectors, servers: tf.Tensor) -> Vectors:
        """See `graphs.exchange.Exchange`."""
        return {REPLICA: servers, "pulled": servers}

    def gather(self, held: Vectors, gradient: Gradient, first: bool) -> Vectors:
        """See `graphs.exchange.Exchange`."""
        return {}

    def push(self, held: Vectors) -> tuple[Any, Vectors]:
        """See `graphs.exchange.Exchange`."""
        return held[REPLICA] - held["pulled"], {}

    def weight(self, sums: Sums) -> Any:
        """One; 0 where every step was refused, so that the delta is zero."""
        return tf.minimum(tf.cast(sums.steps - sums.refused, tf.float64), 1.0)

    def averaged(self, sums: Sums) -> tuple[Any, Any]:
        """All target tokens and batches; the servers apply no gradient, so no law reads them."""
        return sums.target_tokens, sums.batches
