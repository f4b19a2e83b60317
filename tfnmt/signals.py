"""SIGTERM and Ctrl-C: the first asks for an orderly end, the second for one at once."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from absl import logging

SAME_REQUEST_SECONDS = 1.0
"""Launchers, `timeout` and terminals often deliver one request twice; repeats this soon count as one."""


class StopSignals:
    """Inside the context the first SIGTERM or SIGINT only sets `requested`, which the program looks at now and then.

    A thread reads the signals from a pipe that the interpreter's own handler fills, because Python runs handlers
    between bytecodes alone: while an update of a minute computes, the answer must not wait. Enter the context in the
    main thread.

    Attributes:
      requested: the first signal that came; None before.
    """

    def __init__(self, answer: str, again: Callable[[signal.Signals], object] | None = None):
        """The signals are taken over when the context is entered.

        Args:
          answer: what the user is told behind the name of the first signal: what will happen now.
          again: called for the second; None ends the process.
        """
        self._answer, self._again = answer, again or _end_at_once
        self.requested: signal.Signals | None = None
        self._requested_at = 0.0

    @property
    def reason(self) -> str | None:
        """Why training ends, as text; None while nothing has come."""
        return f"{self.requested.name} received" if self.requested else None

    @property
    def exit_code(self) -> int:
        """The exit code that shells report for the signal: 143 for SIGTERM, 130 for SIGINT; 0 when none came."""
        return 128 + self.requested if self.requested else 0

    def __enter__(self) -> "StopSignals":
        """Takes over both signals."""
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._old_write_end = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, _leave_it_to_the_pipe) for number in _SIGNALS}
        self._thread = threading.Thread(target=self._watch, name="stop-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives both signals back to whoever had them."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._old_write_end)
        os.close(self._write_end)
        self._thread.join()
        os.close(self._read_end)

    def _watch(self) -> None:
        while number := os.read(self._read_end, 1):
            if number[0] in _SIGNALS:
                self._receive(signal.Signals(number[0]))

    def _receive(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self.requested is None:
            self.requested, self._requested_at = number, now
            logging.warning("%s: %s", number.name, self._answer)
        elif now - self._requested_at > SAME_REQUEST_SECONDS:
            self._again(number)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _end_at_once(number: signal.Signals) -> None:
    os.write(2, f"\n{number.name} again: ended at once.\n".encode())
    os._exit(128 + number)


def _leave_it_to_the_pipe(number: int, frame: FrameType | None) -> None:
    """Being a handler in Python is enough: it makes the interpreter write the number into the pipe."""
