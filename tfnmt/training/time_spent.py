"""Where the workers' time goes: computing, and what keeps them from it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tfnmt.engines.report import PushReport


class Part(NamedTuple):
    """A part of the workers' time.

    Attributes:
      seconds: the field of a push that has them; empty for the rest, which no engine measures.
      words: what it is, for people.
      remedy: what makes it smaller; empty for computing, which is no loss.
    """

    seconds: str
    words: str
    remedy: str = ""


TIME = {
    "compute_share": Part("compute_seconds", "computing"),
    "reader_share": Part(
        "data_wait_seconds", "reader", "The reader needs more --threads, or training files that are not compressed."
    ),
    "pull_share": Part(
        "pull_seconds", "pulls", "--strategy=streaming pulls once in --local_steps, and while the workers go on."
    ),
    "push_share": Part(
        "push_seconds", "pushes", "--strategy=streaming pushes once in --local_steps, and while the workers go on."
    ),
    "barrier_wait_share": Part(
        "wait_seconds",
        "waiting for others",
        "Nobody waits under --strategy=summed_async, or for a slow machine under --strategy=model_average "
        "--blocks_by_speed.",
    ),
    "server_share": Part(
        "server_seconds", "servers", "Servers do more at once with more --parameter_servers or --threads."
    ),
    "other_share": Part("", "overhead", "Blocks are fewer with larger --batch_positions or --local_steps."),
}
"""A share's name in the metrics -> the part of the time."""


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


def remedy_text(shares: Mapping[str, float]) -> str:
    """What takes most of the time and what to do about it; nothing where workers compute for half of it or more."""
    if not shares or shares["compute_share"] >= 0.5:
        return ""
    name = _largest_loss(shares)
    lost = f"{TIME[name].words}: {shares[name]:.0%}. {TIME[name].remedy}"
    return f"Workers compute for {shares['compute_share']:.0%} of the time; {lost}"


def _largest_loss(shares: Mapping[str, float]) -> str:
    return max((name for name, part in TIME.items() if part.remedy), key=lambda name: shares[name])
