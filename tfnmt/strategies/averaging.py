"""Rows whose workers train replicas for H steps: model averaging and blockwise model-update filtering (BMUF).

The server updates below are optimizers whose argument `gradient` is G, the mean of the workers' deltas.

With `--payload_weights=tokens` G is the mean Σ w Δ / Σ w of deltas Δ that count by what they were learnt from: of a
worker with T target tokens in k steps, w = T · T / k (Decoupled DiLoCo, 2026).

With `--blocks_by_speed` the fastest worker does H steps, and every other one as many as it does meanwhile
(`tfnmt.engines.speeds`), so that nobody waits for a slow one.

Sources: Alibaba's TensorFlow code of 2017 (tensorflow/tensorflow pull request 11581); Chen & Huo, ICASSP 2016. The
Nesterov form of block momentum equals SGD with Nesterov momentum on the pseudo-gradient -G, which is also the outer
step of DiLoCo (Douillard et al., 2023).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from graphs.work import Sums
from tfnmt.optimizers.optimizers import Optimizer, OptimizerSettings, local_optimizer
from tfnmt.settings import setting
from tfnmt.strategies.exchanges import ParameterDelta
from tfnmt.strategies.quorum import QuorumSettings
from tfnmt.strategies.row import AVERAGE, KEEP, RESET, Meetings, Strategy, speed_faults


class AddMean(Optimizer):
    """θ ← θ + a G, with G the mean delta of the workers; with a = 1 that is model averaging."""

    def __init__(self, share: float = 1.0):
        """Takes a."""
        self._share = share

    def apply(self, parameters, slots, gradient, learning_rate, version) -> None:
        """See `tfnmt.optimizers.optimizers.Optimizer`; `gradient` is G, and the learning rate is not read."""
        value = gradient if self._share == 1 else self._share * gradient
        tf.raw_ops.AssignAddVariableOp(resource=parameters, value=value)


class AddSum(AddMean):
    """θ ← θ + a ΣG, with ΣG the sum of the payloads, however many of them count."""

    reads_sum = True


class BlockMomentum(Optimizer):
    """Blockwise model-update filtering: Δ ← η Δ + ζ G.

    Classical: θ ← θ + Δ. Nesterov: W ← W + Δ; θ ← W + η Δ, where workers pull θ, while W is evaluated and saved.
    """

    momentum: str | None = "block_update"

    def __init__(self, rate: float, momentum: float, nesterov: bool):
        """Takes the block learning rate ζ, the block momentum rate η, and the form."""
        self.slots: Mapping[str, float | None] = {"block_update": 0.0, **({"filtered": None} if nesterov else {})}
        self.evaluated = "filtered" if nesterov else "parameters"
        self._rate, self._momentum = rate, momentum

    def apply(self, parameters, slots, gradient, learning_rate, version) -> None:
        """See `tfnmt.optimizers.optimizers.Optimizer`; `gradient` is G, and the learning rate is not read."""
        dtype = gradient.dtype
        update, _ = self.step(_read(slots["block_update"], dtype), gradient)
        tf.raw_ops.AssignVariableOp(resource=slots["block_update"], value=update)
        if "filtered" not in slots:
            tf.raw_ops.AssignAddVariableOp(resource=parameters, value=update)
            return
        filtered = _read(slots["filtered"], dtype) + update
        tf.raw_ops.AssignVariableOp(resource=slots["filtered"], value=filtered)
        tf.raw_ops.AssignVariableOp(resource=parameters, value=filtered + self._momentum * update)

    def step(self, before: Any, mean: Any) -> tuple[Any, Any]:
        """Δ behind a mean delta G, where it was `before`, and how far θ moves: Δ, Nesterov's (1 + η) Δ - η `before`."""
        update = self._momentum * before + self._rate * mean
        # Not Δ + η (Δ - before): to what a caller adds it, TensorFlow makes one sum of all, in an order of its own.
        return update, (1 + self._momentum) * update - self._momentum * before if "filtered" in self.slots else update


