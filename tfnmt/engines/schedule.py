"""When virtual workers meet: the order and the times of the events of a row under a cost model.

Who computes is not said here: the simulated engine has real servers and real gradients, the planner has neither.
"""

import enum
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from graphs.actions import FETCH, MERGE, PUSH, WHOLE, Action, Meeting, Steps
from tfnmt.engines import links
from tfnmt.engines.pace import Fate, Ready, pace_of
from tfnmt.engines.report import BlockReport, Waits
from tfnmt.engines.timeline import Event, Timeline, Transfer
from tfnmt.engines.virtual_clock import Spent, VirtualClock
from tfnmt.engines.virtual_time import Costs
from tfnmt.engines.worker import Progress, Push
from tfnmt.strategies import Strategy

MET, PULLED, STEPPED, PUSHED, SERVED, ABSORBED = "met", "pulled", "stepped", "pushed", "served", "absorbed"
"""Kinds of events; MET and SERVED are only where a meeting, or the servers' work, costs time."""

SERVERS, QUORUM = -1, -2
"""Numbers among those of the workers: of the servers, whose event is SERVED, and of a quorum, whose event is DUE."""

DUE = "due"
"""A round waits no longer for those who are late."""


class _Wait(enum.Enum):
    """What a worker waits for, where no time is known."""

    OTHERS = enum.auto()
    TRANSFER = enum.auto()  # of its own


_Coming = Event | Transfer | _Wait


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


class Servers(Protocol):
    """What a schedule asks of the servers; see `tfnmt.engines.servers.UpdateSequence`."""

    plateau_scale: float

    @property
    def phase(self) -> int:
        """The number of the row that trains now."""

    @property
    def strategy(self) -> Strategy:
        """The row that trains now."""

    @property
    def version(self) -> int:
        """Server updates so far."""

    @property
    def progress(self) -> Sequence[Progress]:
        """How far each worker has come."""

    def worker_graph(self) -> Any:
        """What the workers of this phase have in common."""

    def new_outbox(self) -> Any:
        """Where a worker's payloads go."""

    def new_worker(self, graph: Any, number: int, outbox: Any) -> Any:
        """A worker that has come as far as the servers know."""

    def steps_of(self, worker: int, step: int) -> int:
        """Steps of the next block of a worker that has done `step`."""

    def absorb(self, push: Push, waits: Waits, fate: Fate) -> BlockReport | None:
        """Takes in a push; the report when it made an update, or would have."""


