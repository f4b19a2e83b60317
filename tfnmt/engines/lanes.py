"""Lanes: what the chief of a cluster knows of the blocks of each worker's number, whoever does them."""

import time


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
        self._waited = 0.0

    def begin(self, worker: int) -> None:
        """A task has taken a block."""
        now = time.monotonic()
        self.block = worker, now
        self._waited += now - self._idle_since

    def end(self) -> None:
        """The block is done, or lost."""
        now = time.monotonic()
        if self.block is not None:
            self.longest_seconds = max(self.longest_seconds, now - self.block[1])
        self.block, self._idle_since = None, now

    def forget(self, seconds: float) -> None:
        """Leaves out so many seconds in which nobody trained."""
        self._idle_since = min(self._idle_since + seconds, time.monotonic())

    def waited(self) -> float:
        """Seconds that it stood still since this was asked before."""
        waited, self._waited = self._waited, 0.0
        return waited
