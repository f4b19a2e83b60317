"""The simulated engine: any number of workers in one process under a virtual clock, with real gradients.

Workers take turns at the points where a cluster's would meet: a pull reads the servers when its transfer begins, a push
reaches them when its transfer ends. What happens in between is decided by the cost model or, in tests, by a script. The
same seed gives the same trace of events and the same parameters, bit for bit; no time of the real machine is in either.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from tfnmt.engines.base import Engine, EngineState
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.report import BlockReport
from tfnmt.engines.schedule import Fault, Schedule
from tfnmt.engines.servers import UpdateSequence
from tfnmt.engines.session import Job, Session, counted, start_streams
from tfnmt.engines.timeline import Event
from tfnmt.engines.virtual_clock import VirtualClock
from tfnmt.engines.virtual_time import AUTO, RING, STAR, Costs, CostSettings
from tfnmt.engines.worker import Worker
from tfnmt.settings import setting
from tfnmt.strategies import Strategy, StrategySettings


class SimulatedEngine(Engine):
    """Runs every row."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        workers: int,
        costs: CostSettings | None = None,
        script: Sequence[tuple[int, str]] | None = None,
        faults: Sequence[Fault] = (),
    ):
        """Builds the servers and the workers.

        Args:
          recipe: what is trained.
          workers: how many.
          costs: what things cost; None for the defaults.
          script: see `Schedule`.
          faults: workers that die.
        """
        self._clock = VirtualClock()
        self._servers = UpdateSequence(recipe, workers, clock=self._clock)
        self._schedule = Schedule(
            self._servers,
            self._clock,
            _costs(costs or CostSettings(), recipe, workers),
            workers,
            recipe.dtype,
            script=script,
            faults=faults,
        )

    @property
    def trace(self) -> Sequence[Event]:
        """Every event so far, in order."""
        return self._schedule.trace

    @property
    def crew(self) -> Sequence[Worker]:
        """The workers."""
        return self._schedule.crew

    def blocks(self) -> Iterator[BlockReport]:
        """Trains until `stop` is called or the script ends; one report for each server update."""
        return self._schedule.reports()

    def stop(self) -> None:
        """Lets no worker begin another block."""
        self._schedule.stop()

    def state(self) -> EngineState:
        """Everything that a resume needs."""
        slots = {name: vector for worker in self.crew for name, vector in worker.vectors().items()}
        state = self._servers.state().with_vectors(slots)
        return dataclasses.replace(state, counters={**state.counters, "virtual_seconds": self._clock.now})

    def restore(self, state: EngineState) -> None:
        """Takes up the state of any engine; call it before `blocks`."""
        self._clock.now = state.counters.get("virtual_seconds", 0.0)
        self._servers.restore(state)
        self._servers.restart_clock()
        self._schedule.begin_phase(state.counters["arrived"])


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

    def has_no_servers(self, strategy: Strategy) -> bool:
        """Where the network is a ring, and where the row itself makes one."""
        return strategy.ring or self._costs.network == RING

    def run(self, job: Job) -> int:
        """Trains in this process; the exit code."""
        workers, costs = self.workers, self._costs
        return self.lead(job, lambda recipe, work: work(SimulatedEngine(recipe, workers=workers, costs=costs)))


def _costs(settings: CostSettings, recipe: Recipe, workers: int) -> Costs:
    """The costs of a run; a warm start travels as the row behind it does."""
    layout, row = recipe.layout, recipe.phases[-1].strategy
    is_ring = settings.network == RING or (settings.network == AUTO and row.ring)
    vector_bytes = layout.size * recipe.dtype.size
    seed, servers = recipe.settings.seed, recipe.servers
    return Costs(settings, seed, workers, servers, vector_bytes, is_ring=is_ring, rows_on_servers=recipe.tables)
