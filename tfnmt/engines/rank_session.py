"""The session of ranks on Horovod, whoever of them comes and goes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from graphs.encodings import DENSE
from tfnmt.cluster.elasticity import is_elastic
from tfnmt.cluster.rank_launch import rank_tasks
from tfnmt.cluster.ranks import Ranks, RankSettings, RegroupError
from tfnmt.cluster.supervisor import Task
from tfnmt.engines.base import EngineState
from tfnmt.engines.horovod import HorovodEngine
from tfnmt.engines.session import CLUSTER, HOROVOD, Job, Session, counted, start_streams
from tfnmt.engines.vocabulary_shards import VocabularyShard
from tfnmt.layout import Layout
from tfnmt.strategies import Strategy, StrategySettings


class RankSession(Session):
    """Ranks that reduce among themselves, as one of them."""

    has_peers = True
    servers = 1

    def __init__(self, settings: RankSettings, threads: int | None, environment: Mapping[str, str]):
        # Parts of a batch side by side would exchange side by side, and in as many parts on every rank.
        in_streams = not settings.vocabulary_parallel
        self._settings, self.streams = settings, start_streams(threads, environment, in_streams=in_streams)
        self._ranks = Ranks(settings)
        self.workers = self._ranks.size

    @classmethod
    def task_maker(cls, settings: RankSettings) -> Callable[[Path, Sequence[str]], Sequence[Task]]:
        """Rank 0 leads."""
        return lambda logs, command: rank_tasks([*command, f"--engine={HOROVOD}"], settings.workers, logs)

    @classmethod
    def commands(cls, settings: RankSettings, given_but: Callable[..., str]) -> Iterator[str]:
        """One, of horovodrun, which starts them all."""
        yield f"horovodrun --gloo -np {settings.workers} -H HOST:RANKS,... tfnmt-train {given_but('workers')}"

    def describe(self) -> str:
        """The processes in words."""
        return counted(self.workers, "rank")

    def faults(self, shared: StrategySettings, strategy: Strategy) -> list[str]:
        """Rows without a barrier, and ways to travel that do not suit a payload."""
        faults, row = super().faults(shared, strategy), f"--strategy={shared.strategy}"
        pieces = self._settings.reduction_pieces
        faults += self._parallel_faults(shared, strategy) if self._settings.vocabulary_parallel else []
        if not strategy.has_barrier:
            faults.append(f"{row}: has no barrier, and ranks wait for all; use --engine={CLUSTER}.")
        if pieces > 1 and not strategy.pushes_gradients_at_once:
            faults.append(f"--reduction_pieces={pieces}: {row} does not push at every step; leave it out.")
        faults += [
            f"--{name}={encoding}: encodes a whole payload, which --reduction_pieces={pieces} takes apart; leave out "
            "either."
            for name, encoding in vars(shared).items()
            if pieces > 1 and name.endswith("encoding") and encoding not in ("none", "same")
        ]
        if pieces > 1 and shared.global_batch_tokens:
            faults.append(
                f"--reduction_pieces={pieces}: --global_batch_tokens adds up several gradients for a push; leave out "
                "either."
            )
        return faults

    def _parallel_faults(self, shared: StrategySettings, strategy: Strategy) -> list[str]:
        """What does not go with rows of tables that one rank alone has."""
        row, flag, faults = f"--strategy={shared.strategy}", "--vocabulary_parallel", []
        together = self._settings.grid(self.workers).together
        if self.workers % together:
            divisors = [str(number) for number in range(1, self.workers + 1) if self.workers % number == 0]
            faults.append(
                f"--model_parallel={together}: {counted(self.workers, 'rank')} cannot be parted into groups of so "
                f"many; choose {', '.join(divisors)}, or 0 for all."
            )
        if not strategy.pushes_gradients_at_once:
            faults.append(
                f"{flag}: {row} takes steps between its meetings, and ranks that share tables meet in every step; "
                "leave it out."
            )
        if strategy.encoding is not DENSE:
            faults.append(
                f"{flag}: gradients are summed before their mean is known; leave out --encoding={shared.encoding}."
            )
        if shared.global_batch_tokens:
            faults.append(
                f"{flag}: ranks would read different numbers of batches, and they share tables in each; leave out "
                "--global_batch_tokens."
            )
        if is_elastic():
            faults.append(
                f"{flag}: a rank that is lost takes its rows of the tables with it; start ranks without a host "
                "discovery script, or leave it out."
            )
        return faults

    def elements(self, layout: Layout) -> int:
        """A rank's own part, where tables are sharded."""
        return VocabularyShard(layout, 0, self._settings.grid(self.workers).together).layout.size

    def has_no_servers(self, strategy: Strategy) -> bool:
        """Every rank makes all updates."""
        return True

    def payloads(self, strategy: Strategy) -> int:
        """Every rank has a copy of the server parameters, and its own payload."""
        return 1

    def run(self, job: Job) -> int:
        """One rank's part, whoever comes and goes; the exit code."""
        with self._ranks as ranks:
            live, have_changed = None, False
            while True:
                try:
                    if have_changed:
                        ranks.regroup()
                        self.workers = ranks.size
                    return self._run(job, live)
                except RegroupError as change:
                    live, have_changed = change.state or live, True

    def _run(self, job: Job, live: EngineState | None) -> int:
        """One rank's part as long as the ranks stay the same; the exit code.

        Args:
          job: the run.
          live: what this rank has come to, with others than are there now; None for a rank that begins.

        Raises:
          RegroupError: they have changed.
        """
        ranks = self._ranks
        job.speak(ranks.rank)
        with ExitStack() as held:
            with ranks.agreeing():
                recipe = job.recipe()
                lead = None if ranks.rank else held.enter_context(job.leading())
            if job.dry_run and not lead:
                return ranks.follow(lambda: int(ranks.command().code))
            engine = HorovodEngine(recipe, ranks=ranks, settings=self._settings, newest_saved=job.newest_saved)
            try:
                if lead:
                    return ranks.lead(lambda: lead(lambda work: work(engine), live))
                job.follow(ranks.rank)
                if live:
                    engine.restore(live)
                return ranks.follow(engine.follow)
            except RegroupError as change:
                change.state = engine.live()
                raise
