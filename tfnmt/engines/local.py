"""The local engine: one process, one worker, the server beside it."""

from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tfnmt.engines.base import EngineState
from tfnmt.engines.report import BlockReport
from tfnmt.engines.servers import Servers
from tfnmt.engines.worker import Worker, WorkerGraph
from tfnmt.layout import Layout
from tfnmt.models.base import Model
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import Phase, StrategySettings

MakeBatches = Callable[[Sequence[int] | None, int, int], tf.data.Dataset]
"""Position behind which to read, None for the beginning; worker; workers -> an endless dataset of `Batch`."""


class LocalEngine:
    """Runs a strategy with one worker."""

    name = "local"

    def __init__(
        self,
        model: Model,
        layout: Layout,
        phases: Sequence[Phase],
        schedule: ScheduleSettings,
        settings: StrategySettings,
        make_batches: MakeBatches,
        dtype: tf.DType = tf.float32,
    ):
        """Builds the server and initialises its parameters from the seed."""
        self._model, self._layout, self._settings, self._make_batches = model, layout, settings, make_batches
        self._dtype = dtype
        self._servers = Servers(layout, phases, schedule, settings, workers=1, dtype=dtype)
        self._worker = self._new_worker()
        self._stopping = False

    def blocks(self) -> Iterator[BlockReport]:
        """Trains until `stop` is called; one report for each server update."""
        phase = self._servers.phase
        while not self._stopping:
            if phase != self._servers.phase:
                phase, self._worker = self._servers.phase, self._new_worker()
            _, push = self._worker.run(self._worker.next_block(), self._servers.plateau_scale)
            report = self._servers.absorb(push) if push else None
            if report:
                yield report
                self._servers.restart_clock()

    def stop(self) -> None:
        """Ends `blocks` behind the reports of what has been begun."""
        self._stopping = True

    def scale_learning_rate(self, factor: float) -> None:
        """Multiplies the rate of the plateau schedule."""
        self._servers.plateau_scale *= factor

    def state(self) -> EngineState:
        """Everything that an exact resume needs."""
        return self._servers.state().with_vectors(self._worker.vectors())

    def restore(self, state: EngineState) -> None:
        """Takes up the state of any engine; call it before `blocks`."""
        self._servers.restore(state)
        self._worker = self._new_worker()
        self._worker.restore(state.vectors)

    def _new_worker(self) -> Worker:
        servers = self._servers
        graph = WorkerGraph(
            self._model, self._layout, servers.server, servers.strategy, servers.rates, self._settings, workers=1
        )
        progress = servers.progress[0]
        batches = iter(self._make_batches(progress.position, 0, 1))
        return Worker(graph, 0, progress, graph.new_replica(self._dtype), servers.new_outbox(), batches)
