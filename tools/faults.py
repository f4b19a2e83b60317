"""Faults of workers on hosts: when they come, and what a training makes of the workers that live meanwhile."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

KILL, STOP, CUT, SLOW = "kill", "stop", "cut", "slow"
KINDS = {
    KILL: "its process is killed, and started again at once",
    STOP: "its process is stopped",
    CUT: "its link is down",
    SLOW: "its link has a tenth of its speed",
}
_LEAST_SECONDS, _MOST_SECONDS = 5.0, 15.0  # for which it stays so


START_SECONDS = 3.0
"""No process can push sooner behind its start: what comes meanwhile, its worker had pushed before."""


class Fault(NamedTuple):
    """What befalls a worker, in seconds since the first moment that counts."""

    kind: str
    worker: int
    began: float
    ended: float  # of a killed worker, when its process is started again

    def is_over(self, at: float) -> bool:
        """Whether a push that is seen then shows that the worker is back."""
        return at >= self.ended + (START_SECONDS if self.kind == KILL else 0.0)


def schedule(seed: int, seconds: float, every: float, workers: int, kinds: Sequence[str]) -> Iterator[Fault]:
    """Faults in order, one in `every` seconds on average; no worker has two at a time, and one always lives.

    >>> faults = [*schedule(1, 300.0, 30.0, workers=4, kinds=list(KINDS))]
    >>> faults == [*schedule(1, 300.0, 30.0, workers=4, kinds=list(KINDS))], 5 <= len(faults) <= 16
    (True, True)
    """
    chance, now, until = random.Random(seed), 0.0, [0.0] * workers
    while (now := now + chance.expovariate(1 / every)) < seconds:
        kind, worker = chance.choice(list(kinds)), chance.randrange(workers)
        lasts = 0.0 if kind == KILL else chance.uniform(_LEAST_SECONDS, _MOST_SECONDS)
        others = [end > now for number, end in enumerate(until) if number != worker]
        if until[worker] > now or all(others):
            continue
        until[worker] = now + max(lasts, _MOST_SECONDS)
        yield Fault(kind, worker, now, now + lasts)


class Update(NamedTuple):
    """A log point of a server update: when it was seen, the tokens so far, and whose pushes are in it."""

    at: float
    target_tokens: int
    workers: frozenset[int]


class Outcome(NamedTuple):
    """What a training made of its faults.

    Attributes:
      goodput: tokens over what the living workers would have trained on, each as fast as before the faults.
      living: share of the workers' time in which they lived.
      longest_gap: seconds between two updates, the most.
      back: for each fault behind which its worker pushed again, seconds from its end until then.
    """

    goodput: float
    living: float
    longest_gap: float
    back: Mapping[Fault, float]


def outcome(updates: Sequence[Update], faults: Sequence[Fault], workers: int, tokens_per_second: float) -> Outcome:
    """Looks at the updates from the first to the last.

    A worker lives but while it is stopped, cut off, or gone until its first push.

    Args:
      updates: in order.
      faults: of the time between them.
      workers: how many.
      tokens_per_second: target tokens of all of them before the faults.
    """
    back, dead, last = {}, 0.0, updates[-1].at
    for fault in faults:
        pushed = next((each.at for each in updates if fault.is_over(each.at) and fault.worker in each.workers), None)
        if pushed is not None:
            back[fault] = pushed - fault.ended
        if fault.kind == KILL:
            dead += (last if pushed is None else pushed) - fault.began
        elif fault.kind != SLOW:
            dead += min(fault.ended, last) - fault.began
    seconds = last - updates[0].at
    living = 1 - dead / (workers * seconds)
    trained = (updates[-1].target_tokens - updates[0].target_tokens) / (seconds * tokens_per_second)
    gaps = [after.at - before.at for before, after in itertools.pairwise(updates)]
    return Outcome(trained / living, living, max(gaps), back)
