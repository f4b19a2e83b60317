"""When training ends by itself: at a limit, or when evaluations stop improving."""

import dataclasses
import math
from typing import NamedTuple

from tfnmt.progress import format_number
from tfnmt.settings import setting
from tfnmt.training.totals import Totals

HIGHER_IS_BETTER = {"bleu": True, "chrf": True, "ter": False, "loss": False, "cross_entropy": False, "command": True}
"""The metrics of an evaluation, and which way is up."""


@dataclasses.dataclass(frozen=True)
class StoppingSettings:
    """Limits of a run, the parts before a resume included; whichever comes first ends it."""

    max_updates: int = setting(0, "Updates after which training ends; 0 for no such limit.", minimum=0, may_change=True)
    max_epochs: int = setting(
        0,
        "Epochs after which training ends, with the first update that reads beyond; 0 for no such limit.",
        minimum=0,
        may_change=True,
    )
    max_tokens: int = setting(
        0, "Target tokens after which training ends; 0 for no such limit.", minimum=0, may_change=True
    )
    max_minutes: float = setting(
        0.0,
        "Minutes of training after which it ends, evaluation and saving not counted; 0 for no such limit.",
        minimum=0,
        may_change=True,
    )
    early_stopping_patience: int = setting(
        0,
        "Evaluations in a row without improvement after which training ends; 0 for never.",
        minimum=0,
        may_change=True,
    )
    early_stopping_metric: str = setting(
        "bleu",
        "The validation metric that decides which checkpoint is best and whether an evaluation improved; command is "
        "the first number of --metrics_command, of which a higher one must be better.",
        choices=tuple(HIGHER_IS_BETTER),
    )
    early_stopping_minimum: float = setting(
        0.0, "Smallest change of the metric that counts as an improvement.", minimum=0, may_change=True
    )
    early_stopping_target: float | None = setting(
        None, "Training ends once the best value of the metric has come this far; empty for never.", may_change=True
    )


class _Limit(NamedTuple):
    text: str
    limit: float
    done: float


def _limits(settings: StoppingSettings, totals: Totals) -> list[_Limit]:
    limits = [
        _Limit("updates", settings.max_updates, totals.updates),
        _Limit("epochs", settings.max_epochs, totals.epochs),
        _Limit("tokens", settings.max_tokens, totals.target_tokens),
        _Limit("minutes", settings.max_minutes, totals.seconds / 60),
    ]
    return [limit for limit in limits if limit.limit > 0]


def limit_reached(settings: StoppingSettings, totals: Totals) -> str | None:
    """Which limit `totals` has reached, as text; None while there is more to do."""
    reached = [limit for limit in _limits(settings, totals) if limit.done >= limit.limit]
    return f"--max_{reached[0].text}={format_number(reached[0].limit)} reached" if reached else None


def share_done(settings: StoppingSettings, totals: Totals) -> float | None:
    """Share of the nearest limit that is used up, 0 to 1; None without a limit."""
    shares = [limit.done / limit.limit for limit in _limits(settings, totals)]
    return min(max(shares), 1.0) if shares else None


def seconds_left(settings: StoppingSettings, totals: Totals, earlier: Totals) -> float | None:
    """Seconds of training until the first limit, at the speed since `earlier`; None when it cannot be told."""
    seconds = totals.seconds - earlier.seconds
    pairs = zip(_limits(settings, totals), _limits(settings, earlier), strict=True)
    left = [(now.limit - now.done) * seconds / (now.done - then.done) for now, then in pairs if now.done > then.done]
    return max(min(left), 0.0) if left else None


def describe_limits(settings: StoppingSettings) -> str:
    """What ends the run, as a sentence for its start."""
    ends = [f"{format_number(limit.limit)} {limit.text}" for limit in _limits(settings, Totals())]
    if settings.early_stopping_patience:
        ends.append(f"{settings.early_stopping_patience} evaluations without a better {settings.early_stopping_metric}")
    if settings.early_stopping_target is not None:
        ends.append(f"a {settings.early_stopping_metric} of {settings.early_stopping_target:g}")
    return f"Training ends after {' or '.join(ends)}." if ends else "Training has no limit: Ctrl-C saves and ends it."


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """The best evaluation so far. `dataclasses.asdict` makes it JSON, `EarlyStopping(**json)` brings it back."""

    best: float | None = None
    best_update: int = 0
    evaluations_without_improvement: int = 0

    def after(self, settings: StoppingSettings, value: float, update: int) -> "EarlyStopping":
        """The state behind an evaluation of `--early_stopping_metric` at `update`."""
        if _improves(settings, value, self.best):
            return EarlyStopping(value, update)
        return dataclasses.replace(self, evaluations_without_improvement=self.evaluations_without_improvement + 1)

    def target_reached(self, settings: StoppingSettings) -> str | None:
        """Why training ends, as text; None while the best is not good enough or nothing is."""
        metric, target = settings.early_stopping_metric, settings.early_stopping_target
        if target is None or self.best is None:
            return None
        reached = self.best >= target if HIGHER_IS_BETTER[metric] else self.best <= target
        return f"{metric} {self.best:.4g} at update {self.best_update:,} reached {target:g}" if reached else None

    def patience_ended(self, settings: StoppingSettings) -> str | None:
        """Why training ends, as text; None while it goes on."""
        waited = self.evaluations_without_improvement
        if not 0 < settings.early_stopping_patience <= waited:
            return None
        best = f"; the best is {self.best:.4g} at update {self.best_update:,}" if self.best is not None else ""
        return f"no better {settings.early_stopping_metric} in {waited} evaluations{best}"


def _improves(settings: StoppingSettings, value: float, best: float | None) -> bool:
    if not math.isfinite(value) or best is None:
        return math.isfinite(value)
    change = value - best if HIGHER_IS_BETTER[settings.early_stopping_metric] else best - value
    return change > 0 and change >= settings.early_stopping_minimum
