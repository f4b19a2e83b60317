"""Every training strategy is one row: what a worker does between a pull and a push, and what the servers do with it.

Each class below is one row with the flags that fill its columns. No engine knows a strategy's name; each reads the
columns of a `Strategy` and refuses a row that it cannot run. `STRATEGIES` is the table.

Sources: Alibaba's distributed training of 2017 (model averaging, BMUF, Downpour; tensorflow/tensorflow pull request
11581), Dean et al. 2012 (Downpour), Chen & Huo 2016 (BMUF), Bogoychev et al. 2018 (delayed updates, local optimizers),
Aji & Heafield 2019 (summed updates).
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

from tfnmt.optimizers.block_momentum import AddMean, BlockMomentum
from tfnmt.optimizers.optimizers import Optimizer, OptimizerSettings, Sgd, build_optimizer
from tfnmt.settings import setting

GRADIENT, DELTA = "gradient sum", "parameter delta"
KEEP, RESET, AVERAGE = "keep", "reset", "average"


class Block(NamedTuple):
    """What a worker does at a stretch.

    Attributes:
      pull: whether it pulls first.
      steps: local steps.
      push: whether it pushes at the end.
      begins: whether its steps are the first since a push, so that nothing has been gathered yet.
    """

    pull: bool
    steps: int
    push: bool
    begins: bool


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One row of the table.

    Attributes:
      server_update: how the servers move on the reduced payloads.
      pull_every: steps of a worker between two pulls.
      push_every: steps of a worker between two pushes, H.
      push_after_seconds: a push comes that long after the pull even if H steps are not done; 0 for never.
      payload: GRADIENT, summed since the last push, which travels with its target tokens and is divided by them once;
        or DELTA, parameters now minus parameters as pulled, of weight one.
      local_update: how the worker moves its own replica at each step; None for not at all.
      local_update_steps: steps of a worker in this row after which it stops doing so; None for never.
      local_rate: what multiplies the learning rate of the local update.
      local_slots: what becomes of the local update's slots with each pull: KEEP; RESET, it begins anew; or AVERAGE,
        they travel behind a delta, and all workers go on from their mean.
      quorum: payloads for each server update, K.
      ring: the workers reduce among themselves and hold everything in copies; there are no servers.
      most_workers: as many as it is defined for; None for any.
      slack: blocks that the fastest worker may be ahead of the slowest; 0 is a barrier, None is no limit.
    """

    server_update: Optimizer
    pull_every: int = 1
    push_every: int = 1
    push_after_seconds: float = 0.0
    payload: str = GRADIENT
    local_update: Optimizer | None = None
    local_update_steps: int | None = None
    local_rate: float = 1.0
    local_slots: str = KEEP
    quorum: int = 1
    ring: bool = False
    most_workers: int | None = None
    slack: int | None = 0

    @property
    def averaged_slots(self) -> Mapping[str, float | None]:
        """The local update's slots, with their first values, that are averaged over the workers."""
        return self.local_update.slots if self.local_update and self.local_slots == AVERAGE else {}

    @property
    def payload_vectors(self) -> int:
        """Vectors of the parameters' size that a push brings, and a pull too."""
        return 1 + len(self.averaged_slots)

    @property
    def has_barrier(self) -> bool:
        """Whether the workers wait for each other after every block."""
        return self.slack == 0

    @property
    def pushes_gradients_at_once(self) -> bool:
        """Whether each gradient is a payload by itself."""
        return self.payload == GRADIENT and self.push_every == 1

    @property
    def steps_per_update(self) -> int:
        """Local gradients that one server update takes in."""
        return self.push_every * self.quorum

    @property
    def law_factor(self) -> int:
        """Batches over which one update is averaged, where each step reads one: the laws scale by it."""
        return self.quorum if self.payload == DELTA else self.steps_per_update

    def describe(self) -> str:
        """What makes an update, in words."""
        steps = f"{self.push_every} step{'s' if self.push_every > 1 else ''}"
        wait = {None: "nobody waits", 0: "all wait for all"}.get(self.slack, f"at most {self.slack} blocks ahead")
        return f"{self.quorum} {self.payload}{'s' if self.quorum > 1 else ''} of {steps}; {wait}"

    def cycle(self) -> tuple[Block, ...]:
        """One period of a worker's program, cut wherever it pulls or pushes."""
        period = math.lcm(self.pull_every, self.push_every)
        cuts = sorted({*range(0, period, self.pull_every), *range(0, period, self.push_every), period})
        return tuple(
            Block(start % self.pull_every == 0, end - start, end % self.push_every == 0, start % self.push_every == 0)
            for start, end in itertools.pairwise(cuts)
        )


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


