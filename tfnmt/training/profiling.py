"""A profile of a few updates, for TensorBoard's profile page."""

import re
from pathlib import Path

import tensorflow as tf
from absl import logging


def parse_range(text: str) -> tuple[int, int] | None:
    """The first and last update of "100-110" or "100"; None when `text` is neither, or wants the first update.

    The first update is never worth a profile: most of it is the making of the graph.
    """
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if match is None:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    return (first, last) if 2 <= first <= last else None


class Profiler:
    """Profiles the updates of one range."""

    def __init__(self, updates: tuple[int, int] | None, directory: Path | str):
        """Starts nothing yet; `updates` are the first and the last one to profile, None for none."""
        self._updates, self._directory = updates, str(directory)
        self._running = False

    def after(self, update: int) -> None:
        """Starts before the first update of the range, which is after the one before it, and stops after the last."""
        if self._updates is None:
            return
        first, last = self._updates
        if self._running and update >= last:
            self.close()
        elif not self._running and first - 1 <= update < last:
            tf.profiler.experimental.start(self._directory)
            self._running = True

    def close(self) -> None:
        """Stops and writes the profile, if it runs."""
        if self._running:
            self._running, self._updates = False, None
            tf.profiler.experimental.stop()
            logging.info("A profile is in %s; to see it: pip install tensorboard-plugin-profile.", self._directory)
