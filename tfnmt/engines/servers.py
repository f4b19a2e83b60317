"""The servers as an engine sees them: one sequence of pushes comes in, server updates and their reports come out.

Every engine hands its pushes to `absorb`, one at a time and in the order that its row wants. So the arithmetic and the
book-keeping of a strategy are the same in one process, under a virtual clock and on a cluster; only the devices differ.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from graphs.block import Outbox, Reduce
from graphs.encodings import DENSE, Encoding
from graphs.error_feedback import KNOWN
from graphs.forward_backward import Pack
from graphs.fragments import Fragment
from graphs.reduce_average import ServerVariables, Update, forget_received, goes_on
from graphs.staleness import pulled_of
from graphs.table_rows import moved_bytes, rows_of
from graphs.work import Sums
from tfnmt.engines.base import EngineState
from tfnmt.engines.learning_rates import LearningRates
from tfnmt.engines.ledger import Ledger
from tfnmt.engines.outboxes import new_outbox
from tfnmt.engines.pace import Fate
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.refusals import reason
from tfnmt.engines.replicas import Replicas, means_of_replicas, without_replicas
from tfnmt.engines.report import BlockReport, Waits
from tfnmt.engines.server_graph import Arrived, Numbers, ServerGraph, numbers_of, reading, update_of
from tfnmt.engines.worker import WORKER_VECTOR, Progress, Push, Worker, WorkerGraph, worker_vector
from tfnmt.optimizers.schedules import average_weight
from tfnmt.strategies import KEEP, Strategy


class Arrival(NamedTuple):
    """One worker's push in a round that the workers have summed among themselves."""

    push: Push
    waits: Waits
    weight: float  # that counted
    nonfinite_at: int  # first element of the payload that was not finite, so that it was left out; -1 for none
    square: float  # squared norm of the payload
    other_bytes: int = 0  # that the worker has sent beside its payload