@dataclasses.dataclass(frozen=True)
class ModelAverage:
    """Model averaging: every worker trains its replica for H steps, then the replicas are averaged."""

    local_steps: int = setting(100, "Steps between two averagings, H.", minimum=1)
    sync_every_seconds: float = setting(
        0.0, "Seconds after which a block ends before it has its --local_steps; 0 for never.", minimum=0
    )
    local_slots: str = setting(
        KEEP,
        "What becomes of the local optimizers' state at an averaging: each worker keeps its own, all reset theirs, or "
        "it is averaged too, for which as many more vectors travel, two with Adam.",
        choices=(KEEP, RESET, AVERAGE),
    )

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """The columns for as many workers."""
        return Strategy(
            self._server_update(workers, optimizer),
            pull_every=self.local_steps,
            push_every=self.local_steps,
            push_after_seconds=self.sync_every_seconds,
            payload=DELTA,
            local_update=_local_optimizer(optimizer),
            local_slots=self.local_slots,
            quorum=workers,
        )

    def _server_update(self, workers: int, optimizer: OptimizerSettings) -> Optimizer:
        return AddMean()


@dataclasses.dataclass(frozen=True)
class Bmuf(ModelAverage):
    """Blockwise model-update filtering: model averaging whose servers carry momentum from block to block."""

    block_learning_rate: float = setting(1.0, "Block learning rate ζ.", minimum=0)
    block_momentum: float | None = setting(
        None,
        "Block momentum rate η; empty for 1 - 1/N with N workers or, where the workers' optimizer adapts its steps, "
        "for 0, 0.2, 0.5 and 0.6 from 1, 4, 8 and 16 workers on.",
        minimum=0,
        below=1,
    )
    block_nesterov: bool = setting(True, "Nesterov's block momentum rather than the classical one.")

    def _server_update(self, workers: int, optimizer: OptimizerSettings) -> Optimizer:
        momentum = self.block_momentum
        if momentum is None:
            momentum = default_block_momentum(workers, optimizer.optimizer)
        return BlockMomentum(self.block_learning_rate, momentum, self.block_nesterov)


def default_block_momentum(workers: int, optimizer: str) -> float:
    """The block momentum η that suits so many workers with local optimizers of that name.

    1 - 1/N keeps the size of a step of plain SGD (Chen & Huo, 2016). Adaptive optimizers take steps whose size does not
    fall with the number of workers; the values of SlowMo with Adam on WMT are for them (Wang et al., 2019).
    """
    if optimizer in ("sgd", "momentum", "nesterov"):
        return 1 - 1 / workers
    return next(momentum for least, momentum in ((16, 0.6), (8, 0.5), (4, 0.2), (1, 0.0)) if workers >= least)


@dataclasses.dataclass(frozen=True)
class Async:
    """Asynchronous SGD: every push is an update, and nobody waits."""

    slack: int | None = setting(
        None, "Blocks that the fastest worker may be ahead of the slowest; empty for no limit.", minimum=1
    )

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """The columns for as many workers."""
        return Strategy(build_optimizer(optimizer), slack=self.slack)


