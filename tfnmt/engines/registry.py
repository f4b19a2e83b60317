"""The engines by name, and how the command line asks for one."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tfnmt.cluster.addresses import Cluster, ClusterSettings, find_cluster, is_distributed
from tfnmt.engines.base import Engine
from tfnmt.engines.cluster import ClusterEngine
from tfnmt.engines.local import LocalEngine, MakeBatches
from tfnmt.engines.simulated import SimulatedEngine
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.layout import Layout
from tfnmt.models.base import Model
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.settings import setting
from tfnmt.strategies import Phase, StrategySettings

AUTO, LOCAL, CLUSTER, SIMULATED = "auto", "local", "cluster", "simulated"


@dataclasses.dataclass(frozen=True)
class LocalSettings:
    """One worker in this process."""


@dataclasses.dataclass(frozen=True)
class SimulationSettings(CostSettings):
    """Virtual workers in one process, under a virtual clock: real gradients, pretended machines."""

    workers: int = setting(2, "Virtual workers.", minimum=1)
    parameter_servers: int = setting(1, "Virtual parameter servers.", minimum=1)


ENGINES = {AUTO: ClusterSettings, LOCAL: LocalSettings, CLUSTER: ClusterSettings, SIMULATED: SimulationSettings}
"""Value of --engine -> its settings."""

EngineSettings = LocalSettings | ClusterSettings | SimulationSettings


class Place(NamedTuple):
    """Where a run's strategy runs.

    Attributes:
      engine: LOCAL, CLUSTER or SIMULATED.
      workers: how many.
      servers: how many.
      cluster: who is where; None but for CLUSTER.
    """

    engine: str
    workers: int
    servers: int
    cluster: Cluster | None = None

    def describe(self) -> str:
        """The place in words."""
        if self.engine == LOCAL:
            return "1 worker in this process"
        kind = {SIMULATED: "virtual ", CLUSTER: "embedded " if self.cluster and self.cluster.is_embedded else ""}
        servers = f"{self.servers} parameter server{'s' if self.servers > 1 else ''}"
        return f"{self.workers} {kind[self.engine]}worker{'s' if self.workers > 1 else ''}, {servers}"


def find_place(
    engine: str, settings: EngineSettings, strategy: str, environment: Mapping[str, str] = os.environ
) -> Place:
    """What `--engine` means for this run; AUTO is LOCAL for one worker that has nobody to exchange with."""
    if isinstance(settings, SimulationSettings):
        return Place(SIMULATED, settings.workers, settings.parameter_servers)
    if isinstance(settings, LocalSettings):
        return Place(LOCAL, 1, 1)
    alone = strategy == "single" and not is_distributed(settings, environment)
    if engine == AUTO and alone:
        return Place(LOCAL, 1, 1)
    cluster = find_cluster(settings, environment)
    return Place(CLUSTER, len(cluster.workers), len(cluster.servers), cluster)


def build_engine(
    place: Place,
    engine_settings: EngineSettings,
    model: Model,
    layout: Layout,
    phases: Sequence[Phase],
    schedule: ScheduleSettings,
    settings: StrategySettings,
    make_batches: MakeBatches,
) -> Engine:
    """The engine of a run whose layout has as many shards as there are servers."""
    arguments = (model, layout, phases, schedule, settings, make_batches)
    if isinstance(engine_settings, SimulationSettings):
        return SimulatedEngine(*arguments, workers=place.workers, costs=engine_settings)
    if place.cluster is not None:
        return ClusterEngine(*arguments, cluster=place.cluster)
    return LocalEngine(*arguments)
