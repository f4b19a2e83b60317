"""A wait for somebody else: it is told of every ten seconds, and has a limit."""

import time
from collections.abc import Callable

from absl import logging

_TOLD_SECONDS = 10.0


def warn(text: str) -> None:
    """Tells the user, by the log."""
    logging.warning("%s", text)


class Wait:
    """A wait that knows how long it has lasted, and whether the user has been told of it lately."""

    def __init__(
        self,
        who: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], object] = warn,
    ):
        """Begins to wait.

        The names of those `who` are awaited are looked up once there is something to `say` to the user.
        """
        self._who, self._clock, self._say = who, clock, say
        self.restart()

    def restart(self) -> None:
        """Begins anew: somebody has come, or been heard of."""
        self._began, self._told = self._clock(), 0.0

    @property
    def seconds(self) -> float:
        """The duration of the wait so far."""
        return self._clock() - self._began

    def is_over(self, limit_seconds: float, seconds: float | None = None, usual_seconds: float = 0.0) -> bool:
        """Whether the limit has been reached; before that, says now and then who is awaited.

        Args:
          limit_seconds: how long to wait.
          seconds: that the wait has lasted, where somebody else has measured it.
          usual_seconds: such a wait has lasted as long before. Twice as long is within the limit, and half as long
            again is not worth a word; so nothing ends unannounced.
        """
        seconds = self.seconds if seconds is None else seconds
        if seconds >= max(limit_seconds, 2 * usual_seconds):
            return True
        if seconds < max(_TOLD_SECONDS, 1.5 * usual_seconds):
            self._told = 0.0
        elif not self._told or seconds - self._told >= _TOLD_SECONDS:
            self._told = seconds
            self._say(f"Waiting for {self._who()} for {seconds:.0f} s.")
        return False
