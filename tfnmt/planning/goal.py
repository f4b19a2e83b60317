"""What runs tell of the way to a quality: how many target tokens it takes, and how many more with larger updates."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfnmt.strategies import Strategy

_COUNTED = ("target_tokens", "update")


class Goal(NamedTuple):
    """What is known of the way to the wanted quality.

    Attributes:
      critical_tokens: target tokens of an update at which twice as many tokens are needed as with tiny updates, B*;
        None where nobody has measured it.
      tokens: target tokens that the tiniest updates would need; None where there is no curve.
      target_bleu: the wanted quality.
    """

    critical_tokens: float | None = None
    tokens: float | None = None
    target_bleu: float | None = None


class Arrival(NamedTuple):
    """When a run has come to a quality.

    Attributes:
      tokens: target tokens until then.
      update_tokens: of one update, the mean.
    """

    tokens: float
    update_tokens: float


def crossing(values: Sequence[float], target: float, sign: int = 1) -> float | None:
    """Where values first come to a target, on the line between two of them; None where they never do.

    >>> crossing([10.0, 20.0, 30.0], 25.0)
    1.5

    Args:
      values: in order.
      target: to come to.
      sign: -1 where less is better.

    Returns:
      The number of the value, from 0, with what lies between two of them.
    """
    for number, value in enumerate(values):
        if sign * value >= sign * target:
            rise = value - values[number - 1] if number else 0.0
            return number - (value - target) / rise if rise else float(number)
    return None


def arrival(curve: Sequence[Mapping[str, Any]], target_bleu: float) -> Arrival | None:
    """When a run first came to a BLEU; None if it never did.

    Args:
      curve: the run's evaluations in order, each with `bleu`, `target_tokens` and `update`.
      target_bleu: the BLEU.
    """
    found = crossing([each["bleu"] for each in curve], target_bleu)
    if found is None:
        return None
    tokens, updates = (np.interp(found, range(len(curve)), [each[name] for each in curve]) for name in _COUNTED)
    return Arrival(float(tokens), float(tokens / updates))


def critical_batch(batch_tokens: float, times: float, token_ratio: float) -> float | None:
    """B*, from how many times the tokens so many times the batch needs: (1 + N b / B*) / (1 + b / B*).

    >>> round(critical_batch(100, 8, (1 + 800 / 2000) / (1 + 100 / 2000)))
    2000

    Args:
      batch_tokens: b.
      times: N, the larger batch over b.
      token_ratio: tokens to the target with the larger batch, over those with b.

    Returns:
      B* in target tokens; None where larger batches cost nothing, or as many times the tokens as they are larger.
    """
    if not 1 < token_ratio < times:
        return None
    return batch_tokens * (times - token_ratio) / (token_ratio - 1)


def critical_batch_of(arrivals: Sequence[Arrival]) -> float | None:
    """B*, by what the run with the largest updates needs over the one with the smallest; None where that says nothing.

    >>> critical_batch_of([Arrival(tokens=1.5e6, update_tokens=2000), Arrival(tokens=1.25e6, update_tokens=1000)])
    4000.0
    """
    smallest = min(arrivals, key=lambda each: each.update_tokens)
    largest = max(arrivals, key=lambda each: each.update_tokens)
    times = largest.update_tokens / smallest.update_tokens
    return critical_batch(smallest.update_tokens, times, largest.tokens / smallest.tokens)


def goal_of(arrivals: Sequence[Arrival], target_bleu: float, critical_tokens: float | None) -> Goal:
    """What the arrivals of one or several runs at a BLEU say; the one with the smallest updates tells the tokens."""
    first = min(arrivals, key=lambda each: each.update_tokens)
    excess = 1 + first.update_tokens / critical_tokens if critical_tokens else 1.0
    return Goal(critical_tokens, first.tokens / excess, target_bleu)


def token_excess(strategy: Strategy, workers: int, batch_tokens: int, critical_tokens: float | None) -> float:
    """Target tokens that a row needs to a quality over those that the tiniest updates need.

    With B* the critical batch, they grow with the tokens B that bear on the same parameters as 1 + B/B* (McCandlish et
    al., 2018). Workers that train replicas, or move their own between two pushes, are taken as one batch of all of
    them; what local steps lose by drifting apart is not in the law, nor what stale gradients lose. Without B* it is 1.

    >>> from tfnmt.optimizers.optimizers import OptimizerSettings
    >>> from tfnmt.strategies import Sync
    >>> sync = Sync().row(4, OptimizerSettings())
    >>> token_excess(sync, workers=4, batch_tokens=500, critical_tokens=4000)
    1.5
    """
    if not critical_tokens:
        return 1.0
    moves = strategy.local_update is not None or strategy.exchange.trains_replicas
    steps = 1 if moves else strategy.meetings.steps_per_push
    return 1 + workers * steps * batch_tokens / critical_tokens
