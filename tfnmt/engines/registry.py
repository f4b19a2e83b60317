"""The engines by name, and how the command line asks for one."""

import dataclasses
import os
from collections.abc import Mapping
from typing import NamedTuple

from tfnmt import runtime
from tfnmt.cluster.addresses import SERVER, WORKER, Cluster, ClusterSettings, find_cluster, is_distributed
from tfnmt.cluster.launched import launched, threads_of_rank
from tfnmt.cluster.ranks import HALF, Ranks, RankSettings
from tfnmt.engines.base import Engine
from tfnmt.engines.cluster import ClusterEngine
from tfnmt.engines.local import LocalEngine
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.simulated import SimulatedEngine
from tfnmt.engines.virtual_time import RING, STAR, CostSettings
from tfnmt.errors import refuse
from tfnmt.settings import setting
from tfnmt.strategies import AVERAGE, Strategy, StrategySettings

AUTO, LOCAL, CLUSTER, HOROVOD, SIMULATED = "auto", "local", "cluster", "horovod", "simulated"


@dataclasses.dataclass(frozen=True)
class LocalSettings:
    """One worker in this process."""


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


ENGINES = {
    AUTO: RankSettings if launched() else ClusterSettings,
    LOCAL: LocalSettings,
    CLUSTER: ClusterSettings,
    HOROVOD: RankSettings,
    SIMULATED: SimulationSettings,
}
"""Value of --engine -> its settings."""

EngineSettings = LocalSettings | ClusterSettings | RankSettings | SimulationSettings


class Place(NamedTuple):
    """Where a run's strategy runs.

    Attributes:
      engine: LOCAL, CLUSTER, HOROVOD or SIMULATED.
      workers: how many.
      servers: how many.
      streams: parts of a worker's batch that are computed side by side.
      cluster: who is where; None but for CLUSTER.
      ranks: who is there; None but for HOROVOD.
    """

    engine: str
    workers: int
    servers: int
    streams: int = 1
    cluster: Cluster | None = None
    ranks: Ranks | None = None

    def describe(self) -> str:
        """The place in words."""
        if self.engine == LOCAL:
            return "1 worker in this process"
        if self.engine == HOROVOD:
            return f"{self.workers} rank{'s' if self.workers > 1 else ''}"
        kind = {SIMULATED: "virtual ", CLUSTER: "embedded " if self.cluster and self.cluster.is_embedded else ""}
        servers = f"{self.servers} parameter server{'s' if self.servers > 1 else ''}"
        return f"{self.workers} {kind[self.engine]}worker{'s' if self.workers > 1 else ''}, {servers}"


def _is_cluster(engine: str, settings: ClusterSettings, strategy: str, environment: Mapping[str, str]) -> bool:
    """Whether this run has tasks that exchange through TensorFlow's servers; AUTO has none for one worker alone."""
    alone = strategy == "single" and settings.workers == 1 and not is_distributed(settings, environment)
    return engine == CLUSTER or not alone


def find_place(
    engine: str,
    settings: EngineSettings,
    strategy: str,
    threads: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Place:
    """What `--engine` means for this run, for which TensorFlow is then ready.

    Args:
      engine: AUTO is LOCAL for one worker that has nobody to exchange with.
      settings: of the engine.
      strategy: by name.
      threads: cores for each process to compute on; None for all, or a share where workers or ranks have one machine.
      environment: what launchers tell a process.
    """
    if isinstance(settings, ClusterSettings) and _is_cluster(engine, settings, strategy, environment):
        cluster = find_cluster(settings, environment)
        return Place(CLUSTER, len(cluster.workers), len(cluster.servers), _prepare_task(cluster, threads), cluster)
    runtime.prepare(threads or threads_of_rank(environment), in_streams=True)
    streams = runtime.streams()
    if isinstance(settings, SimulationSettings):
        return Place(SIMULATED, settings.workers, settings.parameter_servers, streams)
    if isinstance(settings, RankSettings):
        ranks = Ranks(settings)
        return Place(HOROVOD, ranks.size, 1, streams, ranks=ranks)
    return Place(LOCAL, 1, servers=streams, streams=streams)  # shards are updated side by side, too


def _prepare_task(cluster: Cluster, threads: int | None) -> int:
    """Makes TensorFlow ready for this task of a cluster; the streams of each worker.

    Workers compute what the chief has traced, and only on a machine that they share does it know their cores.
    """
    if not cluster.is_on_one_machine:
        runtime.prepare(threads)
        return 1
    share = threads or max(1, runtime.usable_cores() // len(cluster.workers))
    runtime.prepare(share if cluster.job == WORKER else threads, in_streams=cluster.job != SERVER)
    return runtime.streams_on(share)


def refuse_unsuitable(place: Place, settings: EngineSettings, shared: StrategySettings, strategy: Strategy) -> None:
    """Refuses a row that cannot run there.

    Raises:
      UserError: it names what can.
    """
    faults, name = [], shared.strategy
    if strategy.most_workers is not None and place.workers > strategy.most_workers:
        faults.append(f"--strategy={name}: cannot use {place.workers} workers; choose another --strategy.")
    if place.engine == HOROVOD and not strategy.has_barrier:
        faults.append(f"--strategy={name}: has no barrier, and ranks wait for all; use --engine={CLUSTER}.")
    if place.engine == CLUSTER and strategy.ring:
        faults.append(
            f"--strategy={name}: has no parameter servers; use --engine={HOROVOD}, or --strategy=sync for a cluster."
        )
    if isinstance(settings, SimulationSettings) and settings.network == RING and not strategy.has_barrier:
        faults.append(f"--network={RING}: --strategy={name} has no barrier; use --network={STAR}.")
    if isinstance(settings, RankSettings) and settings.compression == HALF and strategy.averaged_slots:
        faults.append(
            f"--compression={HALF}: squares of gradients would vanish; choose another --local_slots than {AVERAGE}."
        )
    if isinstance(settings, RankSettings) and settings.reduction_pieces > 1:
        pieces = f"--reduction_pieces={settings.reduction_pieces}"
        if not strategy.pushes_gradients_at_once:
            faults.append(f"{pieces}: --strategy={name} does not push at every step; leave it out.")
        if shared.global_batch_tokens:
            faults.append(f"{pieces}: --global_batch_tokens adds up several gradients for a push; leave out either.")
    refuse(faults)


def build_engine(place: Place, settings: EngineSettings, recipe: Recipe) -> Engine:
    """The engine of a run whose layout has as many shards as there are servers."""
    if isinstance(settings, SimulationSettings):
        return SimulatedEngine(recipe, workers=place.workers, costs=settings)
    if place.ranks is not None and isinstance(settings, RankSettings):
        from tfnmt.engines.horovod import HorovodEngine  # which needs a package that not everybody has

        return HorovodEngine(recipe, ranks=place.ranks, settings=settings)
    if place.cluster is not None:
        return ClusterEngine(recipe, cluster=place.cluster)
    return LocalEngine(recipe)
