"""Trains with several processes of this machine, which it starts and looks after.

tfnmt-launch --strategy=bmuf --workers=2 --parameter_servers=1 --flagfile=configs/transformer_small.flags \
  --data=data/software.en-de --run_directory=runs/first       a chief, workers and parameter servers
tfnmt-launch --engine=horovod --strategy=ring_allreduce --workers=2 ...       ranks on Horovod
"""

import dataclasses
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tfnmt.cluster.addresses import CHIEF, LOOPBACK, WORKER, Cluster, ClusterSettings, free_ports
from tfnmt.cluster.chief import command_of
from tfnmt.cluster.rank_launch import rank_tasks
from tfnmt.cluster.ranks import RankSettings
from tfnmt.cluster.supervisor import SupervisionSettings, Supervisor, Task
from tfnmt.commands import application, train
from tfnmt.commands.application import LOST
from tfnmt.commands.train_settings import REQUESTS, Settings
from tfnmt.engines.registry import ENGINES
from tfnmt.errors import UserError
from tfnmt.run_directory import RunDirectory
from tfnmt.settings import flagfile_text


def main() -> None:
    """The console script."""
    application.run(_main, SupervisionSettings, *REQUESTS)


def _main(supervision: SupervisionSettings, *all_settings) -> int:
    settings = Settings(*all_settings)
    engine = settings.engine
    if not isinstance(engine, ClusterSettings | RankSettings):
        raise UserError(f"--engine={settings.run.engine}: is one process; use tfnmt-train.")
    if supervision.print_commands:
        _print_commands(engine)
        return 0
    if isinstance(engine, ClusterSettings) and engine.worker_hosts:
        raise UserError(
            "--worker_hosts: tfnmt-launch starts processes of this machine only; --print_commands prints the command "
            "of each host."
        )
    with tempfile.TemporaryDirectory() as leaves_nothing:
        logs = Path(leaves_nothing)
        if settings.run.dry_run:
            flagfile = _write_flagfile(logs, settings)
        else:  # The lock is free again before the process that leads takes it.
            with RunDirectory.locked(settings.run.run_directory, *settings, free=ENGINES.values()) as run:
                logs = run.logs
                flagfile = _write_flagfile(logs, settings)
        command = [*_tfnmt_train(), f"--flagfile={flagfile}"]
        return Supervisor(lambda: _tasks(engine, logs, command), supervision, (LOST,)).run()


def _write_flagfile(logs: Path, settings: Settings) -> Path:
    """What all tasks read, those too that are started again later."""
    flagfile = logs / "launch.flags"
    logs.mkdir(parents=True, exist_ok=True)
    flagfile.write_text(flagfile_text(*settings))
    return flagfile


def _tfnmt_train() -> list[str]:
    """The script beside this one, or the module where this one was started as a module."""
    script = Path(sys.argv[0]).with_name("tfnmt-train")
    return [str(script)] if script.exists() else [sys.executable, "-m", train.__name__]


def _tasks(engine: ClusterSettings | RankSettings, logs: Path, command: Sequence[str]) -> Sequence[Task]:
    """All tasks on free ports of the loopback, the one that leads last."""
    if isinstance(engine, RankSettings):
        return rank_tasks([*command, "--engine=horovod"], engine.workers, logs)
    ports = free_ports(1 + engine.workers + engine.parameter_servers)
    chief, *others = (f"{LOOPBACK}:{port}" for port in ports)
    cluster = Cluster(chief, tuple(others[: engine.workers]), tuple(others[engine.workers :]))

    def task(job: str, number: int) -> Task:
        words = (*command, "--engine=cluster", *command_of(cluster, job, number).split()[1:])
        log = None if job == CHIEF else logs / f"{job}-{number}.log"
        return Task(job, number, words, log, leads=job == CHIEF, is_replaceable=job == WORKER)

    return [*(task(job, number) for job, number, _ in cluster.tasks()), task(CHIEF, 0)]


def _print_commands(engine: ClusterSettings | RankSettings) -> None:
    """The command of every task, under the name of its host."""
    ours = [field.name for field in dataclasses.fields(SupervisionSettings)]
    if isinstance(engine, RankSettings):
        words = _without(sys.argv[1:], [*ours, "workers"])
        print(f"horovodrun --gloo -np {engine.workers} -H HOST:RANKS,... tfnmt-train {shlex.join(words)}")
        return
    if not engine.worker_hosts:
        raise UserError("--print_commands: needs --chief_hosts, --worker_hosts and --ps_hosts.")
    cluster = Cluster(engine.chief_hosts[0], engine.worker_hosts, engine.ps_hosts)
    told = ["chief_hosts", "worker_hosts", "ps_hosts", "job_name", "task_index"]
    common = _without(sys.argv[1:], told + ours)
    for job, number, address in [*cluster.tasks(), (CHIEF, 0, cluster.chief)]:
        print(f"# {job} {number}, on {address.rpartition(':')[0]}")
        print(f"{command_of(cluster, job, number)} {shlex.join(common)}\n")


def _without(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words of a command line but for these flags, be they `--name=value` or `--name value`."""
    kept, left = [], iter(words)
    for word in left:
        name, equals, _ = word.lstrip("-").partition("=")
        if name not in names:
            kept.append(word)
        elif not equals and name != "print_commands":
            next(left)  # its value
    return kept


if __name__ == "__main__":
    main()
