"""The simulated engine: any number of workers in one process under a virtual clock, with real gradients.

Workers take turns at the points where a cluster's would meet: a pull reads the servers when its transfer begins, a push
reaches them when its transfer ends. What happens in between is decided by the cost model or, in tests, by a script. The
same seed gives the same trace of events and the same parameters, bit for bit; no time of the real machine is in either.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from graphs.block import Steps
from tfnmt.engines import links
from tfnmt.engines.base import Engine, EngineState
from tfnmt.engines.pace import Pace
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.report import BlockReport
from tfnmt.engines.servers import UpdateSequence
from tfnmt.engines.session import Job, Session, counted, start_streams
from tfnmt.engines.timeline import Event, Timeline, Transfer
from tfnmt.engines.virtual_time import AUTO, RING, STAR, Costs, CostSettings
from tfnmt.engines.worker import Worker
from tfnmt.settings import setting
from tfnmt.strategies import Strategy, StrategySettings

MET, PULLED, STEPPED, PUSHED, SERVED, ABSORBED = "met", "pulled", "stepped", "pushed", "served", "absorbed"
"""Kinds of events; MET and SERVED are only where a meeting, or the servers' work, costs time."""


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


class SimulatedEngine(Engine):
    """Runs every row.

    Attributes:
      trace: every event so far, in order.
      crew: the workers.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        workers: int,
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
        self._dtype = recipe.dtype
        self._now = 0.0
        self._servers = UpdateSequence(recipe, workers, clock=self._clock)
        self._costs = _costs(costs or CostSettings(), recipe, workers)
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
        self._begin_phase(state.counters["arrived"])

    def _clock(self) -> float:
        return self._now

    def _begin_phase(self, arrived: int = 0) -> None:
        """Engages new workers, who know the row that trains now; so many payloads wait for the next update."""
        servers = self._servers
        self._pace = Pace(self._workers, servers.strategy.slack)
        self._graph = servers.worker_graph()
        self._outboxes = [servers.new_outbox() for _ in range(self._workers)]
        self.crew: list[Worker] = []
        self._lives: list[Iterator[Event | Transfer | None]] = []
        for number in range(self._workers):
            self.crew.append(self._new_worker(number))
            self._lives.append(self._life(self.crew[number]))
        self._timeline = Timeline(self._costs.new_links(), self._now)
        self._standing = set(range(self._workers))  # who waits for others
        self._waited = [0.0] * self._workers  # seconds since the last push that was absorbed
        self._arrived = arrived
        self._served_at = self._now  # when the servers have done all work that has come to them

    def _new_worker(self, number: int) -> Worker:
        return self._servers.new_worker(self._graph, number, self._outboxes[number])

    def _life(self, worker: Worker) -> Iterator[Event | Transfer | None]:
        """What a worker does: what is going to happen is yielded before it has, None where it waits for others."""
        number = worker.number
        while True:
            block = worker.next_block()
            if not (self._pace.may_begin(number) and not self._stopping):
                since = self._now
                yield None
                self._waited[number] += self._now - since
            if self._costs.settings.meeting_seconds:
                yield Event(self._now + self._costs.settings.meeting_seconds, number, MET)
            for action in block:
                if isinstance(action, Steps):
                    yield from self._steps(worker, action)
                    continue
                _, push = worker.run((action,), self._servers.plateau_scale)
                if push is None:
                    yield self._transfer(number, PULLED, links.PULL)
                    continue
                yield self._transfer(number, PUSHED, links.PUSH)
                yield from self._serve(number)
                self._absorb(push)
                yield Event(self._now, number, ABSORBED)

    def _transfer(self, worker: int, kind: str, direction: int) -> Event | Transfer:
        """A transfer that begins now; a ring has everything in copies, so nothing travels before it reduces."""
        return Event(self._now, worker, kind) if self._costs.is_ring else Transfer(worker, kind, direction)

    def _steps(self, worker: Worker, steps: Steps) -> Iterator[Event]:
        began, limit = self._now, self._servers.strategy.meetings.most_seconds
        for number in range(steps.count):
            if limit and self._now - began >= limit:
                return
            one = Steps(1, steps.first and number == 0)
            work, _ = worker.run((one,), self._servers.plateau_scale)
            seconds = self._costs.compute_seconds(worker.number, worker.step, work.sums.target_tokens)
            yield Event(self._now + seconds, worker.number, STEPPED)

    def _serve(self, worker: int) -> Iterator[Event]:
        """The time that the servers, or the ring, take for a payload that has come, and for all that came before it."""
        self._arrived += 1
        if self._arrived >= self._servers.strategy.quorum:
            self._arrived = 0
            seconds = self._costs.update_seconds(self._servers.strategy.payload_vectors)
            self._served_at = max(self._served_at, self._now) + seconds
        if self._served_at > self._now:
            yield Event(self._served_at, worker, SERVED)

    def _absorb(self, push) -> None:
        """Hands the servers what they may take now that this push is there."""
        for each in self._pace.arrive(push):
            report = self._servers.absorb(each, self._waited[each.worker])
            self._pace.absorb(each)
            self._waited[each.worker] = 0.0
            self._reports += [self._virtual(report)] if report else []

    def _virtual(self, report: BlockReport) -> BlockReport:
        """The report of an update under this clock, which knows no reader, and on this network."""
        pushes = report.pushes
        if self._costs.is_ring:
            ring_bytes = int(self._costs.ring_bytes(self._servers.strategy.pushed_vectors(self._dtype)))
            pushes = tuple(push._replace(bytes_pulled=0, bytes_pushed=ring_bytes) for push in pushes)
        return report._replace(pushes=pushes, data_wait_seconds=0.0, is_virtual=True)

    def _go_on(self, worker: int) -> None:
        """Lets a worker live until its next event, or until it has to wait."""
        self._standing.discard(worker)
        coming = next(self._lives[worker])
        if coming is None:
            self._standing.add(worker)
        elif isinstance(coming, Transfer):
            strategy, is_push = self._servers.strategy, coming.direction == links.PUSH
            vectors = strategy.pushed_vectors(self._dtype) if is_push else strategy.payload_vectors
            self._timeline.begin(self._now, coming, self._costs.parts(vectors))
        else:
            self._timeline.add(coming)

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
                event = self._timeline.next_of(worker)
                if event is None:
                    raise ValueError(f"Script: worker {worker} waits for others and cannot have {kind!r}.")
                yield event
        while self._script is None and (event := self._timeline.next()):
            yield event

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

        def reborn() -> Iterator[Event | Transfer | None]:
            yield Event(self._now + fault.seconds, worker, "restarted")
            yield from fresh

        self._lives[worker] = reborn()
        self._go_on(worker)


@dataclasses.dataclass(frozen=True)
class SimulationSettings(CostSettings):
    """Virtual workers in one process, under a virtual clock: real gradients, pretended machines."""

    workers: int = setting(2, "Virtual workers.", minimum=1)
    parameter_servers: int = setting(1, "Virtual parameter servers.", minimum=1)

    def faults(self) -> list[str]:
        """Stragglers that are none of the workers."""
        return super().faults() or [
            f"--stragglers={text}: --workers={self.workers} are numbered from 0 to {self.workers - 1}."
            for text in self.stragglers
            if int(text.split(":")[0]) >= self.workers
        ]


class SimulatedSession(Session):
    """Virtual workers and parameter servers in this process."""

    def __init__(self, settings: SimulationSettings, threads: int | None, environment: Mapping[str, str]):
        self._costs, self.workers, self.servers = settings, settings.workers, settings.parameter_servers
        self.streams = start_streams(threads, environment)

    def describe(self) -> str:
        """The processes in words."""
        return f"{counted(self.workers, 'virtual worker')}, {counted(self.servers, 'parameter server')}"

    def faults(self, shared: StrategySettings, strategy: Strategy) -> list[str]:
        """Rows that make no ring."""
        fault = f"--network={RING}: --strategy={shared.strategy} has no barrier; use --network={STAR}."
        return super().faults(shared, strategy) + [fault] * (self._costs.network == RING and not strategy.has_barrier)

    def run(self, job: Job) -> int:
        """Trains in this process; the exit code."""
        workers, costs = self.workers, self._costs
        return self.lead(job, lambda recipe, work: work(SimulatedEngine(recipe, workers=workers, costs=costs)))


def _costs(settings: CostSettings, recipe: Recipe, workers: int) -> Costs:
    """The costs of a run; a warm start travels as the row behind it does."""
    layout, row = recipe.layout, recipe.phases[-1].strategy
    is_ring = settings.network == RING or (settings.network == AUTO and row.ring)
    vector_bytes = layout.size * recipe.dtype.size
    return Costs(settings, recipe.settings.seed, workers, layout.shards, vector_bytes, is_ring=is_ring)
