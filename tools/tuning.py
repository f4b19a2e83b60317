"""How a study chooses among rates and reads a curve: functions of numbers, with nothing of training in them."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

Config = TypeVar("Config")


class Crossing(NamedTuple):
    """Where a curve comes down to a target."""

    tokens: float  # target tokens of all workers
    updates: float
    seconds: float  # virtual


def crossing(curve: Sequence[dict], target: float) -> Crossing | None:
    """Where the cross entropy first comes down to the target, on the line between the two evaluations around it.

    Args:
      curve: evaluations in order, each with `tokens`, `updates`, `seconds` and `cross_entropy`.
      target: cross entropy.

    Returns:
      The crossing; None where the curve stays above the target, or begins below it.
    """
    for before, behind in itertools.pairwise(curve):
        above, below = before["cross_entropy"], behind["cross_entropy"]
        if below <= target < above:
            share = (above - target) / (above - below)
            return Crossing(*(before[name] + share * (behind[name] - before[name]) for name in Crossing._fields))
    return None


def halve(
    configs: Sequence[Config], rungs: Sequence[float], loss: Callable[[Config, float], float]
) -> tuple[Config, list[list[tuple[Config, float]]]]:
    """Successive halving (Jamieson & Talwalkar, 2016): all go to the first rung, the better half of them to the next.

    >>> best, _ = halve([1, 2, 3, 4], [0.2, 0.5], lambda config, rung: abs(config - 3) + rung)
    >>> best
    3

    Args:
      configs: what is compared.
      rungs: budgets, rising.
      loss: (config, budget) -> how bad it is behind so much; NaN is worse than anything.

    Returns:
      The best of the last rung, and for each rung what has been compared, the best first.
    """
    left, history = list(configs), []
    for number, rung in enumerate(rungs):
        losses = [(config, loss(config, rung)) for config in left]
        ranked = sorted(losses, key=lambda each: (each[1] != each[1], each[1]))
        history.append(ranked)
        keep = 1 if number == len(rungs) - 1 else -(-len(ranked) // 2)
        left = [config for config, _ in ranked[:keep]]
    return left[0], history
