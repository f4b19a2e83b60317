"""The cluster engine: `ParameterServerStrategy` and its `ClusterCoordinator` drive workers in other tasks.

The chief's coordinator has one thread for each worker. Each runs a loop: take the next block of a *lane* (a worker's
number, its data, its place in the program), let the worker compute it, hand the push to the servers. A lane belongs to
the worker of its number; when that worker is down, another one takes it over. Everything about a lane that cannot be
computed anew is known to the chief (`UpdateSequence.progress`), so a lane is at home wherever it runs.

Pushes are transferred by the workers, queue, and are absorbed in one thread of the chief, one behind the other, while
the workers compute their next blocks. All other work on the servers' variables queues there, too. The arithmetic runs
on the servers; a worker that dies, at whatever instant, leaves a whole update or none.
"""

import contextlib
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tfnmt.cluster.addresses import SERVER, Cluster
from tfnmt.cluster.coordinator import Coordinator, current_task
from tfnmt.cluster.probes import answers, is_listening
from tfnmt.cluster.stall_guard import CHIEF_ITSELF, StallGuard, culprit, silent_tasks
from tfnmt.cluster.stall_watch import StallWatch
from tfnmt.cluster.tasks import device_of
from tfnmt.engines.base import Engine, EngineState
from tfnmt.engines.lanes import Lane
from tfnmt.engines.pace import Fate, Ready, pace_of
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.report import BlockReport, Waits
from tfnmt.engines.servers import UpdateSequence
from tfnmt.engines.worker import Push, Worker
from tfnmt.errors import LostError

_LOOK_SECONDS = 0.5
_SILENT_SECONDS = 2.0
"""For which a worker may leave something undone before it is asked whether it lives."""


