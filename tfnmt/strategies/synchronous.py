"""Synchronous rows: all workers push a gradient, then the servers move once, by the gradient of the joined batch."""

import dataclasses

from tfnmt.optimizers.optimizers import OptimizerSettings, build_optimizer
from tfnmt.strategies.quorum import QuorumSettings
from tfnmt.strategies.row import Strategy


@dataclasses.dataclass(frozen=True)
class Single:
    """Plain training: one worker, every one of whose gradients is an update."""

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        return Strategy(build_optimizer(optimizer), most_workers=1)


@dataclasses.dataclass(frozen=True)
class Sync(QuorumSettings):
    """Synchronous data parallelism: one update for one gradient of each worker."""

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        return self.with_quorum(Strategy(build_optimizer(optimizer), quorum=workers))


@dataclasses.dataclass(frozen=True)
class RingAllreduce:
    """Synchronous data parallelism whose workers sum their gradients in a ring; each moves its own copy."""

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        return Strategy(build_optimizer(optimizer), quorum=workers, ring=True)
