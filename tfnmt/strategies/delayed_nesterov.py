"""Asynchronous local SGD with delayed Nesterov momentum (Liu et al., "Asynchronous Local-SGD Training", 2024).

Every worker trains its replica for H steps and pushes its delta G without waiting. Deltas that come one by one are
stale, and training becomes unstable if each of them moves the momentum m. So m moves at every d-th push only, by the
mean of the last d deltas; the pushes between add their delta to θ and, with c > 0, a share of the old momentum:

    a ← a + G
    every d-th push:   m ← β m + a / d;   θ ← θ + ε ((1 - c d + c) β m + G / d);   a ← 0
    otherwise:         θ ← θ + ε (c β m + G / d)

The paper's Δ is -G. With its dynamic local updates, `--blocks_by_speed`, a slow worker does fewer than H steps
(`tfnmt.engines.speeds`), so that all push equally often and no delta is staler than the others.
"""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from graphs.staleness import Staleness
from tfnmt.optimizers.optimizers import Optimizer, OptimizerSettings, local_optimizer
from tfnmt.settings import setting
from tfnmt.strategies.asynchronous import StaleRates
from tfnmt.strategies.exchanges import ParameterDelta
from tfnmt.strategies.row import Meetings, Strategy, speed_faults


class DelayedMomentum(Optimizer):
    """The equations of this module: how each delta that comes moves the servers.

    >>> theta, slots = tf.Variable([0.0]), {name: tf.Variable([0.0]) for name in ("outer_momentum", "gathered_deltas")}
    >>> update = DelayedMomentum(rate=1.0, momentum=0.5, delay=2, share=0.0)
    >>> for push in range(2):
    ...     handles = {name: slot.handle for name, slot in slots.items()}
    ...     update.apply(theta.handle, handles, tf.constant([4.0]), None, tf.constant(push))
    ...     print(theta.numpy().item(), slots["outer_momentum"].numpy().item())
    2.0 0.0
    6.0 4.0
    """

    slots: Mapping[str, float | None] = {"outer_momentum": 0.0, "gathered_deltas": 0.0}
    momentum: str | None = "outer_momentum"

    def __init__(self, rate: float, momentum: float, delay: int, share: float):
        """Takes ε, β, d and c."""
        self._rate, self._momentum, self._delay, self._share = rate, momentum, delay, share

    def apply(self, parameters, slots, gradient, learning_rate, version) -> None:
        """See `tfnmt.optimizers.optimizers.Optimizer`; `gradient` is G, and the learning rate is not read."""
        dtype, delay, share = gradient.dtype, self._delay, self._share
        old = tf.raw_ops.ReadVariableOp(resource=slots["outer_momentum"], dtype=dtype)
        gathered = tf.raw_ops.ReadVariableOp(resource=slots["gathered_deltas"], dtype=dtype) + gradient
        is_due = tf.equal((version + 1) % delay, 0)
        moved = self._momentum * old + gathered / delay
        momentum = tf.where(is_due, moved, old)
        weight = tf.where(is_due, tf.constant(1 - share * delay + share, dtype), tf.constant(share, dtype))
        step = self._rate * (weight * self._momentum * momentum + gradient / delay)
        tf.raw_ops.AssignVariableOp(resource=slots["outer_momentum"], value=momentum)
        kept = tf.where(is_due, tf.zeros_like(gathered), gathered)
        tf.raw_ops.AssignVariableOp(resource=slots["gathered_deltas"], value=kept)
        tf.raw_ops.AssignAddVariableOp(resource=parameters, value=step)


@dataclasses.dataclass(frozen=True)
class DelayedNesterov(StaleRates):
    """Asynchronous local SGD: each worker pushes its delta every H steps; the servers' momentum moves at every d-th."""

    local_steps: int = setting(50, "Steps of a worker between two pushes, H.", minimum=1)
    sync_every_seconds: float = setting(
        0.0,
        "Seconds after which a worker pushes before it has done its --local_steps, so that slow ones do fewer; 0 for "
        "never.",
        minimum=0,
    )
    blocks_by_speed: bool = setting(
        False,
        "The fastest worker does all --local_steps between two pushes, and every other one as many as it does "
        "meanwhile, by the speeds measured so far, so that all push equally often.",
    )
    outer_learning_rate: float = setting(0.7, "Learning rate of the servers, ε.", above=0)
    outer_momentum: float = setting(0.9, "Momentum of the servers, β.", minimum=0, below=1)
    momentum_delay: int | None = setting(
        None, "Pushes between two updates of the momentum, d; empty for the number of workers.", minimum=1
    )
    early_momentum: bool = setting(False, "The pushes between take a d-th of the momentum each, c = 1/d, not c = 0.")

    def faults(self) -> list[str]:
        """Blocks in which there is nothing to be left out."""
        return speed_faults("local_steps", self.local_steps, self.sync_every_seconds) if self.blocks_by_speed else []

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """See `tfnmt.strategies.table.RowSettings`."""
        delay = self.momentum_delay or workers
        share = 1 / delay if self.early_momentum else 0.0
        meetings = Meetings.every(self.local_steps, self.local_steps, self.sync_every_seconds)
        return Strategy(
            DelayedMomentum(self.outer_learning_rate, self.outer_momentum, delay, share),
            exchange=ParameterDelta(),
            meetings=dataclasses.replace(meetings, by_speed=self.blocks_by_speed),
            local_update=local_optimizer(optimizer),
            replicas=delay,
            slack=None,
            staleness=Staleness(self.staleness_exponent, self.max_staleness),
        )