class Schedule:
    """Virtual workers and servers under a virtual clock.

    Attributes:
      trace: every event so far, in order.
      crew: the workers.
    """

    def __init__(
        self,
        servers: Servers,
        clock: VirtualClock,
        costs: Costs,
        workers: int,
        dtype: tf.DType,
        *,
        script: Sequence[tuple[int, str]] | None = None,
        faults: Sequence[Fault] = (),
    ):
        """Engages the workers.

        Args:
          servers: who take pushes in; their clock is the same.
          clock: moves with the events.
          costs: what things cost.
          workers: how many.
          dtype: of the parameters.
          script: (worker, event kind) in the order in which they shall happen, instead of the cost model: each worker
            goes on until it has had such an event. Training ends with the script.
          faults: workers that die.
        """
        self._servers, self._clock, self._costs = servers, clock, costs
        self._workers, self._dtype, self._script, self._faults = workers, dtype, script, list(faults)
        self._stopping = False
        self._reports: list[BlockReport] = []
        self.trace: list[Event] = []
        self.begin_phase()

    def reports(self) -> Iterator[BlockReport]:
        """Lets time pass until `stop` is called or the script ends; one report for each server update."""
        self._release()
        for event in self._events_in_order():
            self._clock.now = max(self._clock.now, event.seconds)
            self.trace.append(event)
            phase = self._servers.phase
            if fault := self._fault_at(event):
                self._kill(fault)
            elif event.worker == QUORUM:
                self._end_round(self._pace.end_round(self._clock.now))
            elif event.worker == SERVERS:
                self._absorb(self._ended.pop(0))
            elif self._lets_go_on(event):
                self._go_on(event.worker)
            reports, self._reports = self._reports, []
            yield from reports
            if phase != self._servers.phase:
                self.begin_phase()
            self._release()

    def stop(self) -> None:
        """Lets no worker begin another block."""
        self._stopping = True

    def begin_phase(self, arrived: int = 0) -> None:
        """Engages new workers, who know the row that trains now; so many payloads wait for the next update."""
        servers, now = self._servers, self._clock.now
        self._pace = pace_of(self._workers, servers.strategy)
        self._ended: list[Sequence[Ready]] = []  # rounds of a quorum whose updates are under way
        self._graph = servers.worker_graph()
        self._outboxes = [servers.new_outbox() for _ in range(self._workers)]
        self.crew = [self._new_worker(number) for number in range(self._workers)]
        self._lives: list[Iterator[_Coming]] = [self._life(worker) for worker in self.crew]
        self._timeline = Timeline(self._costs.new_links(), now)
        self._standing = set(range(self._workers))  # who waits for others
        self._spent = [Spent() for _ in range(self._workers)]
        self._under_way: list[str | None] = [None] * self._workers  # what each worker pulls or pushes
        self._awaited: set[int] = set()  # the workers that do nothing meanwhile
        self._arrived = arrived
        self._released_at = now  # when the push came that has let others go on
        self._served_at = now  # when the servers have done all work that has come to them
        self._reduction_seconds = 0.0  # that the last round of a ring has travelled
        self._served = [now] * self._workers  # when they have done that of each worker's last push

    def _new_worker(self, number: int) -> Any:
        return self._servers.new_worker(self._graph, number, self._outboxes[number])

    def _life(self, worker: Any) -> Iterator[_Coming]:
        """What a worker does: what is going to happen is yielded before it has; a transfer, when it begins."""
        number = worker.number
        while True:
            block = worker.next_block()
            if not (self._pace.may_begin(number) and not self._stopping):
                since = self._clock.now
                yield _Wait.OTHERS
                released_at = max(since, self._released_at)
                self._spent[number].waiting += released_at - since
                self._count_service(number, self._clock.now - released_at)
            self._pace.begin(number)
            if self._costs.settings.meeting_seconds:
                yield Event(self._clock.now + self._costs.settings.meeting_seconds, number, MET)
            push = yield from self._block(worker, block)
            if push is not None:
                came_at = self._clock.now
                if self._has_quorum:
                    self._wait_for_quorum(push)
                else:
                    yield from self._serve(number)
                    self._count_service(number, self._clock.now - came_at)
                    self._released_at = came_at
                    self._absorb(self._pace.arrive(push, came_at))
                yield Event(self._clock.now, number, ABSORBED)

    def _block(self, worker: Any, block: Sequence[Action]) -> Generator[_Coming, None, Push | None]:
        """The actions of a block, and the push that it comes to."""
        number, push, rows = worker.number, None, ()
        most_steps = self._servers.steps_of(number, worker.step)
        for place, action in enumerate(block):
            ends = place == len(block) - 1
            if isinstance(action, Steps):
                push = yield from self._steps(worker, action, most_steps, ends)
                continue
            if action.kind == MERGE:
                yield from self._wait(number)
            work, push = worker.run((action,), self._servers.plateau_scale, most_steps, ends=ends)
            rows = work.rows or rows
            if action.kind == MERGE:
                continue
            yield self._transfer(number, action, rows)
            if action.kind != FETCH and (action.kind != PUSH or ends):
                yield from self._wait(number)
        yield from self._wait(number)  # for a push beside which steps went on
        return push

    def _wait(self, number: int) -> Iterator[_Coming]:
        """The time until what a worker has under way is there."""
        since, kind = self._clock.now, self._under_way[number]
        if kind:
            yield _Wait.TRANSFER
        seconds, spent = self._clock.now - since, self._spent[number]
        spent.push, spent.pull = spent.push + seconds * (kind == PUSHED), spent.pull + seconds * (kind == PULLED)

    def _pushed(self) -> float:
        """How many vectors are as large as a payload on its way."""
        return sum(self._pushed_parts()) / self._costs.vector_bytes

    def _pushed_parts(self) -> Sequence[float]:
        strategy = self._servers.strategy
        return self._costs.encoded_parts(strategy.pushed_bytes, self._dtype, strategy.fragments)

    def _pulled_parts(self, kind: str) -> Sequence[float]:
        strategy = self._servers.strategy
        if kind == WHOLE:
            return self._costs.parts(strategy.payload_vectors)
        return self._costs.encoded_parts(strategy.pulled_bytes, self._dtype, strategy.fragments)

    def _transfer(self, worker: int, meeting: Meeting, rows: Sequence[int]) -> Event | Transfer:
        """A transfer that begins now; a ring has everything in copies, so nothing travels before it reduces.

        Where rows of a table travel, there are so many of them on each server.
        """
        kind = PUSHED if meeting.kind == PUSH else PULLED
        if self._costs.is_ring:
            return Event(self._clock.now, worker, kind)
        if self._costs.rows_on_servers:
            parts = self._costs.parts_with_rows(rows, self._dtype)
            return Transfer(worker, kind, *((links.PUSH, parts[1]) if kind == PUSHED else (links.PULL, parts[0])))
        if kind == PUSHED:
            return Transfer(worker, kind, links.PUSH, self._pushed_parts())
        return Transfer(worker, kind, links.PULL, self._pulled_parts(meeting.kind))

    def _steps(self, worker: Any, steps: Steps, most_steps: int, ends: bool) -> Generator[_Coming, None, Push | None]:
        """Steps; the push of the block that `ends` with them, where they go on beside it."""
        row = self._servers.strategy
        began, limit, moves = self._clock.now, row.meetings.most_seconds, row.local_update is not None
        gathers, push = not row.exchange.trains_replicas, None
        for number in range(min(steps.count, most_steps)):
            if limit and self._clock.now - began >= limit:
                break
            # Where nothing is gathered all steps are alike, and one graph does for them.
            one, is_last = Steps(1, gathers and steps.first and number == 0), number == steps.count - 1
            work, push = worker.run((one,), self._servers.plateau_scale, most_steps, ends=ends and is_last)
            seconds = self._costs.compute_seconds(worker.number, worker.step, work.sums.target_tokens, moves=moves)
            yield Event(self._clock.now + seconds, worker.number, STEPPED)
            self._spent[worker.number].compute += seconds
        return push

    def _serve(self, worker: int) -> Iterator[Event]:
        """The time for which a worker waits until the servers, or the ring, are done with what has come before."""
        self._arrived += 1
        if self._arrived >= self._servers.strategy.quorum:
            self._arrived = 0
            self._begin_update()
        before, self._served[worker] = self._served[worker], self._served_at
        # Who has two payloads computes while the last one waits; the parameters move at once here, not only then.
        done_at = before if self._pace.payloads > 1 else self._served_at
        if done_at > self._clock.now:
            yield Event(done_at, worker, SERVED)

    def _begin_update(self) -> None:
        """Lets the servers, or the ring, begin an update as soon as they are done with those before."""
        row = self._servers.strategy
        moved, reduction = row.payload_vectors / row.fragments, (self._pushed(), row.encoding.adds_up)
        averaging = self._averages(self._servers.version + 1) * self._costs.reduction_seconds(1)
        seconds = self._costs.update_seconds(moved, *reduction) + averaging
        self._reduction_seconds = self._costs.reduction_seconds(*reduction) + averaging
        self._served_at = max(self._served_at, self._clock.now) + seconds

    @property
    def _has_quorum(self) -> bool:
        return self._servers.strategy.least_payloads is not None

    def _wait_for_quorum(self, push: Push) -> None:
        """Takes in a push of a row whose rounds end without those who are late."""
        was_due = self._pace.due
        self._end_round(self._pace.arrive(push, self._clock.now))
        if was_due > self._pace.due:
            self._timeline.add(Event(self._pace.due, QUORUM, DUE))

    def _end_round(self, ready: Sequence[Ready]) -> None:
        """Begins the update of a round, if that has ended; a push that is too late is dropped at once."""
        if not ready or ready[-1].fate is Fate.TOO_LATE:
            self._absorb(ready)
            return
        self._released_at = self._clock.now
        self._timeline.forget(QUORUM)
        self._begin_update()
        self._ended.append(ready)
        if self._served_at > self._clock.now:
            self._timeline.add(Event(self._served_at, SERVERS, SERVED))
        else:
            self._absorb(self._ended.pop(0))

    def _averages(self, update: int) -> bool:
        """Whether the workers of a ring average their replicas behind an update."""
        return self._servers.strategy.averages_replicas(update)

    def _count_service(self, worker: int, seconds: float) -> None:
        """Counts what a worker has waited for the servers or, in a ring, for the reduction and then the update."""
        transfer = 0.0
        if self._costs.is_ring:
            transfer = min(seconds, self._reduction_seconds)
        self._spent[worker].push += transfer
        self._spent[worker].servers += seconds - transfer

    def _absorb(self, ready: Sequence[Ready]) -> None:
        """Hands the servers what they may take now."""
        for push, fate in ready:
            spent, self._spent[push.worker] = self._spent[push.worker], Spent()
            waits = Waits(spent.waiting, spent.servers)
            report = self._servers.absorb(spent.in_place_of_real(push), waits, fate)
            self._pace.absorb(push)
            self._reports += [self._virtual(report)] if report else []

    def _virtual(self, report: BlockReport) -> BlockReport:
        """The report of an update under this clock and on this network."""
        pushes = report.pushes
        if self._costs.is_ring:
            ring_bytes = round(self._costs.ring_bytes(self._pushed(), self._servers.strategy.encoding.adds_up))
            if report.skipped is None and self._averages(report.update):
                ring_bytes += round(self._costs.ring_bytes(1))
            pushes = tuple(push._replace(bytes_pulled=0, bytes_pushed=ring_bytes) for push in pushes)
        return report._replace(pushes=pushes, is_virtual=True)

    def _lets_go_on(self, event: Event) -> bool:
        """Whether a worker goes on behind an event: not where it computes while it pulls or pushes."""
        if event.kind not in (PULLED, PUSHED):
            return True
        self._under_way[event.worker] = None
        return event.worker in self._awaited

    def _go_on(self, worker: int) -> None:
        """Lets a worker live until its next event, or until it has to wait."""
        self._standing.discard(worker)
        self._awaited.discard(worker)
        while isinstance(coming := next(self._lives[worker]), Event | Transfer):
            if isinstance(coming, Transfer):
                self._timeline.begin(self._clock.now, coming)
            else:
                self._timeline.add(coming)
            if coming.kind not in (PULLED, PUSHED):
                return
            self._under_way[worker] = coming.kind
        (self._standing if coming is _Wait.OTHERS else self._awaited).add(worker)

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
        self._timeline.forget(worker)
        self._under_way[worker] = None
        self._awaited.discard(worker)
        if fault.kind != ABSORBED:  # or the servers have the block, or are going to have it
            self._spent[worker].forget_block()
        self.crew[worker] = self._new_worker(worker)
        fresh = self._life(self.crew[worker])

        def reborn() -> Iterator[_Coming]:
            yield Event(self._clock.now + fault.seconds, worker, "restarted")
            self._pace.regain(worker)
            yield from fresh

        self._lives[worker] = reborn()
        self._go_on(worker)
        self._pace.lose(worker)
        self._end_round(self._pace.end_round(self._clock.now))