class ClusterEngine(Engine):
    """Runs every row but those of a ring."""

    def __init__(self, recipe: Recipe, *, cluster: Cluster):
        """Connects to the tasks, which must be there, and makes the server variables.

        Args:
          recipe: what is trained; the readers are built on the workers, which must have the files.
          cluster: who is where.
        """
        self._recipe, self._cluster, self._workers = recipe, cluster, len(cluster.workers)
        self._updates = ThreadPoolExecutor(1, "updates")  # whatever the chief does with other tasks' variables
        self._unfinished = 0  # pushes that have been handed to it
        self._failure: Exception | None = None  # of one of them
        self._condition = threading.Condition()
        self._reports: queue.SimpleQueue[BlockReport] = queue.SimpleQueue()
        self._down: dict[int, float] = {}  # worker -> since when
        self._silent: set[int] = set()  # workers without which training goes on, and whose blocks do not end
        self._closed = self._paused = False
        self._paused_at = 0.0
        self._stall_watch = StallWatch(
            cluster.stall_timeout,
            self._busy,
            lambda worker: culprit(cluster, worker),
            lambda: StallGuard(cluster),
            lambda worker: not silent_tasks(cluster.tasks()),
            recipe.is_starved,
            self._goes_on_without,
        )
        self._crew: dict[int, tuple[int, Worker]] = {}  # lane -> where it is, and what it keeps there
        self._lanes: list[Lane] = []
        self._own = Lane()  # the chief's own work on variables of other tasks, for the stall watch
        devices = [device_of(SERVER, number) for number in range(len(cluster.servers))]
        with self._stall_watch, self._watched():
            self._coordinator = Coordinator(cluster)
            self._servers = UpdateSequence(recipe, self._workers, devices=devices)
        self._pace = pace_of(self._workers, self._servers.strategy)

    def blocks(self) -> Iterator[BlockReport]:
        """Trains until `stop` is called; one report for each server update.

        Raises:
          LostError: a parameter server is gone, or somebody did not answer for too long.
        """
        with self._stall_watch:
            self._alone(self._begin_phase)
            self._coordinator.run_on_each_worker(self._serve, self._workers)
            while (report := self._next_report()) is not None:
                yield report
                self._resume()
            self._close()

    def stop(self) -> None:
        """Lets the workers finish what they have begun."""
        super().stop()
        with self._condition:
            self._condition.notify_all()

    def state(self) -> EngineState:
        """Everything that a resume needs, behind every push that has come."""
        return self._alone(self._read)

    def _read(self) -> EngineState:
        state = self._servers.state()
        with self._condition:
            # Nothing is asked of a worker for which nobody waits: it may be silent.
            is_late = [self._servers.strategy.has_barrier and lane.block is not None for lane in self._lanes]
            crew = [place for lane, place in self._crew.items() if not (is_late[lane] or place[0] in self._silent)]
        slots: dict[str, np.ndarray] = {}
        for index, worker in crew:
            slots |= self._ask(index, worker)
        reports = []
        while not self._reports.empty():
            reports.append(self._reports.get())
        return dataclasses.replace(state.with_vectors(slots), reports=tuple(reports))

    def _ask(self, index: int, worker: Worker) -> dict[str, np.ndarray]:
        """What a worker holds for a checkpoint; nothing of one that is down, or without which training goes on."""
        answer: Future[dict[str, np.ndarray]] = Future()

        def ask() -> None:
            try:
                answer.set_result(worker.vectors())
            except Exception as error:  # raised where the answer is read
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()  # one that stands still for ever where the worker is silent
        while not wait([answer], _SILENT_SECONDS).done:
            if self._goes_on_without(index, _SILENT_SECONDS):
                return {}
        try:
            return answer.result()
        except tf.errors.OpError:
            return {}

    def restore(self, state: EngineState) -> None:
        """Takes up the state of any engine; call it before `blocks`."""
        self._alone(self._servers.restore, state)

    def _begin_phase(self) -> None:
        """Prepares the row that trains now: its graph, and every worker's payload variables on every server."""
        servers = self._servers
        self._phase = servers.phase
        self._pace = pace_of(self._workers, servers.strategy)
        for worker in list(self._down):
            self._pace.lose(worker)
        self._graph = servers.worker_graph()
        self._outboxes = [[servers.new_outbox() for _ in range(self._pace.payloads)] for _ in range(self._workers)]
        self._graph.trace(self._outboxes[0][0], iter(self._recipe.make_batches(None, 0, self._workers)))
        self._lanes = [Lane() for _ in range(self._workers)]
        self._crew = {}

    def _serve(self) -> None:
        """One worker's loop, in its thread of the coordinator and on its device."""
        index = current_task()
        try:
            while (lane := self._take(index)) is not None:
                self._work(index, lane)
        except Exception as error:
            self._fall(index, error)
            raise  # The coordinator knows whether to wait for the worker and call this again.

    def _take(self, index: int) -> int | None:
        """The lane of which this worker does the next block, once there is one; None when training is over."""
        with self._condition:
            if index in self._down:
                self._welcome(index)
            while not self._closed:
                seconds = self._end_due_round()
                for lane in [index, *(self._down if self._pace.needs_stand_ins() else ())]:
                    if self._may_begin(lane, index):
                        self._lanes[lane].begin(index)
                        self._pace.begin(lane)
                        return lane
                self._condition.wait(seconds)
            return None

    def _welcome(self, index: int) -> None:
        """A worker is back that was down or silent."""
        logging.info("Worker %d at %s is back.", index, self._cluster.workers[index])
        self._down.pop(index, None)
        self._silent.discard(index)
        self._pace.regain(index)

    def _end_due_round(self) -> float:
        """Ends a round that waits no longer for those who are late; the seconds until somebody is to look again."""
        if self._stopping or self._paused:
            return _LOOK_SECONDS
        now = time.monotonic()
        if ready := self._pace.end_round(now):
            self._hand_over(ready)
            self._note_waits()
        return min(_LOOK_SECONDS, max(self._pace.due - now, 0.0))

    def _may_begin(self, lane: int, worker: int) -> bool:
        if self._stopping or self._paused or self._lanes[lane].block is not None:
            return False
        # One who begins a lane anew has to know how far it has come, and makes graphs known to those who may be silent.
        is_there = self._crew.get(lane, (None,))[0] == worker
        may_come = not (self._pace.unabsorbed(lane) or self._silent)
        return (is_there or may_come) and self._pace.may_begin(lane)

    def _work(self, index: int, lane: int) -> None:
        """One block; its push is queued."""
        worker = self._worker(index, lane)
        # The servers may yet have to absorb the payload before, which is in another outbox.
        worker.outbox = self._outboxes[lane][self._pace.pushed(lane) % self._pace.payloads]
        most_steps = self._servers.steps_of(lane, worker.step)
        _, push = worker.run(worker.next_block(), self._servers.plateau_scale, most_steps)
        with self._condition:
            if index in self._silent:
                self._welcome(index)
            if push and not self._closed:
                self._hand_over(self._pace.arrive(push, time.monotonic()))
            self._lanes[lane].end()
            self._note_waits()
            self._condition.notify_all()

    def _hand_over(self, ready: Sequence[Ready]) -> None:
        """Queues what the servers are to absorb now."""
        for push, fate in ready:
            self._unfinished += 1
            self._updates.submit(self._absorb, push, self._lanes[push.worker].waited(), fate)

    def _note_waits(self) -> None:
        """Tells the lanes for whom they stand still, if they do."""
        for number, each in enumerate(self._lanes):
            each.wait(self._pace.waits_for_others(number))

    def _worker(self, index: int, lane: int) -> Worker:
        """What a lane keeps on a worker: as it was left there, or as the servers know it."""
        where, worker = self._crew.get(lane, (None, None))
        if worker is None or where != index:
            worker = self._servers.new_worker(self._graph, lane, self._outboxes[lane][0])
            with self._condition:
                self._crew[lane] = (index, worker)
        return worker

    def _absorb(self, push: Push, waits: Waits, fate: Fate) -> None:
        """What the servers make of a push; in the thread of the updates."""
        if self._failure:
            return  # nothing may come on top of what may be half an update
        try:
            with self._watched():
                report = self._servers.absorb(push, waits, fate)
        except Exception as error:
            self._failure = error
            return
        with self._condition:
            self._pace.absorb(push)
            self._unfinished -= 1
            if report:
                self._reports.put(report)
                self._paused = self._phase != self._servers.phase or self._servers.strategy.has_barrier
                self._paused_at = time.monotonic()
            self._condition.notify_all()

    def _fall(self, index: int, error: Exception) -> None:
        """A worker's block has failed: what it kept there is lost."""
        with self._condition:
            self._down[index] = time.monotonic()
            self._silent.discard(index)
            self._pace.lose(index)
            for lane, (where, _) in list(self._crew.items()):
                if where == index:
                    del self._crew[lane]
            for each in self._lanes:
                if each.block is not None and each.block[0] == index:
                    each.end()
            if not self._closed and all(map(is_listening, self._cluster.servers)):
                logging.warning(
                    "Worker %d at %s failed (%s).", index, self._cluster.workers[index], type(error).__name__
                )
            self._condition.notify_all()

    def _next_report(self) -> BlockReport | None:
        """The next report, once there is one; None when everything that was begun has ended."""
        while True:
            self._stall_watch.check()
            self._check_coordinator()
            with contextlib.suppress(queue.Empty):
                return self._reports.get(timeout=_LOOK_SECONDS)
            with self._condition:
                at_work = {lane.block[0] for lane in self._lanes if lane.block is not None} - self._silent
                idle = not at_work and not self._unfinished
                if self._stopping and idle and self._reports.empty():
                    return None
                if self._down:
                    self._check_servers()
                    self._check_workers()

    def _resume(self) -> None:
        """Lets the workers go on behind a report, if they had to wait for it to be read."""
        with self._condition:
            if not self._paused:
                return
        paused_seconds = time.monotonic() - self._paused_at
        for lane in self._lanes:  # none of which has a block, but those that are late
            lane.forget(paused_seconds)
        if self._phase != self._servers.phase:
            self._alone(self._begin_phase)
        self._alone(self._servers.restart_clock)
        with self._condition:
            self._paused = False
            self._condition.notify_all()

    def _check_coordinator(self) -> None:
        """Raises what ended a worker's loop or the updates for good, even while the others go on."""
        if error := self._failure or self._coordinator.error:
            with self._condition:
                self._check_servers()
            self._closed = True
            raise error

    def _busy(self) -> list[tuple[int, float, float]]:
        """Each worker that has a block: its number, for how many seconds, and how long its lane's longest took.

        The chief is among them while it works on other tasks' variables: behind a barrier, nobody has a block then.
        """
        now = time.monotonic()
        blocks = [(lane.block, lane.longest_seconds) for lane in [*self._lanes, self._own]]
        return [(block[0], now - block[1], longest) for block, longest in blocks if block is not None]

    def _goes_on_without(self, index: int, seconds: float) -> bool:
        """Whether training goes on without a worker that is silent: while enough others for a round are not.

        Args:
          index: its number, or the chief's.
          seconds: for which it has not done what it is to do; infinity if that is too long even where it answers.
        """
        if index == CHIEF_ITSELF:
            return False
        with self._condition:
            others = [where for where, _ in self._crew.values() if where not in self._silent | {index}]
            if not self._pace.is_enough(len(others)):
                return False
        address = self._cluster.workers[index]
        if index not in self._silent:
            if seconds < _SILENT_SECONDS or (seconds < math.inf and answers(address)):
                return False
            with self._condition:
                logging.warning("Worker %d at %s does not answer; training goes on without it.", index, address)
                self._silent.add(index)
                self._pace.lose(index)
                self._condition.notify_all()
        return True

    def _check_servers(self) -> None:
        """Looks for parameter servers that are gone.

        Raises:
          LostError: one is.
        """
        for number, address in enumerate(self._cluster.servers):
            if not is_listening(address):
                self._closed = True
                raise LostError(
                    f"Parameter server {number} at {address} is gone, and with it the parameters. Start training "
                    "again: it goes on from the newest checkpoint."
                )

    def _check_workers(self) -> None:
        """Looks whether there is one left, or one may come back.

        Raises:
          LostError: there has been none for too long.
        """
        seconds = time.monotonic() - max(self._down.values())
        if len(self._down) == self._workers and seconds > self._cluster.stall_timeout:
            self._closed = True
            raise LostError(
                f"All workers have been gone for {seconds:.0f} s (--stall_timeout={self._cluster.stall_timeout:g}); "
                "training ends. Look at their logs; start training again, and it goes on from the newest checkpoint."
            )

    def _alone(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Works on the servers' variables behind the pushes that have come; says it when a server is gone."""

        def watched() -> Any:
            if self._failure:
                raise self._failure  # nobody may read half an update
            with self._watched():
                return work(*arguments)

        try:
            with self._stall_watch:  # also before and behind training
                return self._updates.submit(watched).result()
        except tf.errors.OpError:
            self._check_servers()
            raise

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Has the stall watch see what the chief does inside, in the thread of the updates."""
        self._own.begin(CHIEF_ITSELF)
        try:
            yield
        finally:
            self._own.end()

    def _close(self) -> None:
        """Ends the workers' loops."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._coordinator.join(len(self._silent))
