"""Tells of tasks that take suspiciously long, and ends what takes too long: nobody waits in silence, or for ever."""

import contextlib
import dataclasses
import functools
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import logging

from tfnmt.cluster.waits import Wait
from tfnmt.errors import LostError
from tfnmt.settings import setting

if TYPE_CHECKING:  # It imports the addresses, which import this module's settings.
    from tfnmt.cluster.stall_guard import StallGuard

_LOOK_SECONDS = 0.5
_NOTICE_SECONDS = 5.0
_FIRST = 10.0
"""Timeouts within which somebody who answers may be at its first piece of work, for which it builds graphs."""

Busy = tuple[int, float, float]
"""A task at work: its number, the seconds so far, and the seconds of its longest piece of work."""


@dataclasses.dataclass(frozen=True)
class StallSettings:
    """How long somebody may be silent."""

    stall_timeout: float = setting(
        600.0,
        "Seconds without an answer after which training ends and names who did not answer. The first piece of work of "
        "a worker may take ten times as long while it answers probes: it builds graphs.",
        minimum=1,
        may_change=True,
    )


class StallWatch:
    """A thread that watches the chief's waits while it is entered.

    The chief's own threads may all be waiting for the silent one. So this thread asks nobody for leave: it says at the
    timeout what is wrong, and ends the process unless `check` is called soon. A process of its own watches this thread.
    """

    def __init__(
        self,
        timeout_seconds: float,
        busy: Callable[[], list[Busy]],
        name: Callable[[int], str],
        make_guard: Callable[[], "StallGuard"] | None = None,
        is_alive: Callable[[int], bool] = lambda number: False,
        is_excused: Callable[[], bool] = lambda: False,
        goes_on_without: Callable[[int, float], bool] = lambda number, seconds: False,
    ):
        """The watch begins when it is entered.

        Args:
          timeout_seconds: `--stall_timeout`.
          busy: tells who is at work; it must not wait for the main thread.
          name: number -> the name of whoever it stands for, asked for once there is something to say.
          make_guard: what watches this thread, if anything does.
          is_alive: whether somebody who has done nothing yet, and takes longer than the timeout, answers.
          is_excused: whether all may be waiting for something else; their time counts from when they no longer do.
          goes_on_without: whether nobody needs somebody who has been at work for so many seconds; for infinity, if it
            has been for too long.
        """
        self._timeout_seconds, self._busy, self._name, self._make_guard = timeout_seconds, busy, name, make_guard
        self._is_alive, self._is_excused, self._goes_on_without = is_alive, is_excused, goes_on_without
        self._excused_at = -math.inf
        self._spared_at: dict[int, float] = {}  # when training last went on without somebody
        self._entered = 0
        self._ended = threading.Event()
        self._noticed = threading.Event()
        self._error: LostError | None = None
        self._waits: dict[int, Wait] = {}

    def __enter__(self) -> "StallWatch":
        """Starts watching, unless it has been entered before and not left."""
        self._entered += 1
        if self._entered == 1:
            self._ended = threading.Event()
            # The guard is there when this returns: what is watched may hold Python's global lock from the first moment.
            guard = self._make_guard() if self._make_guard else None
            threading.Thread(target=self._watch, args=(guard, self._ended), name="stall-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it, once it has been left as often as entered."""
        self._entered -= 1
        if not self._entered:
            self._ended.set()

    def check(self) -> None:
        """Raises what has been found.

        Raises:
          LostError: somebody has not answered for longer than the timeout.
        """
        if self._error is not None:
            self._noticed.set()
            raise self._error

    def _watch(self, guard: "StallGuard | None", ended: threading.Event) -> None:
        with guard or contextlib.nullcontext():
            while not ended.wait(_LOOK_SECONDS):
                if guard is not None:
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
        timeout, now = self._timeout_seconds, time.monotonic()
        if self._is_excused():
            self._excused_at = now
        for worker, seconds, longest in self._busy():
            seconds = min(seconds, now - self._excused_at)
            if self._goes_on_without(worker, seconds):
                self._spared_at[worker] = now
                continue
            seconds = min(seconds, now - self._spared_at.get(worker, -math.inf))
            wait = self._waits.setdefault(worker, Wait(functools.partial(self._name, worker)))
            is_first = not longest and seconds >= timeout and self._is_alive(worker)
            is_over = wait.is_over(_FIRST * timeout if is_first else timeout, seconds, longest)
            if is_over and not self._goes_on_without(worker, math.inf):
                return LostError(
                    f"{self._name(worker)} has not answered for {seconds:.0f} s (--stall_timeout={timeout:g}); "
                    "training ends. Look at its log; start training again, and it goes on from the newest checkpoint."
                )
        return None