def token_weight(sums: Sums) -> float:
    """w = T · T / k of T target tokens in k steps, of which refused ones are none; 0 without any."""
    steps = sums.steps - sums.refused
    return float(sums.target_tokens**2 / steps) if steps else 0.0


@dataclasses.dataclass(frozen=True)
class ModelAverage(QuorumSettings):
    """Model averaging: every worker trains its replica for H steps, then the replicas are averaged."""

    local_steps: int = setting(100, "Steps between two averagings, H.", minimum=1)
    sync_every_seconds: float = setting(
        0.0, "Seconds after which a block ends before it has its --local_steps; 0 for never.", minimum=0
    )
    local_slots: str = setting(
        KEEP,
        "What becomes of the local optimizers' state at an averaging: each worker keeps its own, all reset theirs, or "
        "it is averaged too, for which as many more vectors travel, two with Adam.",
        choices=(KEEP, RESET, AVERAGE),
    )
    payload_weights: str = setting(
        "equal",
        "What the workers' deltas count in their mean: all alike, or each by what it was learnt from, its target "
        "tokens times its tokens a step.",
        choices=("equal", "tokens"),
    )
    blocks_by_speed: bool = setting(
        False,
        "The fastest worker does all --local_steps between two averagings, and every other one as many as it does "
        "meanwhile, by the speeds measured so far; --payload_weights=tokens goes with it.",
    )

    def faults(self) -> list[str]:
        """Blocks in which there is nothing to be left out."""
        return speed_faults("local_steps", self.local_steps, self.sync_every_seconds) if self.blocks_by_speed else []

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        meetings = Meetings.every(self.local_steps, self.local_steps, self.sync_every_seconds)
        row = Strategy(
            self.server_update(workers, optimizer),
            exchange=ParameterDelta(),
            meetings=dataclasses.replace(meetings, by_speed=self.blocks_by_speed),
            local_update=local_optimizer(optimizer),
            local_slots=self.local_slots,
            quorum=workers,
            payload_weight=token_weight if self.payload_weights == "tokens" else None,
        )
        return self.with_quorum(row)

    def server_update(self, workers: int, optimizer: OptimizerSettings) -> Optimizer:
        """The equation by which the servers move."""
        return AddMean()


@dataclasses.dataclass(frozen=True)
class BlockMomentumSettings:
    """How servers carry momentum from block to block."""

    block_learning_rate: float = setting(1.0, "Block learning rate ζ.", minimum=0)
    block_momentum: float | None = setting(
        None,
        "Block momentum rate η; empty for 1 - 1/N with N workers or, where the workers' optimizer adapts its steps, "
        "for 0, 0.2, 0.5 and 0.6 from 1, 4, 8 and 16 workers on.",
        minimum=0,
        below=1,
    )
    block_nesterov: bool = setting(True, "Nesterov's block momentum rather than the classical one.")

    def server_update(self, workers: int, optimizer: OptimizerSettings) -> BlockMomentum:
        """The equation by which the servers move."""
        momentum = self.block_momentum
        if momentum is None:
            momentum = default_block_momentum(workers, optimizer.optimizer)
        return BlockMomentum(self.block_learning_rate, momentum, self.block_nesterov)


@dataclasses.dataclass(frozen=True)
class Bmuf(BlockMomentumSettings, ModelAverage):
    """Blockwise model-update filtering: model averaging whose servers carry momentum from block to block."""


def default_block_momentum(workers: int, optimizer: str) -> float:
    """The block momentum η for a number of workers whose local optimizer is `optimizer`.

    Momentum makes a steady update 1 / (1 - η) times as large: with 1 - 1/N the mean of N deltas counts as their sum
    (Chen & Huo, 2016). Adaptive optimizers get the smaller values of SlowMo with Adam on WMT (Wang et al., 2019).
    """
    if optimizer in ("sgd", "momentum", "nesterov"):
        return 1 - 1 / workers
    return next(momentum for least, momentum in ((16, 0.6), (8, 0.5), (4, 0.2), (1, 0.0)) if workers >= least)


def _read(handle: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
