"""The local engine: one process, one worker, the server beside it."""

import dataclasses
from collections.abc import Iterator, Mapping

from tfnmt.engines.base import Engine, EngineState
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.report import BlockReport
from tfnmt.engines.servers import UpdateSequence
from tfnmt.engines.session import Job, Session, start_streams
from tfnmt.engines.worker import Worker


class LocalEngine(Engine):
    """Runs a strategy with one worker."""

    def __init__(self, recipe: Recipe):
        """Builds the server and initialises its parameters from the seed."""
        self._servers = UpdateSequence(recipe, workers=1)
        self._worker = self._new_worker()

    def blocks(self) -> Iterator[BlockReport]:
        """Trains until `stop` is called; one report for each server update."""
        phase = self._servers.phase
        while not self._stopping:
            if phase != self._servers.phase:
                phase, self._worker = self._servers.phase, self._new_worker()
            numbers = (self._servers.plateau_scale, self._servers.steps_of(0, self._worker.step))
            _, push = self._worker.run(self._worker.next_block(), *numbers)
            report = self._servers.absorb(push) if push else None
            if report:
                yield report
                self._servers.restart_clock()

    def state(self) -> EngineState:
        """Everything that an exact resume needs."""
        return self._servers.state().with_vectors(self._worker.vectors())

    def restore(self, state: EngineState) -> None:
        """Takes up the state of any engine; call it before `blocks`."""
        self._servers.restore(state)
        self._worker = self._new_worker()

    def _new_worker(self) -> Worker:
        return self._servers.new_worker(self._servers.worker_graph(), 0, self._servers.new_outbox())


@dataclasses.dataclass(frozen=True)
class LocalSettings:
    """One worker in this process."""


class LocalSession(Session):
    """One worker, and as many shards as it has streams, which are updated side by side, too."""

    servers_are_here = True
    workers = 1

    def __init__(self, settings: LocalSettings, threads: int | None, environment: Mapping[str, str]):
        self.servers = self.streams = start_streams(threads, environment)

    def describe(self) -> str:
        """The processes in words."""
        return "1 worker in this process"

    def run(self, job: Job) -> int:
        """Trains in this process; the exit code."""
        return self.lead(job, lambda recipe, work: work(LocalEngine(recipe)))
