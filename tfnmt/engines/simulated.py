"""The simulated engine: any number of workers in one process under a virtual clock, with real gradients.

Workers take turns at the points where a cluster's would meet: a pull reads the servers when its transfer begins, a push
reaches them when its transfer ends. What happens in between is decided by the cost model or, in tests, by a script. The
same seed gives the same trace of events and the same parameters, bit for bit.
"""

import dataclasses
import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from graphs.block import Steps
from tfnmt.engines.base import Driven, EngineState
from tfnmt.engines.pace import Pace
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.report import BlockReport
from tfnmt.engines.servers import Servers
from tfnmt.engines.virtual_time import Costs, CostSettings
from tfnmt.engines.worker import Worker

PULLED, STEPPED, PUSHED, ABSORBED = "pulled", "stepped", "pushed", "absorbed"


class Event(NamedTuple):
    """Something that a worker has done at a time; events happen in the order of time, then worker."""

    seconds: float
    worker: int
    kind: str


class Fault(NamedTuple):
    """The death of a worker at one event of one of its blocks; later it is back with nothing but its number.

    Attributes:
      worker: who.
      block: in which of its blocks, from 1.
      kind: the event that it does not survive: PULLED, the first of STEPPED, PUSHED, when the payload is lost with it,
        or ABSORBED, when the servers have the payload already.
      seconds: until it is back.
    """

    worker: int
    block: int
    kind: str
    seconds: float = 1.0


