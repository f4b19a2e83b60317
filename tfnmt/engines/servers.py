"""The servers as an engine sees them: one sequence of pushes comes in, server updates and their reports come out.

Every engine hands its pushes to `absorb`, one at a time and in the order that its row wants. So the arithmetic and the
book-keeping of a strategy are the same in one process, under a virtual clock and on a cluster; only the devices differ.
"""

import operator
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from graphs.broadcast import pull
from graphs.forward_backward import Pack
from graphs.reduce_average import Server, Update, receive, update_from, update_from_received
from tfnmt.batch import START
from tfnmt.engines.base import EngineState
from tfnmt.engines.learning_rates import LearningRates
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.report import BlockReport, PushReport
from tfnmt.engines.worker import NO_SUMS, Outbox, Progress, Push, Sums, Worker, WorkerGraph, packed
from tfnmt.strategies import DELTA, Strategy

_COUNTED = ("target_tokens", "source_tokens", "positions", "sentences")


class Arrival(NamedTuple):
    """One worker's push in a round that the workers have summed among themselves."""

    push: Push
    wait_seconds: float
    weight: float  # that counted
    nonfinite_at: int  # first element of the payload that was not finite, so that it was left out; -1 for none


class Servers:
    """Takes pushes, moves the server parameters, and knows how far every worker has come.

    Attributes:
      server: the variables.
      strategy: the row that trains now.
      phase: its number; it grows when a warm start ends.
      plateau_scale: what the plateau schedule has come to.
      version: server updates so far.
      progress: how far each worker has come.
    """

    def __init__(
        self,
        recipe: Recipe,
        workers: int,
        *,
        devices: Sequence[str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Makes the server variables on the devices, one shard on each, with their initial values.

        Args:
          recipe: what is trained.
          workers: who push.
          devices: one for each shard of the layout; None for wherever the caller is.
          clock: seconds.
        """
        self._recipe, self._settings = recipe, recipe.settings
        self._workers, self._clock = workers, clock
        initial = recipe.layout.initialize(recipe.settings.seed, recipe.dtype)
        self.server = Server(initial, devices or [None] * recipe.layout.shards, recipe.settings.average_rate > 0)
        self.plateau_scale = 1.0
        self.version = 0
        self.progress = [Progress() for _ in range(workers)]
        self.phase = -1
        self._enter(0)
        self._arrived = 0  # payloads since the last update
        self._sums = NO_SUMS  # of those payloads
        self._pushes: list[PushReport] = []  # since the last report
        self._pushed_at = [clock()] * workers
        self._reported_at = clock()

    @property
    def strategy(self) -> Strategy:
        """The row that trains now."""
        return self._recipe.phases[self.phase].strategy

    def restart_clock(self) -> None:
        """Forgets the time since the last report: it was not spent on training."""
        paused = self._clock() - self._reported_at
        self._reported_at += paused
        self._pushed_at = [at + paused for at in self._pushed_at]

    def worker_graph(self, pack: Pack | None = None) -> WorkerGraph:
        """The graph of the blocks of the row that trains now; for `pack` see `forward_backward`."""
        return WorkerGraph(self._recipe, self.server, self.strategy, self.rates, self._workers, pack)

    def new_worker(self, graph: WorkerGraph, number: int, outbox: Outbox) -> Worker:
        """A worker that has come as far as the servers know, on the device of the caller."""
        progress = self.progress[number]
        batches = iter(self._recipe.make_batches(progress.position, number, self._workers))
        return Worker(graph, number, progress, graph.new_replica(), outbox, batches)

    def new_outbox(self) -> list[tf.Variable]:
        """Variables for one worker's payloads, a part of each vector on each server."""
        outbox = []
        for shard in self.server.shards * self.strategy.payload_vectors:
            with tf.device(shard.device):
                outbox.append(tf.Variable(tf.zeros_like(shard.parameters), trainable=False, name="payload"))
        return outbox

    def absorb(self, push: Push, wait_seconds: float = 0.0) -> BlockReport | None:
        """Takes in a push, at most once; the report when it made an update, or would have.

        Args:
          push: the payload and what it is made of.
          wait_seconds: how long the worker stood still for others since its last push.
        """
        if push.block <= self.progress[push.worker].block:
            self._note(push, wait_seconds, "it was a duplicate")
            return None
        weight = tf.constant(self.weight_of(push.work.sums), tf.float64)
        if self.strategy.quorum == 1 and not self._arrived:
            average = self._average_weight(self.progress[push.worker].step, push.work.sums.steps)
            done = _local_updates(push.work.sums)
            update = Update(*_numbers(self._update_from(push.payload, weight, self._plateau(), average, done)))
            taken, nonfinite_at = update.applied, update.nonfinite_at
        else:
            update = None
            taken, nonfinite_at = _numbers(self._receive(push.payload, weight))
        self._count(push, wait_seconds, bool(taken), int(nonfinite_at))
        if update is None and self.strategy.quorum <= self._arrived:  # more than the quorum: resumed with a smaller one
            average, done = self._round_s_average_weight(), _local_updates(self._sums)
            update = Update(*_numbers(self._update_from_received(self._plateau(), average, done)))
        return None if update is None else self._report(update, push.work.position[0])

    def absorb_reduced(self, arrivals: Sequence[Arrival], payload: Outbox, ring_bytes: int) -> BlockReport:
        """Takes in a whole round that the workers have summed among themselves.

        Args:
          arrivals: everybody's push.
          payload: the sum, of which every worker has a copy.
          ring_bytes: that each worker has sent.
        """
        for each in arrivals:
            self._count(each.push, each.wait_seconds, each.nonfinite_at < 0, each.nonfinite_at, ring_bytes)
        weight = tf.constant(sum(each.weight for each in arrivals), tf.float64)
        average, done = self._round_s_average_weight(), _local_updates(self._sums)
        update = Update(*_numbers(self._update_from(payload, weight, self._plateau(), average, done)))
        return self._report(update, arrivals[-1].push.work.position[0])

    def state(self) -> EngineState:
        """Everything of the servers."""
        vectors, weight, local_updates = self._read()
        counters = {
            "evaluated": self.server.evaluated,
            "version": self.version,
            "plateau_scale": self.plateau_scale,
            "weight": float(weight.numpy()),
            "local_updates": float(local_updates.numpy()),
            "arrived": self._arrived,
            "sums": self._sums,
            "workers": [worker._asdict() for worker in self.progress],
        }
        return EngineState({name: vector.numpy() for name, vector in vectors.items()}, counters)

    def restore(self, state: EngineState) -> None:
        """Takes up a state of as many workers or fewer or more."""
        vectors, counters = state.vectors, state.counters
        self.version, self.plateau_scale = counters["version"], counters["plateau_scale"]
        phase = max(n for n, phase in enumerate(self._recipe.phases) if phase.first_update <= self.version)
        self._enter(phase, summed=counters["arrived"] > 0)
        for name, shards in self.server.vectors().items():
            if name.startswith("received") and name not in vectors:
                continue  # saved where every push was an update
            for shard, piece in zip(shards, np.split(vectors[name], len(shards))):
                shard.assign(piece)
        self.server.version.assign(self.version)
        self.server.weight.assign(counters["weight"])
        self.server.local_updates.assign(counters.get("local_updates", 0.0))  # once there were none
        self._arrived, self._sums = counters["arrived"], Sums(*counters["sums"])
        self.progress = _progress_of(counters["workers"], self._workers)

    def _enter(self, phase: int, summed: bool = False) -> None:
        """Begins a phase: its slots, and graphs that know them; `summed` where payloads are there already."""
        self.phase = phase
        strategy = self.strategy
        self.server.begin(strategy.server_update, summed or strategy.quorum > 1, strategy.averaged_slots)
        self.rates = LearningRates(self._recipe.schedule, self._settings, strategy)
        clip_norm = 0.0 if strategy.payload == DELTA else self._settings.clip_norm

        def rate_at(plateau_scale):
            return lambda version, tokens: self.rates.of_server(version, tokens, plateau_scale)

        # Traced now: when somebody is silent, nothing new can be made known to the cluster.
        self._read = tf.function(self._reading).get_concrete_function()
        self._receive = tf.function(lambda payload, weight: packed(receive(self.server, payload, weight)))
        self._update_from = tf.function(
            lambda payload, weight, plateau, average, done: packed(
                update_from(self.server, payload, weight, rate_at(plateau), clip_norm, average, done)
            )
        )
        self._update_from_received = tf.function(
            lambda plateau, average, done: packed(
                update_from_received(self.server, rate_at(plateau), clip_norm, average, done)
            )
        )

    def weight_of(self, sums: Sums) -> float:
        """Target tokens of a gradient sum; one for a delta, unless not one step of it could be done."""
        return float(sums.steps > sums.refused) if self.strategy.payload == DELTA else sums.target_tokens

    def _round_s_average_weight(self) -> tf.Tensor:
        """`_average_weight` of the update of all payloads since the last one, which have been counted."""
        steps = self._sums.steps / self._arrived
        return self._average_weight(sum(each.step for each in self.progress) / self._workers - steps, steps)

    def _average_weight(self, steps_before: float, steps: float) -> tf.Tensor:
        """The weight of the parameters behind the next update in their moving average.

        Time is counted in updates of an optimizer: the servers' or, where deltas are pushed, the workers' own. So one
        rate means the same memory whatever H is.
        """
        if self.strategy.payload != DELTA:
            steps_before, steps = self.version, 1
        return tf.constant(average_weight(self._settings.average_rate, steps_before, steps), tf.float64)

    def _count(
        self, push: Push, wait_seconds: float, taken: bool, nonfinite_at: int, ring_bytes: int | None = None
    ) -> None:
        """Remembers what came, and whether it counts."""
        self.progress[push.worker] = Progress(push.block, push.step, push.work.position)
        self._arrived += 1
        self._sums = Sums(*map(operator.add, self._sums, push.work.sums)) if taken else self._sums
        self._note(push, wait_seconds, None if taken else self._reason(push, nonfinite_at), ring_bytes)

    def _reason(self, push: Push, element: int) -> str:
        element = max(element, push.work.nonfinite_at)
        vector, place = divmod(element, self._recipe.layout.size)
        kind = "local optimizer's state" if vector > 0 else "gradient"
        what = "the gradient's norm" if element < 0 else f"the {kind} of {self._recipe.layout.name_at(place)}"
        return f"{what} was not finite at step {push.step} of worker {push.worker}"

    def _note(self, push: Push, wait_seconds: float, refused: str | None, ring_bytes: int | None = None) -> None:
        """Remembers a push for the next report."""
        now = self._clock()
        whole = self._recipe.layout.size * self.strategy.payload_vectors * push.payload[0].dtype.size
        self._pushes.append(
            PushReport(
                worker=push.worker,
                staleness=self.version - push.version,
                target_tokens=int(push.work.sums.target_tokens),
                seconds=now - self._pushed_at[push.worker],
                wait_seconds=wait_seconds,
                bytes_pulled=push.pulls * whole if ring_bytes is None else 0,
                bytes_pushed=whole if ring_bytes is None else ring_bytes,
                skipped_steps=int(push.work.sums.refused),
                refused=refused,
            )
        )
        self._pushed_at[push.worker] = now

    def _report(self, update: Update, epoch: int) -> BlockReport:
        """The report of an update that has been tried, behind which the next one begins."""
        applied = bool(update.applied)
        self.version += applied
        now, sums, refusals = self._clock(), self._sums, [push.refused for push in self._pushes if push.refused]
        report = BlockReport(
            update=self.version,
            epoch=epoch,
            loss=sums.loss,
            cross_entropy=sums.cross_entropy,
            gradient_norm=float(update.norm),
            learning_rate=float(update.learning_rate) if self.strategy.payload != DELTA else self._workers_rate(),
            seconds=now - self._reported_at,
            data_wait_seconds=min(sums.data_wait_seconds / self._workers, now - self._reported_at),
            skipped=None if applied else "; ".join(refusals) or "the gradient's norm was not finite",
            momentum_norm=float(update.momentum_norm) if self.strategy.server_update.momentum else None,
            pushes=tuple(self._pushes),
            is_virtual=False,
            **{name: int(getattr(sums, name)) for name in _COUNTED},
        )
        self._arrived, self._sums, self._pushes, self._reported_at = 0, NO_SUMS, [], now
        later = self._recipe.phases[self.phase + 1 :]
        if later and self.version >= later[0].first_update:
            self._enter(self.phase + 1)
        return report

    def _workers_rate(self) -> float:
        """The learning rate of the workers' own updates, behind which they are now."""
        plateau = self._plateau()
        step = tf.constant(max(each.step for each in self.progress) - 1, tf.int64)
        tokens = tf.constant(self._sums.target_tokens / max(self._sums.steps, 1), plateau.dtype)
        return float(self.rates.of_worker(step, tokens, plateau))

    def _plateau(self) -> tf.Tensor:
        return tf.constant(self.plateau_scale, self.server.shards[0].parameters.dtype)

    def _reading(self) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Every vector [size], the weight of what was received, and the age of the workers' averaged slots."""
        vectors = {name: pull(shards) for name, shards in self.server.vectors().items()}
        return vectors, self.server.weight.read_value(), self.server.local_updates.read_value()


def average_weight(rate: float, updates_before: float, updates: float) -> float:
    """The weight d of the newest parameters in a ← a + d (θ - a), behind so many updates at once.

    Of one update it is max(rate, 1 - (t + 1) / (t + 10)): short memory at first (Marian's smoothing).
    """
    newest = max(rate, 1 - (updates_before + 1) / (updates_before + 10))
    return 1 - (1 - newest) ** updates


def _local_updates(sums: Sums) -> tf.Tensor:
    """How often workers that push deltas have moved their replicas."""
    return tf.constant(sums.steps - sums.refused, tf.float64)


def _numbers(packed: tf.Tensor) -> list[float]:
    return packed.numpy().tolist()


def _progress_of(saved: Sequence[Mapping[str, Any]], workers: int) -> list[Progress]:
    """How far each worker has come; other numbers of workers than were saved begin the next epoch together.

    The readers' shards depend on the number of workers, so a position is worth nothing under another number.
    """
    found = [Progress(each["block"], each["step"], each["position"] and tuple(each["position"])) for each in saved]
    if len(found) == workers:
        return found
    epoch = max((each.position[0] for each in found if each.position), default=-1) + 1
    logging.info("Workers before: %d; now: %d. The readers begin epoch %d.", len(found), workers, epoch + 1)
    return [Progress(0, max(each.step for each in found), (epoch, *START[1:]))] * workers
