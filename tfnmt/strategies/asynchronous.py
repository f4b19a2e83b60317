"""Asynchronous rows: no worker waits for another, unless `--slack` bounds how far the fastest may be ahead.

Sources: Dean et al. 2012 (Downpour); Bogoychev et al. 2018 (delayed updates, local optimizers); Aji & Heafield 2019
(summed updates).
"""

import dataclasses

from tfnmt.optimizers.optimizers import OptimizerSettings, Sgd, build_optimizer, local_optimizer
from tfnmt.settings import setting
from tfnmt.strategies.exchanges import StepSum
from tfnmt.strategies.row import Meetings, Strategy


@dataclasses.dataclass(frozen=True)
class Async:
    """Asynchronous SGD: the servers make an update of every push as soon as it comes."""

    slack: int | None = setting(
        None, "Blocks that the fastest worker may be ahead of the slowest; empty for no limit.", minimum=1
    )

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        return Strategy(build_optimizer(optimizer), slack=self.slack)


@dataclasses.dataclass(frozen=True)
class Downpour(Async):
    """Downpour SGD (Dean et al., 2012): workers train on between pulls, and push the sum of their steps' gradients."""

    push_every: int = setting(5, "Steps between two pushes.", minimum=1)
    pull_every: int = setting(5, "Steps between two pulls.", minimum=1)
    local_rate: float = setting(
        1.0,
        "Between pulls a worker moves its replica by plain SGD at so many times the learning rate; 0 for not at all.",
        minimum=0,
    )

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        return dataclasses.replace(
            super().row(workers, optimizer),
            exchange=StepSum(),
            meetings=Meetings.every(self.pull_every, self.push_every),
            local_update=Sgd() if self.local_rate else None,
            local_rate=self.local_rate,
        )


@dataclasses.dataclass(frozen=True)
class DelayedAsync(Async):
    """Asynchronous SGD whose workers accumulate τ gradients for each push, at first with a local optimizer."""

    delay: int = setting(2, "Steps for each push, τ.", minimum=1)
    local_optimizer_batches: int = setting(
        3000,
        "Batches of all workers, behind a warm start, for which each also moves its replica by a local Adam; 0 for "
        "none. The batches of one step count as one.",
        minimum=0,
    )
    local_adam_beta1: float = setting(0.93, "Decay of the local Adam's first moment.", minimum=0, below=1)
    local_adam_beta2: float = setting(0.997, "Decay of the local Adam's second moment.", minimum=0, below=1)

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        local = dataclasses.replace(
            optimizer,
            optimizer="adam",
            adam_beta1=self.local_adam_beta1,
            adam_beta2=self.local_adam_beta2,
        )
        return dataclasses.replace(
            super().row(workers, optimizer),
            meetings=Meetings.every(self.delay, self.delay),
            local_update=local_optimizer(local) if self.local_optimizer_batches else None,
            local_update_steps=-(-self.local_optimizer_batches // workers),  # batches of all, steps of each
        )


@dataclasses.dataclass(frozen=True)
class SummedAsync(Async):
    """Asynchronous SGD whose servers sum K pushes for each update."""

    summed_pushes: int | None = setting(None, "Pushes for each update, K; empty for the number of workers.", minimum=1)

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        return dataclasses.replace(super().row(workers, optimizer), quorum=self.summed_pushes or workers)
