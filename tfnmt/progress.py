"""How far a long piece of work has come: a bar on a terminal, now and then a log line anywhere else.

with Progress("Translating", total=1000, unit="sentences") as progress:
    for batch in batches:
        ...
        progress.advance(len(batch))
"""

import logging as python_logging
import os
import sys
import time

import tqdm
from absl import logging

FIRST_LINE_SECONDS = 10.0  # shorter work prints nothing outside a terminal
LINE_SECONDS = 30.0
BAR_SECONDS = 0.2


class Progress:
    """Shows how much is done, what the caller adds (`facts`), the rate and the time left.

    Attributes:
      done: how much of `total` is done.
    """

    def __init__(self, what: str, total: float | None = None, unit: str = "", *, lines: bool = True):
        """Starts the clock; nothing is shown yet.

        Args:
          what: the work, as in "Translating".
          total: how much there is to do, in units; None when nobody knows.
          unit: the plural of what is counted; empty to show neither amount nor rate.
          lines: False where other log lines tell the same outside a terminal.
        """
        self.done = 0.0
        self._what, self._total, self._unit = what, total, unit
        self._facts = ""
        self._seconds_left: float | None = None
        self._started = time.monotonic()
        self._bar = _Bar(what, total) if _on_terminal() else None
        self._is_silent = self._bar is None and not lines
        self._next = self._started + (0.0 if self._bar is not None else FIRST_LINE_SECONDS)
        self._was_shown = False

    def advance(self, amount: float = 1, facts: str = "") -> None:
        """Adds `amount` units to what is done."""
        self.show(self.done + amount, facts)

    def show(self, done: float, facts: str = "", seconds_left: float | None = None) -> None:
        """Sets what is done, in units; most calls only remember it, so that calling often costs nothing.

        Args:
          done: units done so far.
          facts: more to show, ready to read.
          seconds_left: the caller's estimate; None for the one that follows from `total` and the rate.
        """
        self.done, self._facts, self._seconds_left = done, facts, seconds_left
        now = time.monotonic()
        if now < self._next or self._is_silent:
            return
        self._next = now + (BAR_SECONDS if self._bar is not None else LINE_SECONDS)
        self._was_shown = True
        if self._bar is not None:
            self._bar.show(done, self._text(now - self._started))
        else:
            logging.info("%s: %s", self._what, self._text(now - self._started))

    def close(self) -> None:
        """Shows the end of the work."""
        seconds = time.monotonic() - self._started
        if self._bar is not None:
            self._bar.show(self.done, self._text(seconds))
            self._bar.close()
        elif self._was_shown:
            amount = f"{self._amount()}, " if self._unit else ""
            logging.info("%s: done, %s%s", self._what, amount, format_seconds(seconds))

    def __enter__(self) -> "Progress":
        """The progress itself."""
        return self

    def __exit__(self, exception_type: type | None, *_: object) -> None:
        """Shows the end, unless the work failed."""
        if exception_type is None:
            self.close()
        elif self._bar is not None:
            self._bar.close()

    def _text(self, seconds: float) -> str:
        rate = self.done / seconds if seconds > 0 else 0.0
        left = self._seconds_left
        if left is None and self._total is not None and rate > 0:
            left = max(self._total - self.done, 0) / rate
        speed = f"{format_number(rate)} {self._unit}/s" if self._unit else ""
        # A narrow terminal cuts the end off, so the caller's details come last.
        parts = [self._amount(), f"{format_seconds(left)} left" if left else "", speed, self._facts]
        return ", ".join(part for part in parts if part)

    def _amount(self) -> str:
        total = f"/{self._total:,.0f}" if self._total is not None else ""
        return f"{self.done:,.0f}{total} {self._unit}" if self._unit else ""


def format_seconds(seconds: float) -> str:
    """A duration as people say it: "42 s", "12 min", "3 h 05 min", "2 d 7 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def format_number(number: float) -> str:
    """Three digits or more of a number of any size: "2,913", "31.2", "0.0124"."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _columns() -> int:
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return (columns or 80) - 1  # a terminal without a window reports 0, and some break a line that fills it


class _Bar(python_logging.Handler):
    """A bar that stays on the last line of a terminal, below whatever is logged meanwhile."""

    def __init__(self, what: str, total: float | None):
        super().__init__()
        share = "{percentage:3.0f}%|{bar:8}| " if total is not None else ""
        self._bar = tqdm.tqdm(
            total=total,
            bar_format=f"{what}: {share}{{desc}}",
            ncols=_columns(),
            nrows=24,  # any number will do: terminals without a window report none, and tqdm would show nothing
            file=sys.stderr,
            mininterval=float("inf"),
            leave=None,  # a bar below another one goes when its work is done
        )
        python_logging.root.handlers.insert(0, self)

    def emit(self, record: python_logging.LogRecord) -> None:
        """Clears the bar before the handlers behind this one write their line; the next `show` draws it again."""
        self._bar.clear()

    def show(self, done: float, text: str) -> None:
        """Draws the bar with `text` behind it."""
        total, self._bar.ncols = self._bar.total, _columns()
        self._bar.n = done if total is None else min(done, total)
        self._bar.set_description_str(text)

    def close(self) -> None:
        """Ends the bar; the log is as it was before."""
        python_logging.root.removeHandler(self)
        self._bar.close()
        super().close()
