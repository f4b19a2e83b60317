"""Where the workers' time goes: computing, and what keeps them from it."""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tfnmt.engines.report import PushReport
from tfnmt.strategies import ModelAverage, RowSettings, SummedAsync
from tfnmt.strategies.streaming import Streaming


class Part(NamedTuple):
    """A part of the workers' time.

    Attributes:
      seconds: the field of a push that has them; empty for the rest, which no engine measures.
      words: what it is, for people.
      remedy: what makes it smaller; empty for computing, which is no loss.
      rows: those of the remedy, by the flags that choose them.
    """

    seconds: str
    words: str
    remedy: str = ""
    rows: Mapping[str, RowSettings] = types.MappingProxyType({})


_LEAST_SPEED_UP = 1.05  # that is worth a word
_WHILE_THEY_GO_ON: dict[str, RowSettings] = {"--strategy=streaming": Streaming()}
_WITHOUT_WAITING: dict[str, RowSettings] = {
    "--strategy=summed_async": SummedAsync(),
    "--strategy=model_average --blocks_by_speed": ModelAverage(blocks_by_speed=True),
}


TIME = {
    "compute_share": Part("compute_seconds", "computing"),
    "reader_share": Part(
        "data_wait_seconds", "reader", "The reader needs more --threads, or training files that are not compressed."
    ),
    "pull_share": Part(
        "pull_seconds",
        "pulls",
        "--strategy=streaming pulls once in --local_steps, and while the workers go on.",
        _WHILE_THEY_GO_ON,
    ),
    "push_share": Part(
        "push_seconds",
        "pushes",
        "--strategy=streaming pushes once in --local_steps, and while the workers go on.",
        _WHILE_THEY_GO_ON,
    ),
    "barrier_wait_share": Part(
        "wait_seconds",
        "waiting for others",
        "Nobody waits under --strategy=summed_async, or for a slow machine under --strategy=model_average "
        "--blocks_by_speed.",
        _WITHOUT_WAITING,
    ),
    "server_share": Part(
        "server_seconds", "servers", "Servers do more at once with more --parameter_servers or --threads."
    ),
    "other_share": Part("", "overhead", "Blocks are fewer with larger --batch_positions or --local_steps."),
}
"""A share's name in the metrics -> the part of the time."""


SpeedUp = Callable[[RowSettings], float | None]
"""A row -> how many times the target tokens a second it would have; None where it cannot run here."""


def time_shares(pushes: Sequence[PushReport]) -> dict[str, float]:
    """The shares of the workers' time between these pushes and the ones before, by name; nothing where none has passed.

    Where pushes have queued at the servers the parts may be of more time than the whole; the shares never are.
    """
    parts = {name: sum(getattr(push, part.seconds) for push in pushes) for name, part in TIME.items() if part.seconds}
    measured = sum(parts.values())
    whole = max(sum(push.seconds for push in pushes), measured)
    parts["other_share"] = whole - measured
    return {name: max(seconds / whole, 0.0) for name, seconds in parts.items()} if whole else {}


def loss_text(shares: Mapping[str, float]) -> str:
    """The largest loss and its share of the time, for a log line; nothing without shares."""
    if not shares:
        return ""
    name = _largest_loss(shares)
    return f"{TIME[name].words} {shares[name]:.1%}"


def remedy_text(shares: Mapping[str, float], speed_up: SpeedUp) -> str:
    """The largest loss and what to do about it; nothing where workers compute for half of the time or more.

    Args:
      shares: of the workers' time, by name.
      speed_up: predicts of a row how much faster it would be.
    """
    if not shares or shares["compute_share"] >= 0.5:
        return ""
    name = _largest_loss(shares)
    part = TIME[name]
    text = f"Workers compute for {shares['compute_share']:.0%} of the time; {part.words}: {shares[name]:.0%}. "
    predicted = {flags: speed_up(row) for flags, row in part.rows.items()}
    gains = [f"{flags} {gain:.1f} times" for flags, gain in predicted.items() if gain and gain > _LEAST_SPEED_UP]
    if not gains:
        return text + part.remedy
    return f"{text}{part.remedy} Predicted: {' and '.join(gains)} the target tokens/s; tfnmt-plan says more."


def _largest_loss(shares: Mapping[str, float]) -> str:
    return max((name for name, part in TIME.items() if part.remedy), key=lambda name: shares[name])
