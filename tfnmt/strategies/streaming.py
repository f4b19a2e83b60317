"""Streaming: block momentum whose vectors travel in fragments, one behind the other, while the workers go on.

Of P fragments, every H steps each is exchanged once, the next one H / P steps behind the one before. With w a worker's
replica and θ what the servers hold, of one fragment:

    push w - θ';   the servers move θ by the mean of the N deltas (`tfnmt.strategies.averaging.BlockMomentum`);
    τ steps later   w ← θ + α (w - θ),   θ' ← θ

where θ' is what the worker has pulled last. The push and the pull travel while these τ steps go on, each of the P-th
part of a vector: block momentum sends all at once, and waits. α keeps a part of what the worker has learned meanwhile.

With `--eager_updates` a worker moves by its own part of the servers' update at once, and by that of the others τ steps
later. With Δ_i = w_i - w'_i the delta of worker i in the fragment's update t, and c_i what the servers' block momentum
would make of its deltas Δ_i / N alone:

    push Δ_i(t);   w, w' ← θ(t-1) + c_i(t);   τ steps later   w ← θ(t) + (w - w'),   w' ← θ(t)

The article lets each replica run an outer optimizer of its own on Δ_i(t) / N + [mean Δ(t-1) - Δ_i(t-1) / N]. Block
momentum is linear in what it is given, so that such a replica would begin at θ(t-1) + c_i(t), too: the servers' θ and a
momentum of its own deltas on each worker are enough, and replicas do not drift apart. Departure: in the article a sum
is on its way until the next is sent, as here with P = 1 and τ = H. What arrives sooner is merged sooner.

With `--local_slots=average` the workers' slots are averaged as well: each fragment of them is pushed and pulled beside
that of the parameters, and what is pulled replaces the worker's own.

Sources: Streaming DiLoCo (Douillard et al., 2025); Eager updates (Kale, Douillard & Donchev, 2025).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from graphs.exchange import Vectors
from graphs.local_steps import REPLICA
from graphs.work import Sums
from tfnmt.optimizers.optimizers import OptimizerSettings, local_optimizer
from tfnmt.settings import setting
from tfnmt.strategies.averaging import BlockMomentum, BlockMomentumSettings
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
        """See `graphs.exchange.Exchange`; with α = 0, or w = θ, what comes out is θ, bit for bit."""
        return {REPLICA: servers + self._kept * (held[REPLICA] - servers), "pulled": servers}

    def weight(self, sums: Sums) -> tf.Tensor:
        """One, whatever has become of the block's steps: the delta is of all steps since the fragment's last push."""
        return tf.ones([], tf.float64)


class EagerDelta(MixedDelta):
    """A worker moves by its own part of the servers' update when it pushes, and by all others' when it pulls.

    >>> import numpy as np
    >>> exchange = EagerDelta(BlockMomentum(rate=1.0, momentum=0.0, nesterov=True), workers=4)
    >>> held = {REPLICA: np.array([9.0]), "pulled": np.array([1.0]), "own_update": np.array([0.0])}
    >>> payload, pushed = exchange.push(held)  # of four workers, the others' deltas are zero
    >>> payload.item(), pushed[REPLICA].item()
    (8.0, 3.0)
    >>> exchange.pull({**pushed, REPLICA: np.array([3.5])}, np.array([3.0]))[REPLICA].item()
    3.5
    """

    keeps: Sequence[str] = ("pulled", "own_update")
    saved: Sequence[str] = (REPLICA, "pulled", "own_update")

    def __init__(self, server_update: BlockMomentum, workers: int):
        """Takes how the servers move by the mean delta of so many workers, N."""
        self._server_update, self._workers = server_update, workers

    def pull(self, held: Vectors, servers: tf.Tensor) -> Vectors:
        """See `graphs.exchange.Exchange`."""
        return {REPLICA: servers + (held[REPLICA] - held["pulled"]), "pulled": servers}

    def push(self, held: Vectors) -> tuple[Any, Vectors]:
        """See `graphs.exchange.Exchange`."""
        delta = held[REPLICA] - held["pulled"]
        own, moved = self._server_update.step(held["own_update"], delta / self._workers)
        start = held["pulled"] + moved
        return delta, {REPLICA: start, "pulled": start, "own_update": own}


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
    eager_updates: bool = setting(
        False,
        "A worker moves a fragment by its own part of the update when it pushes it, and by the others' when it pulls "
        "it; it keeps all that it has learned in between.",
        only_with={"fragment_delay": None},
    )
    local_slots: str = setting(
        KEEP,
        "What becomes of the local optimizers' state: each worker keeps its own, or each fragment of it is averaged "
        "with that of the parameters, for which as many more vectors travel, two with Adam.",
        choices=(KEEP, AVERAGE),
    )

    def faults(self) -> list[str]:
        """Fragments that do not fit into the steps; a share of what is kept as a whole."""
        if self.local_steps % self.fragments:
            return [f"--fragments={self.fragments}: must divide --local_steps={self.local_steps}."]
        steps = self.local_steps // self.fragments
        if self.fragment_delay > steps:
            return [
                f"--fragment_delay={self.fragment_delay}: the next fragment is pushed behind {steps} steps "
                f"(--local_steps={self.local_steps} over --fragments={self.fragments}); give at most so many."
            ]
        if self.eager_updates and self.kept_replica != Streaming.kept_replica:
            return [
                f"--kept_replica={self.kept_replica:g}: with --eager_updates workers keep all that they have learned "
                "while a fragment travelled; leave it out."
            ]
        return []

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        update = self.server_update(workers, optimizer)
        return Strategy(
            update,
            exchange=EagerDelta(update, workers) if self.eager_updates else MixedDelta(self.kept_replica),
            meetings=Meetings.staggered(self.local_steps // self.fragments, self.fragments, self.fragment_delay),
            local_update=local_optimizer(optimizer),
            local_slots=self.local_slots,
            quorum=workers,
        )
