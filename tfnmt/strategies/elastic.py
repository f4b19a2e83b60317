"""Elastic averaging: a spring ties each worker's replica to the servers' parameters (Zhang et al., NeurIPS 2015).

Every H steps of worker i, with w its replica and θ what the servers hold:

    e = ρ (w - θ);   w ← w - e;   θ ← θ + e,   ρ = β / N

so each keeps its own way, where model averaging replaces every replica by the mean. In the synchronous form,
`--elastic_barrier`, all N workers pull one and the same θ.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from graphs.actions import PULL, PUSH
from graphs.exchange import Vectors
from graphs.local_steps import REPLICA
from graphs.work import Sums
from tfnmt.optimizers.optimizers import OptimizerSettings, local_optimizer
from tfnmt.settings import setting
from tfnmt.strategies.averaging import AddSum
from tfnmt.strategies.exchanges import ParameterDelta
from tfnmt.strategies.row import Meetings, Strategy


class ElasticDifference(ParameterDelta):
    """A worker pulls θ without touching its replica w, pushes ρ (w - θ), and subtracts as much from w.

    >>> import numpy as np
    >>> exchange = ElasticDifference(0.25)
    >>> held = {REPLICA: np.array([4.0]), **exchange.pull({}, np.array([0.0]))}
    >>> payload, changed = exchange.push(held)
    >>> payload.item(), changed[REPLICA].item()
    (1.0, 3.0)
    """

    name = "elastic difference"
    keeps: Sequence[str] = ("centre",)
    saved: Sequence[str] = (REPLICA,)

    def __init__(self, force: float):
        """Takes the force of the spring, ρ."""
        self._force = force

    def pull(self, held: Vectors, servers: tf.Tensor) -> Vectors:
        """See `graphs.exchange.Exchange`."""
        return {"centre": servers}

    def push(self, held: Vectors) -> tuple[Any, Vectors]:
        """See `graphs.exchange.Exchange`."""
        difference = self._force * (held[REPLICA] - held["centre"])
        return difference, {REPLICA: held[REPLICA] - difference}

    def weight(self, sums: Sums) -> Any:
        """One, whatever has become of the steps: the replica has moved by the difference."""
        return tf.ones([], tf.float64)


@dataclasses.dataclass(frozen=True)
class Elastic:
    """Elastic averaging: every H steps each replica and the servers' parameters pull at each other."""

    local_steps: int = setting(10, "Steps between two meetings, H.", minimum=1)
    elastic_force: float = setting(
        0.9, "Force between the servers and all replicas together, β; each of N is drawn by β/N.", above=0, maximum=1
    )
    elastic_barrier: bool = setting(False, "All workers meet at once rather than whenever each has done its steps.")

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        quorum = workers if self.elastic_barrier else 1
        return Strategy(
            AddSum(),
            exchange=ElasticDifference(self.elastic_force / workers),
            # The pull comes behind the steps: e is the difference to θ as it is at the meeting, not H steps before.
            meetings=Meetings.at([(self.local_steps, PULL), (self.local_steps, PUSH)]),
            local_update=local_optimizer(optimizer),
            quorum=quorum,
            replicas=workers,
            slack=0 if self.elastic_barrier else None,
        )