@dataclasses.dataclass(frozen=True)
class Downpour(Async):
    """Downpour SGD: gradients are accumulated, pushed every so many steps, and parameters pulled every so many."""

    push_every: int = setting(5, "Steps between two pushes.", minimum=1)
    pull_every: int = setting(5, "Steps between two pulls.", minimum=1)
    local_rate: float = setting(
        0.0,
        "Between pulls a worker moves its replica by plain SGD at so many times the learning rate; 0 for not at all.",
        minimum=0,
    )

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """The columns for as many workers."""
        return dataclasses.replace(
            super().row(workers, optimizer),
            push_every=self.push_every,
            pull_every=self.pull_every,
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
        "none.",
        minimum=0,
    )
    local_adam_beta1: float = setting(0.93, "Decay of the local Adam's first moment.", minimum=0, below=1)
    local_adam_beta2: float = setting(0.997, "Decay of the local Adam's second moment.", minimum=0, below=1)

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """The columns for as many workers."""
        local = dataclasses.replace(
            optimizer,
            optimizer="adam",
            adam_beta1=self.local_adam_beta1,
            adam_beta2=self.local_adam_beta2,
        )
        return dataclasses.replace(
            super().row(workers, optimizer),
            push_every=self.delay,
            pull_every=self.delay,
            local_update=_local_optimizer(local) if self.local_optimizer_batches else None,
            local_update_steps=-(-self.local_optimizer_batches // workers),
        )


@dataclasses.dataclass(frozen=True)
class SummedAsync(Async):
    """Asynchronous SGD whose servers sum K pushes for each update."""

    summed_pushes: int | None = setting(None, "Pushes for each update, K; empty for the number of workers.", minimum=1)

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """The columns for as many workers."""
        return dataclasses.replace(super().row(workers, optimizer), quorum=self.summed_pushes or workers)


def _local_optimizer(settings: OptimizerSettings) -> Optimizer:
    """A worker's own, whose updates say nothing about when the servers' momentum cools down."""
    return build_optimizer(dataclasses.replace(settings, adam_cooldown_updates=0))


STRATEGIES = {
    "single": Single,
    "sync": Sync,
    "ring_allreduce": RingAllreduce,
    "model_average": ModelAverage,
    "bmuf": Bmuf,
    "downpour": Downpour,
    "async": Async,
    "delayed_async": DelayedAsync,
    "summed_async": SummedAsync,
}

RowSettings = Single | Sync | ModelAverage | Async
"""What `STRATEGIES` holds."""


@dataclasses.dataclass(frozen=True)
class StrategySettings:
    """Which strategy trains, and what all of them share."""

    strategy: str = setting("single", "Row of the strategy table.", choices=tuple(STRATEGIES))
    warm_start_updates: int = setting(
        0, "Updates of synchronous training before the strategy begins; 0 for none.", minimum=0
    )
    learning_rate_law: str = setting(
        "none",
        "How the learning rate grows with the batches that are averaged in one update: not at all, in proportion, with "
        "the root, or with the update's target tokens over --law_tokens.",
        choices=("none", "linear", "sqrt", "words"),
    )
    warm_start_law: str = setting(
        "same",
        "How the learning rate grows with the batches of an update in the warm start: as --learning_rate_law says, or "
        "by a law of its own.",
        choices=("same", "none", "linear", "sqrt", "words"),
    )
    law_tokens: int = setting(
        1920,
        "Target tokens of an update for which --learning_rate is meant under --learning_rate_law=words.",
        minimum=1,
    )
    global_batch_tokens: int = setting(
        0,
        "Target tokens of one step of all workers: each accumulates batches until it has its share; 0 for one batch "
        "a worker and step.",
        minimum=0,
    )
    clip_norm: float = setting(1.0, "Largest norm of the mean gradient; 0 for no clipping.", minimum=0)
    average_rate: float = setting(
        0.0,
        "Weight of the newest parameters in the exponential moving average that is evaluated and saved, 1e-4 or more, "
        "for each step of all workers: an update to which a single one of N workers has brought a step counts as an "
        "N-th of that; 0 for no average.",
        minimum=0,
        maximum=1,
    )
    seed: int = setting(
        1,
        "Seed of initial parameters, order of the data and dropout.",
        minimum=0,
        maximum=2**31 - 1,
    )


class Phase(NamedTuple):
    """A strategy, and when it trains.

    Attributes:
      first_update: the update from which it trains.
      strategy: the row.
      law: how the learning rate grows with the batches of an update.
    """

    first_update: int
    strategy: Strategy
    law: str


def phases(
    settings: StrategySettings, row: RowSettings, workers: int, optimizer: OptimizerSettings
) -> tuple[Phase, ...]:
    """What trains when: the row, behind a warm start where one is wanted."""
    law, warm_start = settings.learning_rate_law, []
    if settings.warm_start_updates:
        warm_law = law if settings.warm_start_law == "same" else settings.warm_start_law
        warm_start = [Phase(0, Sync().row(workers, optimizer), warm_law)]
    return (*warm_start, Phase(settings.warm_start_updates, row.row(workers, optimizer), law))
