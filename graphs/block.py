"""The block: what a worker does between two pushes, as one graph of pulls, local steps and a push.

The graph knows no strategy. An `Exchange` says what a pull, a step and a push do to the vectors that a worker holds,
and the loop below calls its functions.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from graphs.broadcast import pull
from graphs.local_steps import REPLICA, LocalUpdate, Replica, clipped_mean, move_replica
from graphs.reduce_average import Server
from graphs.work import Sums, Work, add_work, no_work
from tfnmt.optimizers.optimizers import Optimizer

Vectors = Mapping[str, Any]
"""Vectors [size] by name: tensors, or variables, which are read where they are used."""

Outbox = Sequence[tf.Variable]
"""Where a worker's payload goes: a variable for each shard, on the shard's server; further vectors' behind them."""


class Gradient(NamedTuple):
    """The gradient of one local step."""

    sum: tf.Tensor  # [size], over the target tokens
    target_tokens: tf.Tensor  # scalar of the same dtype
    clip_norm: float  # largest norm of the mean; 0 for no clipping

    def mean(self) -> tf.Tensor:
        """The mean over the target tokens [size], clipped."""
        return clipped_mean(self.sum, self.target_tokens, self.clip_norm)


class Exchange(Protocol):
    """What a worker exchanges with the servers: pure functions on the vectors that it holds.

    Each function returns the vectors that change, by name; the others stay. `held` has the replica, under `REPLICA`,
    and the vectors that `keeps` names.

    Attributes:
      name: of a payload, in words.
      keeps: names of the vectors that a worker holds beside its replica.
      saved: names of the held vectors that outlive a push, so that a checkpoint has them.
      trains_replicas: whether local updates move the replicas and the servers move by what becomes of these; otherwise
        the servers move by gradients.
      clips_at_servers: whether the servers clip the mean payload, which is a gradient.
    """

    name: str
    keeps: Sequence[str]
    saved: Sequence[str]
    trains_replicas: bool
    clips_at_servers: bool

    def pull(self, held: Vectors, servers: tf.Tensor) -> Vectors:
        """What changes when the server parameters [size] arrive."""

    def gather(self, held: Vectors, gradient: Gradient, first: bool) -> Vectors:
        """What changes with the gradient of a step, the first since a push or not."""

    def push(self, held: Vectors) -> tuple[Any, Vectors]:
        """The payload [size], and what changes when it leaves."""

    def weight(self, sums: Sums) -> Any:
        """What a payload counts when the sum of several is divided, from the sums of its steps; a scalar."""

    def averaged(self, sums: Sums) -> tuple[Any, Any]:
        """Over how many target tokens and batches a gradient of such payloads is a mean: by these the laws go."""


BEGIN, PULL, PUSH = "begin", "pull", "push"


@dataclasses.dataclass(frozen=True)
class Steps:
    """So many local steps; `first` says that none came before them since the last push."""

    count: int
    first: bool


Action = str | Steps
"""BEGIN, PULL, PUSH or steps. BEGIN makes the replica what the servers hold, where the exchange's pull does not."""

Block = tuple[Action, ...]
"""What a worker does at a stretch, in this order."""


@dataclasses.dataclass(frozen=True)
class LocalTraining:
    """How workers move their replicas.

    Attributes:
      optimizer: by which equation.
      learning_rate: (clock, target tokens, batches, plateau scale) -> rate of one step.
      last_step: step of a worker from which it moves its replica no more; None for never.
      resets: whether the optimizer begins anew at each pull.
      averaged: the optimizer's slots, by name, whose means the servers hold: they are pulled and pushed too.
    """

    optimizer: Optimizer
    learning_rate: Callable[..., tf.Tensor]
    last_step: int | None
    resets: bool
    averaged: Sequence[str]


