"""Streaming: block momentum whose vectors travel in fragments, one behind the other, while the workers go on.

Of P fragments, every H steps each is exchanged once, the next one H / P steps behind the one before. With w a worker's
replica and θ what the servers hold, of one fragment:

    push w - θ';   the servers move θ by the mean of the N deltas (`tfnmt.strategies.averaging.BlockMomentum`);
    τ steps later   w ← θ + α (w - θ),   θ' ← θ

where θ' is what the worker has pulled last. The push and the pull travel while these τ steps go on, each of the P-th
part of a vector: block momentum sends all at once, and waits. α keeps a part of what the worker has learned meanwhile.

With `--local_slots=average` the workers' slots are averaged as well: each fragment of them is pushed and pulled beside
that of the parameters, and what is pulled replaces the worker's own.

Source: Streaming DiLoCo (Douillard et al., 2025).
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from graphs.block import Vectors
from graphs.local_steps import REPLICA
from graphs.work import Sums
from tfnmt.optimizers.optimizers import OptimizerSettings, local_optimizer
from tfnmt.settings import setting
from tfnmt.strategies.averaging import BlockMomentumSettings
from tfnmt.strategies.exchanges import ParameterDelta
from tfnmt.strategies.row import AVERAGE, KEEP, Meetings, Strategy


class MixedDelta(ParameterDelta):
    """A worker mixes its replica with what it pulls, w ← θ + α (w - θ), and pushes w - θ.

    >>> import numpy as np
    >>> exchange = MixedDelta(0.25)
    >>> exchange.pull({REPLICA: np.array([8.0])}, np.array([4.0]))[REPLICA].item()
    5.0
    """

    saved: Sequence[str] = (REPLICA, "pulled")

    def __init__(self, kept: float):
        """Takes the share of the replica that is kept, α."""
        self._kept = kept

    def pull(self, held: Vectors, servers: tf.Tensor) -> Vectors:
        """See `graphs.block.Exchange`; with α = 0, or w = θ, what comes out is θ, bit for bit."""
        return {REPLICA: servers + self._kept * (held[REPLICA] - servers), "pulled": servers}

    def weight(self, sums: Sums) -> tf.Tensor:
        """One, whatever has become of the block's steps: the delta is of all steps since the fragment's last push."""
        return tf.ones([], tf.float64)


@dataclasses.dataclass(frozen=True)
class Streaming(BlockMomentumSettings):
    """Streaming: block momentum whose vectors travel in fragments, one behind the other, while the workers go on."""

    local_steps: int = setting(100, "Steps between two exchanges of a fragment, H.", minimum=1)
    fragments: int = setting(
        4, "Parts of the parameters that travel one behind the other, P; H / P steps lie between two.", minimum=1
    )
    fragment_delay: int = setting(
        2, "Steps that go on between the push of a fragment and its pull, τ; at most H / P.", minimum=0
    )
    kept_replica: float = setting(
        0.5, "Share of its own parameters that a worker keeps when it pulls a fragment, α.", minimum=0, maximum=1
    )
    local_slots: str = setting(
        KEEP,
        "What becomes of the local optimizers' state: each worker keeps its own, or each fragment of it is averaged "
        "with that of the parameters, for which as many more vectors travel, two with Adam.",
        choices=(KEEP, AVERAGE),
    )

    def faults(self) -> list[str]:
        """Fragments that do not fit into the steps."""
        if self.local_steps % self.fragments:
            return [f"--fragments={self.fragments}: must divide --local_steps={self.local_steps}."]
        steps = self.local_steps // self.fragments
        if self.fragment_delay > steps:
            return [
                f"--fragment_delay={self.fragment_delay}: the next fragment is pushed behind {steps} steps "
                f"(--local_steps={self.local_steps} over --fragments={self.fragments}); give at most so many."
            ]
        return []

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        return Strategy(
            self.server_update(workers, optimizer),
            exchange=MixedDelta(self.kept_replica),
            meetings=Meetings.staggered(self.local_steps // self.fragments, self.fragments, self.fragment_delay),
            local_update=local_optimizer(optimizer),
            local_slots=self.local_slots,
            quorum=workers,
        )
