"""How fast workers compute, and how many steps each does while the fastest does a whole block.

With v the speed of a worker, in steps per second, and H the steps of a block, worker i does

    H_i = max(1, ⌊v_i / v_max · H⌋)

Source: the dynamic local updates of Asynchronous Local-SGD (Liu et al., 2024).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

KEPT = 0.5
"""What a block leaves of those before it: a speed is of the last few, and follows a machine."""

_ROUNDING = 1e-9  # of measured seconds, which must not take a step off a whole number of them


class Speed(NamedTuple):
    """What a worker has computed lately: sums in which older blocks count less, divided where they are read."""

    steps: float = 0.0
    seconds: float = 0.0

    def after(self, steps: float, seconds: float) -> "Speed":
        """The speed behind one more block."""
        return Speed(KEPT * self.steps + steps, KEPT * self.seconds + seconds)


def steps_in_proportion(speeds: Sequence[Speed], worker: int, most: int) -> int:
    """H_i of a worker; `most`, H, until everybody's speed is known.

    >>> steps_in_proportion([Speed(10, seconds=5), Speed(10, seconds=10), Speed(10, seconds=99)], 1, most=9)
    4
    """
    if not all(speed.seconds for speed in speeds):
        return most
    rates = [speed.steps / speed.seconds for speed in speeds]
    return max(1, math.floor(rates[worker] / max(rates) * most + _ROUNDING))
