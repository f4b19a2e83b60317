"""The engines by name: a new one is a class of session, which joins `ENGINES` with its settings."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tfnmt.cluster.addresses import ClusterSettings, is_distributed
from tfnmt.cluster.launched import launched
from tfnmt.cluster.ranks import RankSettings
from tfnmt.engines.cluster_session import ClusterSession
from tfnmt.engines.local import LocalSession, LocalSettings
from tfnmt.engines.rank_session import RankSession
from tfnmt.engines.session import CLUSTER, HOROVOD, Session
from tfnmt.engines.simulated import SimulatedSession, SimulationSettings

AUTO, LOCAL = "auto", "local"


class _Engine(NamedTuple):
    settings: type
    session: Any  # a subclass of Session


_CLUSTER, _RANKS = _Engine(ClusterSettings, ClusterSession), _Engine(RankSettings, RankSession)

ENGINES = {
    AUTO: _RANKS if launched() else _CLUSTER,
    LOCAL: _Engine(LocalSettings, LocalSession),
    CLUSTER: _CLUSTER,
    HOROVOD: _RANKS,
    "simulated": _Engine(SimulationSettings, SimulatedSession),
}
"""Value of --engine -> its settings and its session."""

SETTINGS = {name: engine.settings for name, engine in ENGINES.items()}
"""Value of --engine -> its settings."""


def open_session(
    engine: str, settings: Any, strategy: str, threads: int | None, environment: Mapping[str, str]
) -> Session:
    """The session that `--engine` means; AUTO is LOCAL for one worker that has nobody to exchange with."""
    if engine == AUTO and isinstance(settings, ClusterSettings) and strategy == "single" and settings.workers == 1:
        engine = CLUSTER if is_distributed(settings, environment) else LOCAL
    return ENGINES[engine].session(settings, threads, environment)
