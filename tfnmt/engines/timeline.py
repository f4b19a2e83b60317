"""What is going to happen under a virtual clock: events at known times, and the ends of transfers, which move."""

import collections
import heapq
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from tfnmt.engines.links import Links


class Event(NamedTuple):
    """Something that a worker has done at a time."""

    seconds: float
    worker: int
    kind: str


class Transfer(NamedTuple):
    """What a worker pulls or pushes; its end is an event of `kind`."""

    worker: int
    kind: str
    direction: int  # PULL or PUSH of `links`
    parts: Sequence[float]  # bytes from or to each server


AT_ONCE = -1


class Timeline:
    """Events in the order of time and, at one time, in the order in which they came to be known.

    The second rule makes a queue fair: of two that wait for one instant, the one that has waited longer comes first.
    What a worker does at once behind an event of its own comes before either, as if both were one.
    """

    def __init__(self, links: Links, now: float = 0.0):
        """Nothing is going to happen yet."""
        self._links, self._now = links, now
        self._coming: list[tuple[float, int, Event]] = []  # a heap
        self._numbers = itertools.count()
        self._lives: collections.Counter[int] = collections.Counter()  # that have ended, of each worker

    def add(self, event: Event) -> None:
        """Takes in an event whose time is known."""
        number = next(self._numbers) if event.seconds > self._now else AT_ONCE
        heapq.heappush(self._coming, (event.seconds, number, event))

    def begin(self, now: float, transfer: Transfer) -> None:
        """Begins a transfer."""
        worker, kind, direction, parts = transfer
        self._links.begin(now, (worker, kind, self._lives[worker]), worker, direction, parts)

    def forget(self, worker: int) -> None:
        """Drops all that is going to happen to a worker; what it has on its way still takes its part of the links."""
        self._coming = [each for each in self._coming if each[-1].worker != worker]
        heapq.heapify(self._coming)
        self._lives[worker] += 1

    def next(self) -> Event | None:
        """Takes out the earliest event; None when there is nothing to come."""
        while (change := self._links.next_change()) <= self._first_seconds() and change < math.inf:
            self._advance()
        if not self._coming:
            return None
        self._now, _, event = heapq.heappop(self._coming)
        return event

    def next_of(self, worker: int) -> Event | None:
        """Takes out the earliest event of one worker, even if others' are earlier; None when it has none."""
        while (own := self._first_of(worker)) is None and self._links.next_change() < math.inf:
            self._advance()
        if own is None:
            return None
        while self._links.next_change() <= own[0]:
            self._advance()
        self._coming.remove(own)
        heapq.heapify(self._coming)
        return own[-1]

    def _first_seconds(self) -> float:
        return self._coming[0][0] if self._coming else math.inf

    def _first_of(self, worker: int) -> tuple[float, int, Event] | None:
        return min((each for each in self._coming if each[-1].worker == worker), default=None)

    def _advance(self) -> None:
        seconds = self._links.next_change()
        for worker, kind, life in self._links.advance():
            if life == self._lives[worker]:
                heapq.heappush(self._coming, (seconds, next(self._numbers), Event(seconds, worker, kind)))
