"""The session of a cluster: a chief, workers and parameter servers, in one process or one each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tfnmt import runtime
from tfnmt.cluster.addresses import CHIEF, LOOPBACK, SERVER, WORKER, Cluster, ClusterSettings, find_cluster, free_ports
from tfnmt.cluster.chief import command_of, tasks_of
from tfnmt.cluster.supervisor import Task
from tfnmt.cluster.tasks import serve
from tfnmt.engines.base import Engine
from tfnmt.engines.cluster import ClusterEngine
from tfnmt.engines.local import LocalEngine
from tfnmt.engines.pace import payloads_at_once
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.session import CLUSTER, HOROVOD, Job, Session, counted
from tfnmt.errors import UserError
from tfnmt.strategies import Strategy, StrategySettings


class ClusterSession(Session):
    """Tasks that exchange through TensorFlow's servers, as the chief or another of them."""

    has_peers = True

    def __init__(self, settings: ClusterSettings, threads: int | None, environment: Mapping[str, str]):
        self._cluster = cluster = find_cluster(settings, environment)
        self.workers, self.servers = len(cluster.workers), len(cluster.servers)
        self.streams = _prepare_task(cluster, threads)

    @classmethod
    def task_maker(cls, settings: ClusterSettings) -> Callable[[Path, Sequence[str]], Sequence[Task]]:
        """The chief leads; each call takes other ports of the loopback."""
        if settings.worker_hosts:
            raise UserError(
                "--worker_hosts: tfnmt-launch starts processes of this machine only; --print_commands prints the "
                "command of each host."
            )

        def make(logs: Path, command: Sequence[str]) -> Sequence[Task]:
            ports = free_ports(1 + settings.workers + settings.parameter_servers)
            chief, *others = (f"{LOOPBACK}:{port}" for port in ports)
            cluster = Cluster(chief, tuple(others[: settings.workers]), tuple(others[settings.workers :]))

            def task(job: str, number: int) -> Task:
                words = (*command, f"--engine={CLUSTER}", *command_of(cluster, job, number).split()[1:])
                log = None if job == CHIEF else logs / f"{job}-{number}.log"
                return Task(job, number, words, log, leads=job == CHIEF, is_replaceable=job == WORKER)

            return [*(task(job, number) for job, number, _ in cluster.tasks()), task(CHIEF, 0)]

        return make

    @classmethod
    def commands(cls, settings: ClusterSettings, given_but: Callable[..., str]) -> Iterator[str]:
        """Each stands under the name of its host."""
        if not settings.worker_hosts:
            raise UserError("--print_commands: needs --chief_hosts, --worker_hosts and --ps_hosts.")
        cluster = Cluster(settings.chief_hosts[0], settings.worker_hosts, settings.ps_hosts)
        flags = given_but("chief_hosts", "worker_hosts", "ps_hosts", "job_name", "task_index")
        for job, number, address in [*cluster.tasks(), (CHIEF, 0, cluster.chief)]:
            yield f"# {job} {number}, on {address.rpartition(':')[0]}"
            yield f"{command_of(cluster, job, number)} {flags}\n"

    def describe(self) -> str:
        """The processes in words."""
        worker = "embedded worker" if self._cluster.is_embedded else "worker"
        return f"{counted(self.workers, worker)}, {counted(self.servers, 'parameter server')}"

    def faults(self, shared: StrategySettings, strategy: Strategy) -> list[str]:
        """Rows that have no parameter servers."""
        ring = (
            f"--strategy={shared.strategy}: has no parameter servers; use --engine={HOROVOD}, or --strategy=sync for a "
            "cluster."
        )
        return super().faults(shared, strategy) + [ring] * strategy.ring

    def payloads(self, strategy: Strategy) -> int:
        """How many are on their way at once: without a barrier a worker computes while its last push waits."""
        return self.workers * payloads_at_once(self.workers, strategy.slack)

    def run(self, job: Job) -> int:
        """The chief's part, or that of a task which serves it; the exit code."""
        cluster = self._cluster
        if cluster.job != CHIEF:
            job.refuse_unsuitable()
            return serve(cluster)
        if job.dry_run and not cluster.is_embedded:  # does not wait for the tasks: one worker's part is built here
            return self.lead(job, lambda recipe, work: work(LocalEngine(recipe)))
        return self.lead(job, self._drive)

    def _drive(self, recipe: Recipe, work: Callable[[Engine], int]) -> int:
        with tasks_of(self._cluster) as end:
            end.code = work(ClusterEngine(recipe, cluster=self._cluster))
        return end.code


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