class SimulatedEngine(Driven):
    """Runs every row.

    Attributes:
      trace: every event so far, in order.
      crew: the workers.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        workers: int = 1,
        costs: CostSettings | None = None,
        script: Sequence[tuple[int, str]] | None = None,
        faults: Sequence[Fault] = (),
    ):
        """Builds the servers, one for each shard of the layout, and the workers.

        Args:
          recipe: what is trained.
          workers: how many.
          costs: what things cost; None for the defaults.
          script: (worker, event kind) in the order in which they shall happen, instead of the cost model: each worker
            goes on until it has had such an event. Training ends with the script.
          faults: workers that die.
        """
        self._workers, self._script, self._faults = workers, script, list(faults)
        self._now = 0.0
        self._servers = Servers(recipe, workers, clock=self._clock)
        layout, model_bytes = recipe.layout, recipe.layout.size * recipe.dtype.size
        self._costs = Costs(costs or CostSettings(), recipe.settings.seed, workers, layout.shards, model_bytes)
        self.trace: list[Event] = []
        self._reports: list[BlockReport] = []
        self._begin_phase()

    def blocks(self) -> Iterator[BlockReport]:
        """Trains until `stop` is called or the script ends; one report for each server update."""
        self._release()
        for event in self._events_in_order():
            self._now = max(self._now, event.seconds)
            self.trace.append(event)
            if fault := self._fault_at(event):
                self._kill(fault)
                continue
            phase = self._servers.phase
            self._go_on(event.worker)
            reports, self._reports = self._reports, []
            yield from reports
            if phase != self._servers.phase:
                self._begin_phase()
            self._release()

    def state(self) -> EngineState:
        """Everything that a resume needs."""
        slots = {name: vector for worker in self.crew for name, vector in worker.vectors().items()}
        state = self._servers.state().with_vectors(slots)
        return dataclasses.replace(state, counters={**state.counters, "virtual_seconds": self._now})

    def restore(self, state: EngineState) -> None:
        """Takes up the state of any engine; call it before `blocks`."""
        self._now = state.counters.get("virtual_seconds", 0.0)
        self._servers.restore(state)
        self._servers.restart_clock()
        self._begin_phase()

    def _clock(self) -> float:
        return self._now

    def _begin_phase(self) -> None:
        """Engages new workers, who know the row that trains now."""
        servers = self._servers
        self._pace = Pace(self._workers, servers.strategy.slack)
        self._graph = servers.worker_graph()
        self._outboxes = [servers.new_outbox() for _ in range(self._workers)]
        self.crew: list[Worker] = []
        self._lives: list[Iterator[Event | None]] = []
        for number in range(self._workers):
            self.crew.append(self._new_worker(number))
            self._lives.append(self._life(self.crew[number]))
        self._coming: list[Event] = []  # a heap
        self._standing = dict.fromkeys(range(self._workers), self._now)  # worker -> since when it waits for others
        self._reports = []

    def _new_worker(self, number: int) -> Worker:
        return self._servers.new_worker(self._graph, number, self._outboxes[number])

    def _life(self, worker: Worker) -> Iterator[Event | None]:
        """What a worker does: each event is yielded before it has happened, None where it waits for others."""
        number, waited = worker.number, 0.0
        while True:
            block = worker.next_block()
            if not (self._pace.may_begin(number) and not self._stopping):
                since = self._now
                yield None
                waited += self._now - since
            for action in block:
                if isinstance(action, Steps):
                    yield from self._steps(worker, action)
                    continue
                _, push = worker.run((action,), self._servers.plateau_scale)
                yield Event(self._transfer_ends("in" if push else "out"), number, PUSHED if push else PULLED)
                if push:
                    self._arrive(push, waited)
                    waited = 0.0
                    yield Event(self._now, number, ABSORBED)

    def _transfer_ends(self, direction: str) -> float:
        return self._costs.transfer_ends(direction, self._now, self._servers.strategy.payload_vectors)

    def _steps(self, worker: Worker, steps: Steps) -> Iterator[Event]:
        began, limit = self._now, self._servers.strategy.meetings.most_seconds
        for number in range(steps.count):
            if limit and number and self._now - began >= limit:
                return
            one = Steps(1, steps.first and number == 0)
            work, _ = worker.run((one,), self._servers.plateau_scale)
            seconds = self._costs.compute_seconds(worker.number, worker.step, work.sums.target_tokens)
            yield Event(self._now + seconds, worker.number, STEPPED)

    def _arrive(self, push, waited: float) -> None:
        """A payload has reached the servers, or the last one a round of the ring, which takes its time at once."""
        ready = self._pace.arrive(push)
        if ready and ready[-1].worker == self._workers - 1:
            self._now += self._costs.reduction_seconds(self._servers.strategy.payload_vectors)
        for each in ready:
            report = self._servers.absorb(each, waited if each is push else 0.0)
            self._reports += [report] if report else []

    def _go_on(self, worker: int) -> None:
        """Lets a worker live until its next event, or until it has to wait."""
        event = next(self._lives[worker])
        if event is None:
            self._standing[worker] = self._now
        else:
            self._standing.pop(worker, None)
            heapq.heappush(self._coming, event)

    def _release(self) -> None:
        """Lets those go on for whom the others have done enough."""
        if self._stopping:
            return
        for worker in sorted(self._standing):
            if self._pace.may_begin(worker):
                self._go_on(worker)

    def _events_in_order(self) -> Iterator[Event]:
        """The next event, again and again: the earliest, or the one that the script wants."""
        for worker, kind in self._script or ():
            event = None
            while event is None or event.kind != kind:
                event = next((each for each in self._coming if each.worker == worker), None)
                if event is None:
                    raise ValueError(f"Script: worker {worker} waits for others and cannot have {kind!r}.")
                self._coming.remove(event)
                yield event
        while self._coming and self._script is None:
            yield heapq.heappop(self._coming)

    def _fault_at(self, event: Event) -> Fault | None:
        """The fault that strikes now, which is used up."""
        block = self._servers.progress[event.worker].block + (event.kind != ABSORBED)
        for fault in self._faults:
            if (fault.worker, fault.block, fault.kind) == (event.worker, block, event.kind):
                self._faults.remove(fault)
                return fault
        return None

    def _kill(self, fault: Fault) -> None:
        """Replaces a worker by one that knows nothing, some time later."""
        worker = fault.worker
        self.crew[worker] = self._new_worker(worker)
        fresh = self._life(self.crew[worker])

        def reborn() -> Iterator[Event | None]:
            yield Event(self._now + fault.seconds, worker, "restarted")
            yield from fresh

        self._lives[worker] = reborn()
        self._go_on(worker)
