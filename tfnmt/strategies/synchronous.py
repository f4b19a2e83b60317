"""Synchronous rows: every update is that of the joined batch of all workers."""

import dataclasses

from tfnmt.optimizers.optimizers import OptimizerSettings, build_optimizer
from tfnmt.strategies.row import Strategy


@dataclasses.dataclass(frozen=True)
class Single:
    """One worker that owns its parameters."""

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """The columns for as many workers."""
        return Strategy(build_optimizer(optimizer), most_workers=1)


@dataclasses.dataclass(frozen=True)
class Sync:
    """Synchronous data parallelism: the update of the joined batch."""

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """The columns for as many workers."""
        return Strategy(build_optimizer(optimizer), quorum=workers)


@dataclasses.dataclass(frozen=True)
class RingAllreduce(Sync):
    """Synchronous data parallelism whose workers sum their gradients in a ring, each with a copy of the optimizer."""

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """The columns for as many workers."""
        return dataclasses.replace(super().row(workers, optimizer), ring=True)
