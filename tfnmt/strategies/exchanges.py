"""What workers and servers exchange: the functions of `graphs.block.Exchange` for gradients and for replicas.

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

from graphs.block import Gradient, Vectors
from graphs.local_steps import REPLICA
from graphs.work import Sums


class GradientSum:
    """A worker pulls w = θ, gathers the sum of its gradients, g += Σ∇, and pushes g with its target tokens T.

    The servers divide the sum of several payloads once by the sum of their tokens, so that a long batch weighs more
    than a short one and N workers are one worker with N times the batch.
    """

    name = "gradient sum"
    keeps: Sequence[str] = ("gathered",)
    saved: Sequence[str] = ()
    trains_replicas = False
    clips_at_servers = True

    def pull(self, held: Vectors, servers: tf.Tensor) -> Vectors:
        """See `graphs.block.Exchange`."""
        return {REPLICA: servers}

    def gather(self, held: Vectors, gradient: Gradient, first: bool) -> Vectors:
        """See `graphs.block.Exchange`."""
        return {"gathered": gradient.sum if first else held["gathered"] + gradient.sum}

    def push(self, held: Vectors) -> tuple[Any, Vectors]:
        """See `graphs.block.Exchange`."""
        return held["gathered"], {}

    def weight(self, sums: Sums) -> Any:
        """Target tokens T."""
        return sums.target_tokens

    def averaged(self, sums: Sums) -> tuple[Any, Any]:
        """All that were summed."""
        return sums.target_tokens, sums.batches


class StepSum(GradientSum):
    """A worker gathers the mean gradient of each of its steps, g += ∇ / T, clipped, and pushes their sum.

    So a payload of k steps moves the servers as k steps of plain SGD would (Dean et al., 2012): where `GradientSum`
    makes one larger batch of them, this makes several steps.
    """

    name = "sum of mean gradients"
    clips_at_servers = False

    def gather(self, held: Vectors, gradient: Gradient, first: bool) -> Vectors:
        """See `graphs.block.Exchange`."""
        return {"gathered": gradient.mean() if first else held["gathered"] + gradient.mean()}

    def weight(self, sums: Sums) -> Any:
        """One, unless there was nothing in it."""
        return tf.minimum(tf.cast(sums.target_tokens, tf.float64), 1.0)

    def averaged(self, sums: Sums) -> tuple[Any, Any]:
        """Those of one step."""
        steps = max(sums.steps, 1)
        return sums.target_tokens / steps, sums.batches / steps


class ParameterDelta:
    """A worker pulls w = θ, trains w by itself, and pushes w - θ; the servers move by the mean of such deltas."""

    name = "parameter delta"
    keeps: Sequence[str] = ("pulled",)
    saved: Sequence[str] = ()
    trains_replicas = True
    clips_at_servers = False

    def pull(self, held: Vectors, servers: tf.Tensor) -> Vectors:
        """See `graphs.block.Exchange`."""
        return {REPLICA: servers, "pulled": servers}

    def gather(self, held: Vectors, gradient: Gradient, first: bool) -> Vectors:
        """See `graphs.block.Exchange`."""
        return {}

    def push(self, held: Vectors) -> tuple[Any, Vectors]:
        """See `graphs.block.Exchange`."""
        return held[REPLICA] - held["pulled"], {}

    def weight(self, sums: Sums) -> Any:
        """One, unless not one step of it could be done."""
        return tf.minimum(tf.cast(sums.steps - sums.refused, tf.float64), 1.0)

    def averaged(self, sums: Sums) -> tuple[Any, Any]:
        """No gradient is applied by the servers."""
        return sums.target_tokens, sums.batches
