"""Lanes: what the chief of a cluster knows of the blocks of each worker's number, whoever does them."""

import time

from tfnmt.engines.report import Waits


class Lane:
    """A worker's number, and what the chief knows of its blocks.

    Attributes:
      block: the worker that has its block, and since when; None while it is idle. One attribute, because the stall
        watch reads it without waiting for anybody.
      longest_seconds: of its blocks so far.
    """

    def __init__(self) -> None:
        self.block: tuple[int, float] | None = None
        self.longest_seconds = 0.0
        self._idle_since = time.monotonic()
        self._waits_for_others = False
        self._waits = Waits()

    def begin(self, worker: int) -> None:
        """A task has taken a block."""
        self._count_wait()
        self.block = worker, time.monotonic()

    def end(self) -> None:
        """The block is done, or lost."""
        now = time.monotonic()
        if self.block is not None:
            self.longest_seconds = max(self.longest_seconds, now - self.block[1])
        self.block, self._idle_since = None, now

    def wait(self, for_others: bool) -> None:
        """Says for whom the lane stands still from now on, if it does: for other workers or for the servers."""
        if self._waits_for_others != for_others:
            self._count_wait()
            self._waits_for_others = for_others

    def forget(self, seconds: float) -> None:
        """Leaves out so many seconds in which nobody trained."""
        self._idle_since = min(self._idle_since + seconds, time.monotonic())

    def waited(self) -> Waits:
        """Seconds that it stood still since this was asked before."""
        waits, self._waits = self._waits, Waits()
        return waits

    def _count_wait(self) -> None:
        if self.block is not None:
            return
        now, (others, servers) = time.monotonic(), self._waits
        seconds, self._idle_since = now - self._idle_since, now
        self._waits = Waits(others + seconds, servers) if self._waits_for_others else Waits(others, servers + seconds)
