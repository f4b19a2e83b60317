"""Rounds that end without the workers that are late.

The servers' update waits for the payloads of K of N workers and then, for at most a grace time, for the others. It
moves by the mean of those that have come, each by its weight, and counts their batches and tokens alone. With K = N,
or a grace time without end, that is the barrier.

What comes later belongs to its worker's next round, if it is not too stale: it counts there as any other payload, and
less with `--staleness_exponent`. Its worker waits for the end of that round, and is in step again. No payload counts
twice, and no worker has two in one update. With `--max_staleness=0` it is dropped, and its worker begins anew at once.

Sources: Decoupled DiLoCo (Douillard et al., 2026) merges the payloads of a quorum and those that come within a grace
time, which it adapts; here it is a constant. Backup workers (Chen et al., "Revisiting Distributed Synchronous SGD",
2016) are N - K workers, no grace time, and late gradients that are dropped.
"""

import dataclasses

from graphs.staleness import Staleness
from tfnmt.settings import setting
from tfnmt.strategies.row import Strategy


@dataclasses.dataclass(frozen=True)
class QuorumSettings:
    """The flags of rows with a barrier that can go on without the workers that are late."""

    quorum: int | None = setting(
        None,
        "Payloads for which an update waits, K of N workers'; what comes later counts in the next update. Empty for "
        "those of all workers.",
        minimum=1,
    )
    quorum_grace_seconds: float = setting(
        0.0,
        "Seconds for which an update still waits for the other workers once --quorum payloads are there.",
        minimum=0,
        only_with={"quorum": None},
    )
    staleness_exponent: float = setting(
        0.0,
        "A payload that comes s updates late counts as much less as (1 + s) to the power of this says, at a learning "
        "rate that is as much lower; 0 for all of it.",
        minimum=0,
        only_with={"quorum": None},
    )
    max_staleness: int | None = setting(
        None,
        "Servers drop a payload that comes more updates late than this; 0 for all that are late, empty for no limit.",
        minimum=0,
        only_with={"quorum": None},
    )

    def with_quorum(self, row: Strategy) -> Strategy:
        """The row of a barrier, whose rounds end as the flags say."""
        if self.quorum is None:
            return row
        return dataclasses.replace(
            row,
            least_payloads=self.quorum,
            grace_seconds=self.quorum_grace_seconds,
            staleness=Staleness(self.staleness_exponent, self.max_staleness),
        )
