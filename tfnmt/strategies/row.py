"""One row of the strategy table: the columns that every engine reads."""

import dataclasses
import math
from collections.abc import Mapping

from graphs.block import BEGIN, PULL, PUSH, Action, Block, Exchange, Steps
from graphs.encodings import DENSE, Encoding
from graphs.work import NO_SUMS
from tfnmt.optimizers.optimizers import Optimizer
from tfnmt.strategies.exchanges import GradientSum

KEEP, RESET, AVERAGE = "keep", "reset", "average"


@dataclasses.dataclass(frozen=True)
class Meetings:
    """When a worker meets the servers, over and over again.

    Attributes:
      period: steps of one round of the schedule.
      at: (after how many of them, PULL or PUSH), in order; what is due after all of them is due before the next round's
        first step, a push before a pull.
      most_seconds: since the pull, after which a push comes even if not all steps before it are done; 0 for never.
    """

    period: int
    at: tuple[tuple[int, str], ...]
    most_seconds: float = 0.0

    @classmethod
    def every(cls, pull: int, push: int, most_seconds: float = 0.0) -> "Meetings":
        """A pull before every `pull` steps and a push behind every `push`."""
        period = math.lcm(pull, push)
        pulls = [(steps, PULL) for steps in range(0, period, pull)]
        pushes = [(steps, PUSH) for steps in range(push, period + 1, push)]
        return cls(period, tuple(sorted([*pulls, *pushes], key=lambda each: (each[0], each[1] == PULL))), most_seconds)

    def blocks(self) -> tuple[Block, ...]:
        """One round of a worker's program, cut behind every push.

        >>> Meetings.every(pull=4, push=2).blocks()
        (('pull', Steps(count=2, first=True), 'push'), (Steps(count=2, first=True), 'push'))
        """
        found: list[Block] = []
        block: list[Action] = []
        done = 0
        for after, what in self.at:
            if after > done:
                block.append(Steps(after - done, not any(isinstance(action, Steps) for action in block)))
                done = after
            block.append(what)
            if what == PUSH:
                found.append(tuple(block))
                block = []
        return tuple(found)

    @property
    def steps_per_push(self) -> int:
        """Local steps for each push, H; the mean where they differ."""
        return self.period // sum(what == PUSH for _, what in self.at)


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One row of the table.

    Attributes:
      server_update: how the servers move on the reduced payloads.
      exchange: what a pull, a step and a push do.
      meetings: when there is a pull or a push.
      encoding: how payloads travel.
      local_update: how the worker moves its own replica at each step; None for not at all.
      local_update_steps: steps of a worker in this row after which it stops doing so; None for never.
      local_rate: what multiplies the learning rate of the local update.
      local_slots: what becomes of the local update's slots with each pull: KEEP; RESET, it begins anew; or AVERAGE,
        they travel behind the payload, and all workers go on from their mean.
      quorum: payloads for each server update, K.
      ring: the workers reduce among themselves and hold everything in copies; there are no servers.
      most_workers: as many as it is defined for; None for any.
      slack: blocks that the fastest worker may be ahead of the slowest; 0 is a barrier, None is no limit.
    """

    server_update: Optimizer
    exchange: Exchange = GradientSum()  # noqa: RUF009 (it has no state)
    meetings: Meetings = Meetings.every(1, 1)  # noqa: RUF009
    encoding: Encoding = DENSE
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
        return not self.exchange.trains_replicas and self.meetings.steps_per_push == 1

    @property
    def steps_per_update(self) -> int:
        """Local gradients that one server update takes in."""
        return self.meetings.steps_per_push * self.quorum

    @property
    def law_factor(self) -> int:
        """Batches over which one update is averaged, where each step reads one: the laws scale by it."""
        if self.exchange.trains_replicas:
            return self.quorum
        steps = self.steps_per_update
        return int(self.exchange.averaged(NO_SUMS._replace(steps=steps, batches=steps))[1])

    def describe(self) -> str:
        """What makes an update, in words."""
        steps = self.meetings.steps_per_push
        wait = {None: "nobody waits", 0: "all wait for all"}.get(self.slack, f"at most {self.slack} blocks ahead")
        payloads = f"{self.quorum} {self.exchange.name}{'s' if self.quorum > 1 else ''}"
        return f"{payloads} of {steps} step{'s' if steps > 1 else ''}; {wait}"

    def program(self) -> tuple[Block, ...]:
        """The blocks that a worker does over and over again."""
        return self.meetings.blocks()

    def beginning(self, block: Block) -> Block:
        """The first block of a worker that holds nothing: where no pull comes before its steps, it begins with one."""
        return block if block[0] == PULL else (BEGIN, *block)
