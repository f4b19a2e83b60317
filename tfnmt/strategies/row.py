"""One row of the strategy table: the columns that every engine reads."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import tensorflow as tf

from graphs.actions import FETCH, FETCHED, MERGE, PULL, PUSH, WHOLE, Action, Block, Meeting, Steps, fetched
from graphs.encodings import DENSE, Encoding, slot_encoding
from graphs.error_feedback import KNOWN, RESIDUAL
from graphs.exchange import Exchange
from graphs.local_steps import REPLICA
from graphs.staleness import Staleness
from graphs.work import NO_SUMS, Sums
from tfnmt.optimizers.optimizers import Optimizer
from tfnmt.strategies.exchanges import GradientSum

KEEP, RESET, AVERAGE = "keep", "reset", "average"


@dataclasses.dataclass(frozen=True)
class Meetings:
    """A worker's program, one round of it: blocks of as many steps each, which the worker repeats.

    Attributes:
      blocks: the round.
      fragments: parts of the vectors; each block pushes the one behind that of the block before.
      most_seconds: a worker that has computed for so long since its pull pushes before it has done all its steps; 0 for
        no such limit.
      by_speed: whether the fastest worker alone does all its steps, and others as many as they do meanwhile.
      ramp_steps: steps of a worker in this row over which its blocks grow from one step to all; 0 for all at once.
    """

    blocks: tuple[Block, ...]
    fragments: int = 1
    most_seconds: float = 0.0
    by_speed: bool = False
    ramp_steps: int = 0

    @classmethod
    def at(cls, meetings: Iterable[tuple[int, str]], most_seconds: float = 0.0) -> "Meetings":
        """Meetings of whole vectors, in pairs of the round's steps before and PULL or PUSH, cut behind every push.

        >>> Meetings.at([(0, "pull"), (2, "push")]).blocks
        ((Meeting(kind='pull', back=0), Steps(count=2, first=True), Meeting(kind='push', back=0)),)
        """
        found: list[Block] = []
        block: list[Action] = []
        done = 0
        for after, kind in meetings:
            if after > done:
                block.append(Steps(after - done, not any(isinstance(action, Steps) for action in block)))
                done = after
            block.append(Meeting(kind))
            if kind == PUSH:
                found.append(tuple(block))
                block = []
        return cls(tuple(found), most_seconds=most_seconds)

    @classmethod
    def every(cls, pull: int, push: int, most_seconds: float = 0.0) -> "Meetings":
        """A pull before every `pull` steps, and a push behind every `push` steps."""
        period = math.lcm(pull, push)
        pulls = [(steps, PULL) for steps in range(0, period, pull)]
        pushes = [(steps, PUSH) for steps in range(push, period + 1, push)]
        return cls.at(sorted([*pulls, *pushes]), most_seconds)  # no two of them within a period coincide

    @classmethod
    def staggered(cls, steps: int, fragments: int, delay: int) -> "Meetings":
        """A push of the next fragment behind every so many steps, and its pull `delay` steps later.

        Half of these steps go on while the push travels, the others while the pull does. The block ends in between:
        there the workers wait for each other, and the servers do the update.

        >>> [getattr(action, "kind", action) for action in Meetings.staggered(steps=5, fragments=1, delay=2).blocks[0]]
        ['fetch', Steps(count=1, first=True), 'merge', Steps(count=3, first=False), 'push', Steps(count=1, first=False)]
        """
        beside_push, beside_pull = delay - delay // 2, delay // 2
        arrival: list[Action] = [Meeting(PULL, back=1)]
        if beside_pull:
            arrival = [Meeting(FETCH, back=1), Steps(beside_pull, True), Meeting(MERGE, back=1)]
        alone = [Steps(steps - delay, not beside_pull)] if steps > delay else []
        rest = [Steps(beside_push, False)] if beside_push else []
        return cls(((*arrival, *alone, Meeting(PUSH), *rest),), fragments)

    @property
    def steps_per_push(self) -> int:
        """Local steps of each block, H."""
        return sum(action.count for action in self.blocks[0] if isinstance(action, Steps))

    @property
    def blocks_vary(self) -> bool:
        """Whether blocks may have fewer steps than they say."""
        return self.by_speed or self.ramp_steps > 0

    def steps_behind(self, steps: int) -> int:
        """Steps of a block before which the worker has done so many in this row.

        >>> ramp = dataclasses.replace(Meetings.every(3, 3), ramp_steps=4)
        >>> [ramp.steps_behind(steps) for steps in range(6)]
        [1, 1, 2, 2, 3, 3]
        """
        most = self.steps_per_push
        return min(most, 1 + (most - 1) * steps // self.ramp_steps) if self.ramp_steps else most


def speed_faults(flag: str, steps: int, seconds: float = 0.0) -> list[str]:
    """Why blocks of so many steps, which `flag` sets, and of at most so many seconds cannot go by speed."""
    if steps == 1:
        return [f"--blocks_by_speed: no worker can do less than --{flag}=1; leave it out."]
    if seconds:
        return [
            f"--blocks_by_speed: with --sync_every_seconds={seconds:g} all blocks take equally long; leave out either."
        ]
    return []


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One row of the table.

    Attributes:
      server_update: the optimizer by which the servers move; it reads the mean of the payloads as its gradient.
      exchange: what a pull, a step and a push do to the vectors that a worker holds.
      meetings: when a worker pulls and pushes.
      encoding: the numbers in which payloads travel.
      pull_encoding: the same of what a worker pulls, the change since it has pulled last; DENSE for the parameters as
        they are.
      local_update: the optimizer by which a worker moves its own replica at each step; None where replicas stay as they
        were pulled.
      local_update_steps: steps of a worker in this row after which its replica moves no more; None for never.
      local_rate: factor of the learning rate of the local update.
      local_slots: what a pull does to the slots of the local update: nothing (KEEP), it begins them anew (RESET), or it
        replaces them by their mean over the workers, for which they are pushed behind the payload (AVERAGE).
      quorum: payloads for each server update, K.
      replicas: how many replicas the servers' moves average where replicas are trained, by which the laws of the
        learning rate go; None for as many as payloads in an update.
      ring: whether there are no servers: the workers sum the payloads among themselves, and each holds a copy of the
        parameters.
      most_workers: how many workers the row allows; None for any number.
      slack: blocks that the fastest worker may be ahead of the slowest; 0 is a barrier, None is no limit.
      least_payloads: behind a barrier, payloads with which an update waits for no more than `grace_seconds`
        (`tfnmt.strategies.quorum`); None where it waits for its quorum.
      grace_seconds: for the others.
      staleness: what the servers make of a payload that is stale.
      payload_weight: what a payload counts beside those of other workers by the sums of its steps, where payloads are
        means or deltas; None for all alike.
      local_gradient: updates between two averagings of replicas which each move by what the others have sent and by all
        of the own worker's gradient (`graphs.local_gradient`); 0 where all move alike.
    """

    server_update: Optimizer
    exchange: Exchange = GradientSum()  # noqa: RUF009 (it has no state)
    meetings: Meetings = Meetings.every(1, 1)  # noqa: RUF009
    encoding: Encoding = DENSE
    pull_encoding: Encoding = DENSE
    local_update: Optimizer | None = None
    local_update_steps: int | None = None
    local_rate: float = 1.0
    local_slots: str = KEEP
    quorum: int = 1
    replicas: int | None = None
    ring: bool = False
    most_workers: int | None = None
    slack: int | None = 0
    least_payloads: int | None = None
    grace_seconds: float = 0.0
    staleness: Staleness = Staleness()  # noqa: RUF009
    payload_weight: Callable[[Sums], float] | None = None
    local_gradient: int = 0

    @property
    def averaged_slots(self) -> Mapping[str, float | None]:
        """The local update's slots, with their first values, that are averaged over the workers."""
        return self.local_update.slots if self.local_update and self.local_slots == AVERAGE else {}

    @property
    def payload_vectors(self) -> int:
        """Vectors [size] that travel with a push, and with a pull."""
        return 1 + len(self.averaged_slots)

    def pushed_bytes(self, size: int, parameters: tf.DType) -> int:
        """Bytes on their way of a payload whose vectors have `size` numbers, or of its part for one server."""
        return self._bytes(self.encoding, size, parameters)

    def pulled_bytes(self, size: int, parameters: tf.DType) -> int:
        """The same of a pull."""
        return self._bytes(self.pull_encoding, size, parameters)

    def _bytes(self, encoding: Encoding, size: int, parameters: tf.DType) -> int:
        of_slots = len(self.averaged_slots) * slot_encoding(encoding).bytes(size, parameters)
        return encoding.bytes(size, parameters) + of_slots

    @property
    def fragments(self) -> int:
        """Parts of the vectors that travel one behind the other."""
        return self.meetings.fragments

    @property
    def keeps(self) -> Sequence[str]:
        """Names of the vectors that a worker holds beside its replica."""
        fetches = any(isinstance(action, Meeting) and action.kind == FETCH for action in self.program()[0])
        of_fetches = [FETCHED, *map(fetched, self.averaged_slots)] if fetches else []
        return [*self.exchange.keeps, *of_fetches, *self._residuals]

    @property
    def saved(self) -> Sequence[str]:
        """Names of those that checkpoints must hold."""
        return [*self.exchange.saved, *self._residuals]

    @property
    def saves_slots(self) -> bool:
        """Whether checkpoints must hold the slots of the local update: no pull replaces all of them."""
        return self.local_slots == KEEP or (self.local_slots == AVERAGE and REPLICA in self.exchange.saved)

    @property
    def _residuals(self) -> Sequence[str]:
        known = [] if self.pull_encoding is DENSE else [KNOWN]
        return [*known, *([RESIDUAL] if self.encoding.keeps_rest else [])]

    @property
    def has_barrier(self) -> bool:
        """Whether the workers wait for each other after every block."""
        return self.slack == 0

    @property
    def sums_gradients(self) -> bool:
        """Whether an update is a sum of gradients over its target tokens, whose spread tells the noise scale.

        What arrives with error feedback is as long as the encoding makes it. Stale gradients may count less than fresh
        ones beside them, or be changed.
        """
        unequal = self.staleness.compensation > 0 or (self.staleness.exponent > 0 and self.quorum > 1)
        return self.exchange.clips_at_servers and not self.encoding.keeps_rest and not unequal

    @property
    def pushes_gradients_at_once(self) -> bool:
        """Whether every step is followed by a push of its gradient."""
        return not self.exchange.trains_replicas and self.meetings.steps_per_push == 1

    def averages_replicas(self, update: int) -> bool:
        """Whether replicas that have moved by their workers' own gradients are averaged behind an update."""
        return self.local_gradient > 0 and update % self.local_gradient == 0

    @property
    def pulls_for_every_push(self) -> bool:
        """Whether each block is a pull, all its steps and a push."""
        block = (Meeting(PULL), Steps(self.meetings.steps_per_push, first=True), Meeting(PUSH))
        return all(each == block for each in self.program())

    @property
    def steps_per_update(self) -> int:
        """Local steps of all workers for each server update."""
        return self.meetings.steps_per_push * self.quorum

    @property
    def averaged_replicas(self) -> int:
        """Replicas whose mean a server update stands for."""
        return self.replicas or self.quorum

    @property
    def law_factor(self) -> int:
        """Batches by which the laws scale an update's learning rate, where each step reads one batch."""
        if self.exchange.trains_replicas:
            return self.averaged_replicas
        steps = self.steps_per_update
        return int(self.exchange.averaged(NO_SUMS._replace(steps=steps, batches=steps))[1])

    @property
    def overlaps(self) -> bool:
        """Whether steps go on while a push travels."""
        return any(isinstance(block[-1], Steps) for block in self.program())

    def describe(self) -> str:
        """The payloads of an update, and who waits for whom, in words."""
        steps = self.meetings.steps_per_push
        wait = {None: "nobody waits", 0: "all wait for all"}.get(self.slack, f"at most {self.slack} blocks ahead")
        if self.least_payloads is not None:
            wait = f"all wait for {self.least_payloads}, and at most {self.grace_seconds:g} s longer for the others"
        payloads = f"{self.quorum} {self.exchange.name}{'s' if self.quorum > 1 else ''}"
        at_most = "up to " if self.meetings.blocks_vary else ""
        return f"{payloads} of {at_most}{steps} step{'s' if steps > 1 else ''}; {wait}"

    def program(self) -> tuple[Block, ...]:
        """The blocks of one round; a worker repeats them."""
        return self.meetings.blocks

    def beginning(self, block: Block) -> Block:
        """The block for a worker that holds no parameters: it first takes all those of the servers."""
        first, *others = block
        whole = Meeting(WHOLE)
        if not isinstance(first, Meeting):
            return (whole, *block)
        if first.kind == PULL and self.pull_encoding is DENSE and self.fragments == 1:
            return block
        return (whole, *(action for action in others if getattr(action, "kind", None) != MERGE))
