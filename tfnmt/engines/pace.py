"""Which worker may go on, and in which order the servers take pushes: what `slack` and a quorum mean."""

import enum
import math
from collections.abc import Sequence
from typing import NamedTuple

from tfnmt.engines.worker import Push
from tfnmt.strategies import Strategy


class Fate(enum.Enum):
    """What the servers are to do with a push."""

    TAKEN = enum.auto()  # their update comes when as many have come as the row's quorum says
    ENDS_ROUND = enum.auto()  # their update comes behind it, however many have come
    TOO_LATE = enum.auto()  # it is dropped


class Ready(NamedTuple):
    """A push that the servers are to absorb now."""

    push: Push
    fate: Fate = Fate.TAKEN


class Pace:
    """Holds workers back that are too far ahead of the slowest, and puts the pushes of a barrier in order.

    Behind a barrier, pushes are taken in the order of the workers' numbers: floating-point sums depend on their order,
    and so a round has the same sum whoever comes first.

    Attributes:
      payloads: how many payloads of one worker may be on the servers at once, each in an outbox of its own.
      due: when a round ends whoever is missing, in the seconds of `arrive`; infinity where nothing ends so.
    """

    due = math.inf

    def __init__(self, workers: int, slack: int | None):
        """No worker has pushed anything yet."""
        self.payloads = payloads_at_once(workers, slack)
        self._slack = slack
        self._pushed = [0] * workers  # of each worker
        self._absorbed = [0] * workers
        self._waiting: dict[int, Push] = {}
        self._next = 0

    def pushed(self, worker: int) -> int:
        """How many pushes of the worker have arrived."""
        return self._pushed[worker]

    def unabsorbed(self, worker: int) -> int:
        """How many of its pushes have arrived and wait for the servers."""
        return self._pushed[worker] - self._absorbed[worker]

    def may_begin(self, worker: int) -> bool:
        """Whether the worker may begin its next block.

        It needs an outbox whose payload has been absorbed, and the slowest worker must be less than `slack` pushes
        behind: with the push of the block that begins, this worker is one further ahead.
        """
        if self.unabsorbed(worker) >= self.payloads:
            return False
        return self._slack is None or self._pushed[worker] - min(self._absorbed) < max(self._slack, 1)

    def waits_for_others(self, worker: int) -> bool:
        """Whether the worker may not begin its next block before another one has pushed.

        Otherwise it waits for the servers, if it waits at all.
        """
        return self._slack is not None and self._pushed[worker] - min(self._pushed) >= max(self._slack, 1)

    def needs_stand_ins(self) -> bool:
        """Whether a worker has to do the blocks of one that is down, because others wait for these."""
        return self._slack is not None

    def is_enough(self, workers: int) -> bool:
        """Whether updates come though nothing does but from so many workers."""
        return False

    def begin(self, worker: int) -> None:
        """The worker begins its next block."""

    def arrive(self, push: Push, now: float) -> Sequence[Ready]:
        """Takes in a push that has come at that second; the pushes that the servers are to absorb now, in order."""
        self._pushed[push.worker] += 1
        if self._slack != 0:
            return [Ready(push)]
        self._waiting[push.worker] = push
        ready = []
        while self._next in self._waiting:
            ready.append(Ready(self._waiting.pop(self._next)))
            self._next = (self._next + 1) % len(self._pushed)
        return ready

    def end_round(self, now: float) -> Sequence[Ready]:
        """The pushes of a round that ends now although somebody is missing; none where it does not."""
        return []

    def absorb(self, push: Push) -> None:
        """The servers have absorbed a push that `arrive` or `end_round` returned."""
        self._absorbed[push.worker] += 1

    def lose(self, worker: int) -> None:
        """The worker is down."""

    def regain(self, worker: int) -> None:
        """The worker is back."""


class QuorumPace(Pace):
    """Rounds that end without those who are late: see `tfnmt.strategies.quorum`.

    The payloads of a round wait until it ends, and are absorbed in the order of the workers' numbers, as at a barrier.
    """

    def __init__(self, workers: int, least: int, grace_seconds: float, most_rounds: int | None):
        """No worker has pushed anything yet.

        Args:
          workers: how many.
          least: payloads that end a round, K.
          grace_seconds: for how long it then waits for the others.
          most_rounds: that may have ended since a worker began a block whose payload still counts; None for no limit.
        """
        super().__init__(workers, slack=0)
        self._least, self._grace_seconds, self._most_rounds = least, grace_seconds, most_rounds
        self._rounds = 0  # that have ended
        self._began = [0] * workers  # of these, when each worker began its block
        self._down: set[int] = set()

    def may_begin(self, worker: int) -> bool:
        """Whether its last push has been absorbed, and none of a round that has ended waits for that.

        So nobody who begins pulls parameters that an update moves meanwhile.
        """
        return not self.unabsorbed(worker) and sum(self._pushed) - sum(self._absorbed) == len(self._waiting)

    def waits_for_others(self, worker: int) -> bool:
        """Whether its push waits for the end of the round."""
        return worker in self._waiting

    def needs_stand_ins(self) -> bool:
        """Whether those who are not down are fewer than a round needs, and it has not got as many yet."""
        return max(len(self._pushed) - len(self._down), len(self._waiting)) < self._least

    def is_enough(self, workers: int) -> bool:
        """Whether they make a round."""
        return workers >= self._least

    def begin(self, worker: int) -> None:
        """The worker begins its next block in the round that goes on."""
        self._began[worker] = self._rounds

    def arrive(self, push: Push, now: float) -> Sequence[Ready]:
        """See `Pace`: the whole round, if this ends it; the push alone where it comes too late for any."""
        self._pushed[push.worker] += 1
        if self._most_rounds is not None and self._rounds - self._began[push.worker] > self._most_rounds:
            return [Ready(push, Fate.TOO_LATE)]
        self._waiting[push.worker] = push
        if len(self._waiting) == self._least:
            self.due = now + self._grace_seconds
        return self.end_round(now)

    def end_round(self, now: float) -> Sequence[Ready]:
        """The pushes of the round, if enough are there and nobody is missing who is not down, or it is due."""
        is_whole = len(self._down.union(self._waiting)) == len(self._pushed)
        if len(self._waiting) < self._least or not (is_whole or now >= self.due):
            return []
        *others, last = (push for _, push in sorted(self._waiting.items()))
        self._waiting, self.due, self._rounds = {}, math.inf, self._rounds + 1
        return [*map(Ready, others), Ready(last, Fate.ENDS_ROUND)]

    def lose(self, worker: int) -> None:
        """No round waits for the worker any more, if others are enough."""
        self._down.add(worker)

    def regain(self, worker: int) -> None:
        """Rounds wait for the worker again."""
        self._down.discard(worker)


def pace_of(workers: int, strategy: Strategy) -> Pace:
    """The pace of a row; nobody has pushed anything yet."""
    if strategy.least_payloads is None:
        return Pace(workers, strategy.slack)
    return QuorumPace(workers, strategy.least_payloads, strategy.grace_seconds, strategy.staleness.limit)


def payloads_at_once(workers: int, slack: int | None) -> int:
    """How many payloads of one worker may be on the servers at once.

    With two, a worker computes a block while its last push waits behind other workers' pushes. A single worker has one:
    only a worker that pulls behind its own update is plain training.
    """
    return 1 if workers == 1 or slack in (0, 1) else 2