@dataclasses.dataclass(frozen=True)
class BlockGraph:
    """Everything that the blocks of all workers have in common.

    Attributes:
      server: where they pull from.
      exchange: what pulls, steps and pushes do.
      local: how they move their replicas; None for not at all.
      clip_norm: of a step's mean gradient.
      most_seconds: after which a block's steps end early; 0 for never.
    """

    server: Server
    exchange: Exchange
    local: LocalTraining | None
    clip_norm: float
    most_seconds: float = 0.0

    def run(
        self,
        block: Block,
        replica: Replica,
        outbox: Outbox,
        step_gradient: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, Work]],
        step: tf.Tensor,
        clock: tf.Tensor,
        plateau_scale: tf.Tensor,
    ) -> Work:
        """Does one block.

        Args:
          block: what to do.
          replica: what the worker holds, changed in place.
          outbox: takes the payload.
          step_gradient: (parameters [size], steps before) -> the gradient sum [size] and the work of one step.
          step: steps of the worker before the block, an int64 scalar.
          clock: what the schedule of local updates reads, a float64 scalar; a pull sets it.
          plateau_scale: what the plateau schedule has come to, a scalar.
        """
        work = no_work(clock)
        for action in block:
            # A pull behind steps must not run ahead of them; all else is ordered by the variables that it changes.
            with tf.control_dependencies([work.position]):
                if isinstance(action, Steps):
                    done = tf.cast(work.sums.steps, tf.int64)
                    more = self._steps(action, replica, step_gradient, step + done, work.clock, plateau_scale)
                    work = add_work(work, more._replace(version=work.version))
                elif action == PUSH:
                    self._push(replica, outbox)
                else:
                    version, clock = self._pull(action, replica)
                    own = work.sums.steps if self.exchange.trains_replicas else 0.0  # not pushed yet
                    work = work._replace(version=version, clock=clock + own)
        return work

    def _pull(self, action: str, replica: Replica) -> tuple[tf.Tensor, tf.Tensor]:
        """Pulls; the version that was pulled, or one before it while others push, and the clock that goes with it."""
        version, steps = self.server.version.read_value(), self.server.steps.read_value()
        with tf.control_dependencies([version, steps]):
            servers = pull([shard.parameters for shard in self.server.shards])
        changed = {REPLICA: servers} if action == BEGIN else self.exchange.pull(replica.vectors, servers)
        replica.assign(changed)
        if self.local is not None:
            self._pull_slots(self.local, replica)
        # The servers' schedule counts versions; where replicas are trained it counts the steps of a worker, and the
        # mean over all of them, lest workers of unequal speed have unequal rates.
        return version, steps if self.exchange.trains_replicas else tf.cast(version, tf.float64)

    def _pull_slots(self, local: LocalTraining, replica: Replica) -> None:
        if local.resets:
            for name, first in local.optimizer.slots.items():
                replica.slots[name].assign((first or 0.0) * tf.ones_like(replica.slots[name]))
            replica.updates.assign(0)
        for name in local.averaged:
            replica.slots[name].assign(pull([shard.local_slots[name] for shard in self.server.shards]))
            replica.updates.assign(self.server.local_updates)

    def _push(self, replica: Replica, outbox: Outbox) -> None:
        payload, changed = self.exchange.push(replica.vectors)
        averaged = self.local.averaged if self.local else ()
        vectors = [tf.convert_to_tensor(payload), *(replica.slots[name].read_value() for name in averaged)]
        shards = len(self.server.shards)
        parts = itertools.chain(*(tf.split(vector, shards) if shards > 1 else [vector] for vector in vectors))
        for variable, part in zip(outbox, parts):
            variable.assign(part)
        replica.assign(changed)

    def _steps(self, steps: Steps, replica, step_gradient, step, clock, plateau_scale) -> Work:
        """As many steps as are wanted or, with a limit of time, as many as fit, but one at least."""
        if steps.count == 1:
            return self._step(replica, step_gradient, step, clock, plateau_scale, steps.first)
        if steps.first:  # a step before the loop would be a second copy of the model's graph
            nothing = Gradient(tf.zeros_like(replica.parameters), tf.ones([], replica.parameters.dtype), 0.0)
            replica.assign(self.exchange.gather(replica.vectors, nothing, first=True))
        started = tf.timestamp()

        def more(work: Work, now: tf.Tensor) -> tf.Tensor:
            wanted = work.sums.steps < steps.count
            if self.most_seconds:
                wanted &= (now - started < self.most_seconds) | (work.sums.steps == 0)
            return wanted

        def one_more(work: Work, _: tf.Tensor) -> tuple[Work, tf.Tensor]:
            done = tf.cast(work.sums.steps, tf.int64)
            work = add_work(work, self._step(replica, step_gradient, step + done, work.clock, plateau_scale, False))
            with tf.control_dependencies([work.position]):
                return work, tf.timestamp()

        return tf.while_loop(more, one_more, (no_work(clock), started))[0]

    def _step(self, replica, step_gradient, step, clock, plateau_scale, first: bool) -> Work:
        """One local step: its gradient is gathered, or moves the replica, or both."""
        gradient_sum, work = step_gradient(replica.parameters.read_value(), step)
        work = work._replace(clock=clock + 1 if self.exchange.trains_replicas else clock)
        tokens = tf.cast(work.sums.target_tokens, gradient_sum.dtype)
        replica.assign(self.exchange.gather(replica.vectors, Gradient(gradient_sum, tokens, self.clip_norm), first))
        if self.local is None:
            return work
        rate = self.local.learning_rate(clock, tokens, work.sums.batches, plateau_scale)
        update = LocalUpdate(self.local.optimizer, rate, self.clip_norm, self.local.last_step)
        refused, nonfinite_at = move_replica(update, replica, gradient_sum, tokens, step)
        return work._replace(sums=_refused_if(refused, work.sums), nonfinite_at=nonfinite_at)


def _refused_if(refused: tf.Tensor, sums: Sums) -> Sums:
    """The sums of a step; of a refused one nothing counts but that it was one, and its time."""
    counted = Sums(*(tf.where(refused, tf.zeros_like(number), number) for number in sums))
    kept = {"steps": sums.steps, "data_wait_seconds": sums.data_wait_seconds}
    return counted._replace(refused=tf.cast(refused, tf.float64), **kept)