class UpdateSequence:
    """Takes pushes, moves the server parameters, and knows how far every worker has come.

    Attributes:
      server: the variables.
      replicas: those of the workers, where each moves by its own gradient; None where all move alike.
      strategy: the row that trains now.
      phase: its number; it grows when a warm start ends.
      plateau_scale: what the plateau schedule has come to.
    """

    def __init__(
        self,
        recipe: Recipe,
        workers: int,
        *,
        devices: Sequence[str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        held: Sequence[int] | None = None,
    ):
        """Makes the server variables on the devices, one shard on each, with their initial values.

        Args:
          recipe: what is trained.
          workers: who push.
          devices: one for each server; None for wherever the caller is.
          clock: seconds.
          held: the workers whose replicas are in this process; None for all.
        """
        self._recipe, self._settings, self._workers = recipe, recipe.settings, workers
        self._held = list(range(workers)) if held is None else held
        self.replicas: Replicas | None = None
        initial, servers = recipe.layout.initialize(recipe.settings.seed, recipe.dtype), recipe.servers
        fragments = recipe.layout.shards // servers
        of_shards = [*(devices or [None] * servers)] * fragments
        self.server = ServerVariables(initial, of_shards, recipe.settings.average_rate > 0, recipe.tables)
        self.plateau_scale = 1.0
        self._ledger, self._clock = Ledger(workers, clock), clock
        self._late_seconds = 0.0  # of an update behind the push that made it, which the next push knows of
        self._given: dict[str, np.ndarray] = {}  # vectors with which workers begin that have not pushed yet
        self._enter(0)

    @property
    def strategy(self) -> Strategy:
        """The row that trains now."""
        return self._recipe.phases[self.phase].strategy

    @property
    def version(self) -> int:
        """Server updates so far."""
        return self._ledger.version

    @property
    def progress(self) -> Sequence[Progress]:
        """How far each worker has come."""
        return self._ledger.progress

    def restart_clock(self) -> None:
        """Forgets the time since the last report: it was not spent on training."""
        self._ledger.restart_clock()

    def worker_graph(self, pack: Pack | None = None, reduce: Reduce | None = None) -> WorkerGraph:
        """The graph of the blocks of the row that trains now; for `pack` and `reduce` see `WorkerGraph`."""
        numbers = (self._workers, self._ledger.phase_began)
        return WorkerGraph(self._recipe, self.server, self.strategy, self.rates, *numbers, pack, reduce)

    def new_worker(self, graph: WorkerGraph, number: int, outbox: Outbox) -> Worker:
        """A worker that has come as far as the servers know, on the device of the caller.

        Before its first push it holds what the checkpoint held from which training went on, or the slots of the
        servers' optimizer behind a warm start. Once it has pushed these are outdated, and it begins with fresh ones.
        """
        graph = graph.pulling_from(self.replicas.servers[number]) if self.replicas else graph
        progress = self.progress[number]
        batches = iter(self._recipe.make_batches(progress.position, number, self._workers))
        worker = Worker(graph, number, progress, graph.new_replica(number), outbox, batches, self._ledger.steps)
        worker.restore(self._given)
        # Its first pull changes what the servers believe it to know: whoever takes its place begins with a whole one.
        self._given.pop(worker_vector(number, KNOWN), None)
        return worker

    def new_outbox(self, encoding: Encoding | None = None) -> list[tf.Variable]:
        """Variables for one worker's payloads: see `outboxes`; for the row's encoding, unless another is given."""
        return new_outbox(self.server, self.strategy, encoding or self.strategy.encoding, self._recipe.dtype)

    def steps_of(self, worker: int, step: int) -> int:
        """Steps of the next block of a worker that has done `step`, by its speed where the row says so.

        By speed they are the same until the next update. A ramp goes by what the worker has done, of which the servers
        may not have absorbed the last push yet.
        """
        return self._ledger.steps_of(worker, self.strategy.meetings.steps_behind(step - self._ledger.phase_began))

    def trace(self) -> None:
        """Traces a worker's blocks of every phase, of which the last is then entered."""
        for phase in range(len(self._recipe.phases)):
            self._enter(phase)
            self.worker_graph().trace(self.new_outbox(), iter(self._recipe.make_batches(None, 0, self._workers)))

    def absorb(self, push: Push, waits: Waits | None = None, fate: Fate = Fate.TAKEN) -> BlockReport | None:
        """Takes in a push, at most once; the report when it made an update, or would have.

        Args:
          push: the payload and what it is made of.
          waits: how long the worker stood still since its last push; None where it does while this is done.
          fate: whether it is too late for the round that goes on, or ends that.
        """
        began, late, self._late_seconds = self._clock(), self._late_seconds, 0.0

        def waited() -> Waits:
            return waits or Waits(servers=self._clock() - began + late)

        is_refused = self._refuses(push, waited, fate)
        update, received_at = None if is_refused else self._receive(push, waited), self._clock()
        # More than the quorum: resumed with a smaller one.
        is_due = fate is Fate.ENDS_ROUND or (self.strategy.quorum <= self._ledger.arrived and not is_refused)
        if update is None and is_due and self._ledger.arrived:
            update = self._update_from_received(push.fragment)
            self._late_seconds = self._clock() - received_at
        if update is None:
            return None
        report = self._report(update, push)
        if self.replicas and self.averages_replicas(report):
            self.replicas.average()
        return report

    def _refuses(self, push: Push, waited: Callable[[], Waits], fate: Fate) -> bool:
        """Whether a push is a duplicate, too stale or too late; then it is noted as such."""
        ledger = self._ledger
        if ledger.is_duplicate(push):
            ledger.note(push, waited(), "it was a duplicate", self._moved_bytes(push))
            return True
        if fate is Fate.TOO_LATE or self.strategy.staleness.drops(ledger.staleness(push)):
            self._forget_given(push.worker)
            ledger.drop(push, waited(), self._moved_bytes(push))
            return True
        return False

    def _receive(self, push: Push, waited: Callable[[], Waits]) -> Update | None:
        """Adds a payload to those that have arrived, and counts it; its update, where it needs no other one."""
        strategy, ledger, staleness = self.strategy, self._ledger, self._ledger.staleness(push)
        sums, update, graph = push.work.sums, None, self._graphs[push.fragment]
        weight, unit = float(strategy.exchange.weight(sums)), self._unit(sums)
        # By the first one's: those that count alike are added up as they are, or their mean would be rounded.
        beside_others = unit / ledger.unit if ledger.unit else float(unit > 0)
        share = strategy.staleness.share(staleness) * beside_others
        arrived = self._arrived(push, weight, share, strategy.staleness.strength(staleness))
        if strategy.quorum == 1 and not ledger.arrived and not self.replicas:
            numbers = self._numbers(sums, weight, share)
            update = update_of(graph.update_from(strategy.encoding, arrived, numbers))
            taken, nonfinite_at, norm = update.applied, update.nonfinite_at, math.nan  # an update has but one payload
        else:
            taken, nonfinite_at, norm = numbers_of(graph.receive(strategy.encoding, arrived))
        outcome = (bool(taken), int(nonfinite_at), self._moved_bytes(push))
        self._count(self._measured(push, norm**2), waited(), *outcome, weight=weight, share=share, unit=unit)
        if self.replicas:
            self.replicas.note(push, weight if taken else 0.0)
        return update

    def _update_from_received(self, fragment: int) -> Update:
        """The update by all that has arrived since the last one."""
        numbers = self._numbers(self._ledger.sums, self._ledger.whole_weight, self._ledger.mean_share())
        return self._move_replicas(numbers) or update_of(self._graphs[fragment].update_from_received(numbers))

    def _move_replicas(self, numbers: Numbers) -> Update | None:
        """The same update of each replica, by what the servers have received; None where there are none."""
        if self.replicas is None:
            return None
        update = self.replicas.move(self._summed(self.server.received(), self._ledger.whole_weight), numbers)
        forget_received(self.server)
        return update

    def _summed(self, payload: Outbox, weight: float) -> Arrived:
        """A sum of payloads that is not encoded, all of which counts."""
        return Arrived(payload, *(tf.constant(number, tf.float64) for number in (weight, 1.0)))

    def averages_replicas(self, report: BlockReport) -> bool:
        """Whether the workers' replicas are averaged behind an update."""
        has_begun = report.update > self._recipe.phases[self.phase].first_update
        return report.skipped is None and has_begun and self.strategy.averages_replicas(report.update)

    def absorb_reduced(
        self, arrivals: Sequence[Arrival], payload: Outbox, ring_bytes: int, square: float | None = None
    ) -> BlockReport:
        """Takes in a whole round that the workers have summed among themselves.

        Args:
          arrivals: everybody's push.
          payload: the sum, of which every worker has a copy that is not encoded.
          ring_bytes: that each worker has sent for it.
          square: squared norm of the sum where every worker has a part of it for itself, and nobody knows the norm of
            one push; None where all have all.
        """
        for arrival in arrivals:
            taken, push = arrival.nonfinite_at < 0, arrival.push
            push = self._measured(push, arrival.square) if square is None else push
            outcome = (taken, arrival.nonfinite_at, (0, ring_bytes + arrival.other_bytes))
            self._count(push, arrival.waits, *outcome, weight=float(self.strategy.exchange.weight(push.work.sums)))
            if self.replicas and push.worker in self.replicas.servers:
                self.replicas.note(push, arrival.weight)
        arrived = self._summed(payload, sum(arrival.weight for arrival in arrivals))
        whole = None if square is None else tf.constant(square, tf.float64)
        numbers, last = self._numbers(self._ledger.sums, self._ledger.whole_weight), arrivals[-1].push
        if self.replicas:
            return self._report(self.replicas.move(arrived, numbers), last)
        update = update_of(self._graphs[last.fragment].update_from(DENSE, arrived, numbers, square=whole))
        return self._report(update, last)

    def state(self) -> EngineState:
        """Everything of the servers, and what the workers begin with that have not pushed yet.

        Where replicas differ, the servers' vectors are the means of those that are known here.
        """
        vectors, local_updates, updates = self._read()
        counters = {
            **self._ledger.counters(),
            "evaluated": self.server.evaluated,
            "plateau_scale": self.plateau_scale,
            "local_updates": float(local_updates.numpy()),
            "updates": int(updates.numpy()),
            "fragment_size": self._fragment_size,
        }
        held = {name: vector.numpy() for name, vector in vectors.items()}
        state = EngineState({**held, **self._given}, counters)
        return self.with_means(state.with_vectors(self.replicas.vectors())) if self.replicas else state

    def with_means(self, state: EngineState) -> EngineState:
        """The state, of whose vectors the servers' are the means of the replicas that it has."""
        return dataclasses.replace(state, vectors=means_of_replicas(state.vectors, self._workers))

    def restore(self, state: EngineState) -> None:
        """Takes up a state of as many workers or fewer or more."""
        vectors, counters, server = state.vectors, state.counters, self.server
        version, self.plateau_scale = counters["version"], counters["plateau_scale"]
        number = max(n for n, phase in enumerate(self._recipe.phases) if phase.first_update <= version)
        self._enter(number, summed=counters["arrived"] > 0)
        self._ledger.restore(counters, self._recipe.phases[number].first_update)
        if self.replicas is None or len(counters["workers"]) != self._workers:
            vectors = without_replicas(vectors)
        self._given = {name: vector for name, vector in vectors.items() if name.startswith(WORKER_VECTOR)}
        if self.strategy.fragments > 1 and counters.get("fragment_size") != self._fragment_size:
            # Padding has moved the fragments: what is pushed and not merged yet would in part be pushed once more.
            names = [*self.strategy.exchange.saved, KNOWN]  # without which a worker begins by pulling everything
            outdated = [worker_vector(w, name) for w in range(self._workers) for name in names]
            self._given = {name: vector for name, vector in self._given.items() if name not in outdated}
        for name, shards in server.vectors().items():
            if name.startswith("received") and name not in vectors:
                continue  # saved where every push was an update
            for shard, piece in zip(shards, np.split(vectors[name], len(shards))):
                shard.assign(piece)
        for worker, copies in enumerate(server.copies):
            known = vectors.get(worker_vector(worker, KNOWN))
            for copy, piece in zip(copies, [] if known is None else np.split(known, len(copies))):
                copy.assign(piece)
        server.version.assign(version)
        server.steps.assign(self._ledger.steps)
        server.weight.assign(counters["weight"])
        # Version 0.1 wrote no ages: there were no averaged slots at first, and slots had seen all updates.
        server.local_updates.assign(counters.get("local_updates", 0.0))
        server.updates.assign(counters.get("updates", version))
        if self.replicas:
            self.replicas.restore(vectors)

    @property
    def _fragment_size(self) -> int:
        return self._recipe.layout.size // self.strategy.fragments

    def weight_of(self, sums: Sums) -> float:
        """What a payload counts that was made of `sums`, beside those of other workers."""
        return float(self.strategy.exchange.weight(sums)) * self._unit(sums)

    def _unit(self, sums: Sums) -> float:
        weigh = self.strategy.payload_weight
        return 1.0 if weigh is None else weigh(sums)

    def _enter(self, phase: int, summed: bool = False) -> None:
        """Begins a phase: its slots, and graphs that know them; `summed` where payloads are there already."""
        self.phase = phase
        strategy = self.strategy
        self._ledger.begin_phase(strategy.meetings.by_speed)
        slots = self._slots_for_workers()
        copies = 0 if strategy.pull_encoding is DENSE else self._workers
        summed = summed or strategy.quorum > 1 or strategy.local_gradient > 0
        self.server.begin(strategy.server_update, summed, strategy.averaged_slots, copies)
        self._hand_over(slots)
        self.rates = LearningRates(self._recipe.schedule, self._settings, self._recipe.phases[phase])
        # Traced now: when somebody is silent, nothing new can be made known to the cluster.
        self._read = tf.function(functools.partial(reading, self.server), autograph=False).get_concrete_function()
        parts = [Fragment(number, strategy.fragments) for number in range(strategy.fragments)]
        numbers = (strategy, self.rates, self._settings.clip_norm)
        self._graphs = [ServerGraph(self.server.of(part), *numbers) for part in parts]
        self.replicas = Replicas(self.server, self._held, *numbers) if strategy.local_gradient else None

    def _slots_for_workers(self) -> dict[str, np.ndarray]:
        """What local optimizers can go on from: the slots and the age of the servers' optimizer, if it is the same.

        Gradients were pushed so far, so that nobody else has such slots; behind this they would be lost.
        """
        local = self.strategy.local_update
        if local is None or not self.strategy.exchange.trains_replicas or not goes_on(self.server.update, local):
            return {}
        slots = {name: [shard.slots[name].numpy() for shard in self.server.shards] for name in local.slots}
        return {
            **{name: np.concatenate(parts) for name, parts in slots.items()},
            "updates": self.server.updates.numpy(),
        }

    def _hand_over(self, slots: Mapping[str, np.ndarray]) -> None:
        """Lets the workers' optimizers begin with these slots: each with a copy or, averaged, with what they pull."""
        workers = range(self._workers if self.strategy.local_slots == KEEP else 0)
        self._given = {worker_vector(worker, name): value for name, value in slots.items() for worker in workers}
        if not slots or not self.strategy.averaged_slots:
            return
        self.server.local_updates.assign(slots["updates"])
        for name in self.strategy.averaged_slots:
            for shard, piece in zip(self.server.shards, np.split(slots[name], len(self.server.shards))):
                shard.local_slots[name].assign(piece)

    def _arrived(self, push: Push, *numbers: float) -> Arrived:
        """What has come with a push, for the graph: its weight, what counts of it, and how it is compensated."""
        vectors, shards = self.strategy.payload_vectors, len(self.server.shards)
        weight, share, strength = (tf.constant(number, tf.float64) for number in numbers)
        tables = len(self.server.tables)
        pulled = pulled_of(push.payload, vectors, shards, tables)
        rows = rows_of(push.payload, tables) if tables else None
        return Arrived(push.payload[: vectors * shards], weight, share, pulled, strength, rows)

    def _numbers(self, sums: Sums, weight: float, share: float = 1.0) -> Numbers:
        """What an update of payloads that were made of `sums` needs to know; `share` is what counts of their weight.

        The moving average counts time in steps of all workers, so that one rate means one memory in tokens, however
        many steps and workers an update takes in.
        """
        steps = sums.steps / self._workers
        average = average_weight(self._settings.average_rate, self._ledger.steps, steps)
        tokens, batches = self.strategy.exchange.averaged(sums)
        plateau = self._plateau()
        local_updates = (sums.steps - sums.refused) / max(weight, 1)
        share, tokens = (tf.constant(number, plateau.dtype) for number in (share, tokens))
        others = [tf.constant(number, tf.float64) for number in (batches, average, local_updates, steps)]
        return Numbers(share, tokens, plateau, *others)

    def _measured(self, push: Push, square: float) -> Push:
        """The push with what its payload says of the noise scale; nothing where payloads are no sums of gradients.

        A worker that adds up gradients has measured each of them. Any other payload is one gradient.
        """
        sums = push.work.sums
        if not self.strategy.sums_gradients or sums.squared_tokens:
            return push
        sums = sums._replace(squares=square, squared_tokens=sums.target_tokens**2)
        return push._replace(work=push.work._replace(sums=sums))

    def _count(
        self, push: Push, waits: Waits, taken: bool, nonfinite_at: int, moved_bytes: tuple[int, int], **weights: float
    ) -> None:
        self._forget_given(push.worker)
        refused = None if taken else reason(push, nonfinite_at, self._recipe.layout, self.strategy.fragments)
        self._ledger.count(push, waits, refused, moved_bytes, **weights)

    def _forget_given(self, worker: int) -> None:
        """A worker that has pushed begins with nothing of a checkpoint any more."""
        for name in [name for name in list(self._given) if name.startswith(worker_vector(worker, ""))]:
            del self._given[name]

    def _moved_bytes(self, push: Push) -> tuple[int, int]:
        """Bytes that a worker has pulled and pushed for this push."""
        strategy, layout, dtype = self.strategy, self._recipe.layout, self._recipe.dtype
        shard_size, whole = layout.size // layout.shards, strategy.payload_vectors * layout.size * dtype.size
        if self.server.tables:
            parts_pulled, parts_pushed = moved_bytes(self.server.tables, push.work.rows, shard_size, dtype)
            return sum(parts_pulled), sum(parts_pushed)
        shards = layout.shards // strategy.fragments
        pulled = push.whole_pulls * whole + push.pulls * shards * strategy.pulled_bytes(shard_size, dtype)
        return pulled, shards * strategy.pushed_bytes(shard_size, dtype)

    def _report(self, update: Update, last: Push) -> BlockReport:
        """The report of an update that has been tried, at its last push; the next phase begins then, if it is time."""
        applied, trains_replicas = bool(update.applied), self.strategy.exchange.trains_replicas
        sums = self._ledger.close(applied, float(update.norm) if self.strategy.sums_gradients else None)
        report = self._ledger.report(
            sums,
            applied,
            epoch=last.work.position[0],
            gradient_norm=float(update.norm),
            learning_rate=self._workers_rate(sums, last) if trains_replicas else float(update.learning_rate),
            momentum_norm=float(update.momentum_norm) if self.strategy.server_update.momentum else None,
        )
        later = self._recipe.phases[self.phase + 1 :]
        if later and self.version >= later[0].first_update:
            self._enter(self.phase + 1)
        return report

    def _workers_rate(self, sums: Sums, last: Push) -> float:
        """The learning rate of the last local updates: at the worker's clock or, of a whole round, at the mean."""
        plateau = self._plateau()
        tokens, batches = (number / max(sums.steps, 1) for number in (sums.target_tokens, sums.batches))
        behind = last.work.clock if self.strategy.quorum == 1 else self._ledger.steps
        clock = tf.constant(behind - 1, tf.float64)
        return float(self.rates.of_worker(clock, tf.constant(tokens, plateau.dtype), tf.constant(batches), plateau))

    def _plateau(self) -> tf.Tensor:
        return tf.constant(self.plateau_scale, self.server.shards[0].parameters.dtype)
