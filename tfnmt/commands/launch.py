"""Trains with several processes of this machine, which it starts and looks after.

tfnmt-launch --strategy=bmuf --workers=2 --parameter_servers=1 --flagfile=configs/transformer_small.flags \
  --data=data/software.en-de --run_directory=runs/first       a chief, workers and parameter servers
tfnmt-launch --engine=horovod --strategy=ring_allreduce --workers=2 ...       ranks on Horovod
"""

import dataclasses
import shlex
import sys
import tempfile
from pathlib import Path

from tfnmt.cluster.supervisor import SupervisionSettings, Supervisor
from tfnmt.commands import application, train
from tfnmt.commands.presets import completed
from tfnmt.commands.train_settings import REQUESTS, Settings
from tfnmt.engines import registry
from tfnmt.errors import LostError, UserError
from tfnmt.run_directory import RunDirectory
from tfnmt.settings import flagfile_text


def main() -> None:
    """The console script."""
    application.run(_main, SupervisionSettings, *REQUESTS)


def _main(supervision: SupervisionSettings, *all_settings) -> int:
    settings = Settings(*all_settings)
    session = registry.ENGINES[settings.run.engine].session
    if not session.has_peers:
        raise UserError(f"--engine={settings.run.engine}: is one process; use tfnmt-train.")
    if settings.data.train_pipe == "-":
        raise UserError("--train_pipe=-: the tasks have no standard input; make a named pipe with mkfifo, and name it.")
    if supervision.print_commands:
        print(*session.commands(settings.engine, _given_but), sep="\n")
        return 0
    settings = completed(settings, application.given)
    make_tasks = session.task_maker(settings.engine)
    with tempfile.TemporaryDirectory() as leaves_nothing:
        logs = Path(leaves_nothing)
        if settings.run.dry_run:
            flagfile = _write_flagfile(logs, settings)
        else:  # The lock is free again before the process that leads takes it.
            with RunDirectory.locked(settings.run.run_directory, *settings, free=registry.SETTINGS.values()) as run:
                logs = run.logs
                flagfile = _write_flagfile(logs, settings)
        command = [*_tfnmt_train(), f"--flagfile={flagfile}"]
        return Supervisor(lambda: make_tasks(logs, command), supervision, (LostError.exit_code,)).run()


def _write_flagfile(logs: Path, settings: Settings) -> Path:
    """Writes the flagfile that all tasks read, those too that are started again later."""
    flagfile = logs / "launch.flags"
    logs.mkdir(parents=True, exist_ok=True)
    flagfile.write_text(flagfile_text(*settings))
    return flagfile


def _tfnmt_train() -> list[str]:
    """The script beside this one, or the module where this one was started as a module."""
    script = Path(sys.argv[0]).with_name("tfnmt-train")
    return [str(script)] if script.exists() else [sys.executable, "-m", train.__name__]


def _given_but(*names: str) -> str:
    """The command line without these flags and our own, be they `--name=value` or `--name value`."""
    dropped = [*names, *(field.name for field in dataclasses.fields(SupervisionSettings))]
    kept, left = [], iter(sys.argv[1:])
    for word in left:
        name, equals, _ = word.lstrip("-").partition("=")
        if name not in dropped:
            kept.append(word)
        elif not equals and name != "print_commands":
            next(left)  # its value
    return shlex.join(kept)


if __name__ == "__main__":
    main()
