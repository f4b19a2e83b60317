"""The virtual clock, and what workers spend by it."""

import dataclasses

from tfnmt.engines.worker import Push


@dataclasses.dataclass
class Spent:
    """Virtual seconds that a worker has spent since its last push that was absorbed."""

    compute: float = 0.0
    pull: float = 0.0
    push: float = 0.0
    waiting: float = 0.0  # for others
    servers: float = 0.0

    def forget_block(self) -> None:
        """Leaves out what a block has cost that is done anew: no graph would tell it."""
        self.compute = self.pull = self.push = 0.0

    def in_place_of_real(self, push: Push) -> Push:
        """The push with this instead of what the real machine needed; a virtual clock knows no reader."""
        sums = push.work.sums._replace(
            data_wait_seconds=0.0, step_seconds=self.compute, pull_seconds=self.pull, push_seconds=self.push
        )
        return push._replace(work=push.work._replace(sums=sums))


class VirtualClock:
    """Seconds since training began, which pass when a schedule says so.

    Attributes:
      now: that many.
    """

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.now = 0.0

    def __call__(self) -> float:
        """That many, as `time.monotonic` would say it."""
        return self.now
