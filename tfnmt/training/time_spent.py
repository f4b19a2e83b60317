"""Where the workers' time goes: computing, and what keeps them from it."""

import dataclasses
import operator
from collections.abc import Sequence

from tfnmt.engines.report import PushReport

LOSSES = {
    "reader_share": ("reader", "The reader needs more --threads, or training files that are not compressed."),
    "pull_share": ("pulls", "Rows with local steps pull less: --strategy=model_average --local_steps=30."),
    "push_share": ("pushes", "Rows with local steps push less: --strategy=model_average --local_steps=30."),
    "barrier_wait_share": ("waiting for others", "Rows without a barrier wait for nobody: --strategy=summed_async."),
    "server_share": ("servers", "Servers do more at once with more --parameter_servers or --threads."),
    "other_share": ("overhead", "Blocks are fewer with larger --batch_positions or --local_steps."),
}
"""Share of the time -> what it was lost to, in words, and the remedy."""


@dataclasses.dataclass(frozen=True)
class TimeSpent:
    """Seconds of all workers, sums over their pushes; each field but the first is a part of it."""

    whole: float = 0.0
    compute: float = 0.0
    reader: float = 0.0
    pull: float = 0.0
    push: float = 0.0
    barrier_wait: float = 0.0
    server: float = 0.0

    @classmethod
    def of(cls, pushes: Sequence[PushReport]) -> "TimeSpent":
        """The time of these pushes."""
        return sum((cls(*_SECONDS(push)) for push in pushes), cls())

    def __add__(self, other: "TimeSpent") -> "TimeSpent":
        """The sum, field by field."""
        return TimeSpent(*map(operator.add, vars(self).values(), vars(other).values()))

    def shares(self) -> dict[str, float]:
        """The share of each part, and of the rest, by its name in the metrics; nothing where no time has passed.

        Where pushes have queued at the servers the parts may be of more time than the whole; the shares never are.
        """
        seconds = vars(self)
        known = {f"{name}_share": seconds[name] for name in seconds if name != "whole"}
        whole = max(self.whole, sum(known.values()))
        if not whole:
            return {}
        known["other_share"] = whole - sum(known.values())
        return {name: max(part / whole, 0.0) for name, part in known.items()}


_SECONDS = operator.attrgetter(
    "seconds",
    "compute_seconds",
    "data_wait_seconds",
    "pull_seconds",
    "push_seconds",
    "wait_seconds",
    "server_seconds",
)


def largest_loss(spent: TimeSpent) -> str | None:
    """The share that most of the time is lost to, by its name in the metrics; None where no time has passed."""
    shares = spent.shares()
    return max(LOSSES, key=lambda name: shares[name]) if shares else None


def loss_text(spent: TimeSpent) -> str:
    """The largest loss and its share of the time, for a log line."""
    name = largest_loss(spent)
    return "" if name is None else f"{LOSSES[name][0]} {spent.shares()[name]:.1%}"


def remedy_text(spent: TimeSpent) -> str | None:
    """What takes most of the time and what to do about it; None where workers compute for half of it or more."""
    name, shares = largest_loss(spent), spent.shares()
    if name is None or shares["compute_share"] >= 0.5:
        return None
    what, remedy = LOSSES[name]
    return f"Workers compute for {shares['compute_share']:.0%} of the time; {what}: {shares[name]:.0%}. {remedy}"
