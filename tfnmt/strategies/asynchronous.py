"""Asynchronous rows: no worker waits for another, unless `--slack` bounds how far the fastest may be ahead.

Sources: Dean et al. 2012 (Downpour); Bogoychev et al. 2018 (delayed updates, local optimizers); Aji & Heafield 2019
(summed updates). What becomes of stale payloads stands in `graphs.staleness`.
"""

import dataclasses

from graphs.staleness import Staleness
from tfnmt.optimizers.optimizers import OptimizerSettings, Sgd, build_optimizer, local_optimizer
from tfnmt.settings import setting
from tfnmt.strategies.exchanges import StepSum
from tfnmt.strategies.row import Meetings, Strategy, speed_faults


@dataclasses.dataclass(frozen=True)
class StaleRates:
    """The flags of rows whose payloads may be stale."""

    staleness_exponent: float = setting(
        0.0,
        "A push that is s updates old counts at the learning rate over (1 + s) to the power of this, a delta as much "
        "less; 0 for all of it, 1 for the rate over 1 + s.",
        minimum=0,
    )
    max_staleness: int | None = setting(
        None, "Servers drop a push that is more updates old than this; empty for no limit.", minimum=0
    )


@dataclasses.dataclass(frozen=True)
class FreeRunning(StaleRates):
    """The flags of every row whose servers move by gradients as these come."""

    slack: int | None = setting(
        None, "Blocks that the fastest worker may be ahead of the slowest; empty for no limit.", minimum=1
    )

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        staleness = Staleness(self.staleness_exponent, self.max_staleness)
        return Strategy(build_optimizer(optimizer), slack=self.slack, staleness=staleness)


@dataclasses.dataclass(frozen=True)
class Async(FreeRunning):
    """Asynchronous SGD: the servers make an update of every push as soon as it comes."""

    compensation_lambda: float = setting(
        0.0,
        "Servers correct a stale gradient g by this times g squared times the parameters' move since its pull "
        "(DC-ASGD; published values are 0.04 to 2), and hold what was pulled for each push; 0 for not at all.",
        minimum=0,
    )

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        row = super().row(workers, optimizer)
        staleness = dataclasses.replace(row.staleness, compensation=self.compensation_lambda)
        return dataclasses.replace(row, staleness=staleness)


@dataclasses.dataclass(frozen=True)
class Downpour(FreeRunning):
    """Downpour SGD (Dean et al., 2012): workers train on between pulls, and push the sum of their steps' gradients.

    No gradient is compensated: the square of such a sum does not say how each of its gradients would change.
    """

    push_every: int = setting(5, "Steps between two pushes.", minimum=1)
    pull_every: int = setting(5, "Steps between two pulls.", minimum=1)
    local_rate: float = setting(
        1.0,
        "Between pulls a worker moves its replica by plain SGD at so many times the learning rate; 0 for not at all.",
        minimum=0,
    )
    blocks_by_speed: bool = setting(
        False,
        "The fastest worker does all --push_every steps between two pushes, and every other one as many as it does "
        "meanwhile, by the speeds measured so far, so that all push equally often.",
    )

    def faults(self) -> list[str]:
        """Blocks in which there is nothing to be left out, or that are in parts."""
        if not self.blocks_by_speed:
            return []
        if self.pull_every % self.push_every:
            return [
                f"--blocks_by_speed: with --pull_every={self.pull_every} a worker pulls between two pushes; give a "
                f"multiple of --push_every={self.push_every}."
            ]
        return speed_faults("push_every", self.push_every)

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        meetings = Meetings.every(self.pull_every, self.push_every)
        return dataclasses.replace(
            super().row(workers, optimizer),
            exchange=StepSum(),
            meetings=dataclasses.replace(meetings, by_speed=self.blocks_by_speed),
            local_update=Sgd() if self.local_rate else None,
            local_rate=self.local_rate,
        )


@dataclasses.dataclass(frozen=True)
class DelayedAsync(Async):
    """Asynchronous SGD whose workers accumulate τ gradients for each push, at first with a local optimizer.

    The ramp of τ is that of the published code, but for what it counts: there, each worker its own batches.
    """

    delay: int = setting(2, "Steps for each push, τ.", minimum=1)
    delay_ramp_batches: int = setting(
        0,
        "Batches of all workers, behind a warm start, in equal parts of which τ is 1, 2 and so on, before it is "
        "--delay; 0 for --delay from the start. The batches of one step count as one.",
        minimum=0,
    )
    local_optimizer_batches: int = setting(
        3000,
        "Batches of all workers, behind a warm start, for which each also moves its replica by a local Adam; 0 for "
        "none. The batches of one step count as one.",
        minimum=0,
    )
    local_adam_beta1: float = setting(0.93, "Decay of the local Adam's first moment.", minimum=0, below=1)
    local_adam_beta2: float = setting(0.997, "Decay of the local Adam's second moment.", minimum=0, below=1)

    def faults(self) -> list[str]:
        """A ramp that goes nowhere."""
        if self.delay_ramp_batches and self.delay == 1:
            return ["--delay_ramp_batches: no delay is less than --delay=1; leave it out."]
        return []

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
            meetings=dataclasses.replace(
                Meetings.every(self.delay, self.delay), ramp_steps=-(-self.delay_ramp_batches // workers)
            ),
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
