"""Tells of tasks that take suspiciously long, and ends what takes too long: nobody waits in silence, or for ever."""

import os
import sys
import threading
from collections.abc import Callable

from absl import logging

from tfnmt.cluster.addresses import WORKER, Cluster
from tfnmt.cluster.stall_guard import StallGuard, silent_tasks
from tfnmt.errors import LostError

_LOOK_SECONDS = 0.5
_TOLD_SECONDS = 10.0
_NOTICE_SECONDS = 5.0

Busy = tuple[int, float, float]
"""A worker that has a block: its number, for how many seconds, and how long its longest block took."""


class StallWatch:
    """A thread that watches the chief's waits while it is entered.

    The chief's own threads may all be waiting for the silent one. So this thread asks nobody for leave: it says at the
    timeout what is wrong, and ends the process unless `check` is called soon. A process of its own watches this thread.
    """

    def __init__(self, cluster: Cluster, busy: Callable[[], list[Busy]]):
        """Takes who is where, and what tells who is at work; that must not wait for anybody."""
        self._cluster, self._busy = cluster, busy
        self._ended = threading.Event()
        self._noticed = threading.Event()
        self._error: LostError | None = None
        self._told: dict[int, float] = {}

    def __enter__(self) -> "StallWatch":
        """Starts watching."""
        threading.Thread(target=self._watch, name="stall-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self._ended.set()

    def check(self) -> None:
        """Raises what has been found.

        Raises:
          LostError: somebody has not answered for longer than the timeout.
        """
        if self._error is not None:
            self._noticed.set()
            raise self._error

    def _watch(self) -> None:
        with StallGuard(self._cluster) as guard:
            self._look_on(guard)

    def _look_on(self, guard: StallGuard) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            guard.reassure()
            self._error = self.look()
            if self._error is not None:
                if not self._noticed.wait(_NOTICE_SECONDS):
                    logging.error("%s", self._error)
                    sys.stderr.flush()
                    os._exit(LostError.exit_code)
                return

    def look(self) -> LostError | None:
        """Warns, for each worker a line every ten seconds; the error once a wait is over the timeout."""
        timeout = self._cluster.stall_timeout
        for worker, seconds, longest in self._busy():
            if seconds > max(timeout, 2 * longest):
                return LostError(
                    f"{self._culprit(worker)} has not answered for {seconds:.0f} s (--stall_timeout={timeout:g}); "
                    "training ends. Look at its log; start training again, and it goes on from the newest checkpoint."
                )
            if seconds < max(_TOLD_SECONDS, 3 * longest):
                self._told.pop(worker, None)
            elif seconds - self._told.get(worker, 0.0) >= _TOLD_SECONDS:
                self._told[worker] = seconds
                logging.warning("Waiting for %s for %.0f s.", self._culprit(worker), seconds)
        return None

    def _culprit(self, worker: int) -> str:
        """The tasks that are silent or, when none is, the worker whose block takes so long."""
        silent = silent_tasks(self._cluster.tasks())
        return silent or f"{WORKER} {worker} at {self._cluster.workers[worker]}"
