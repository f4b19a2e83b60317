"""Averages checkpoints of a run into a run directory of its own, which the other commands read like any other.

tfnmt-average --run_directory=runs/first --last=5 --output=runs/first-average
"""

import dataclasses

from absl import logging

from tfnmt import durable_files
from tfnmt.checkpoints import CheckpointStore
from tfnmt.commands import application
from tfnmt.decoding.averaging import average
from tfnmt.errors import UserError
from tfnmt.run_directory import FLAGS, SETTINGS, RunDirectory, new_directory
from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class AverageSettings:
    """Which checkpoints, and where their mean goes."""

    run_directory: str = setting("", "Run directory whose checkpoints are averaged.", required=True, is_path=True)
    output: str = setting("", "New directory for the average.", required=True, is_path=True)
    last: int = setting(0, "Average so many of the newest checkpoints.", minimum=0)
    best: int = setting(0, "Average so many of those with the best validation metric.", minimum=0)
    checkpoint: tuple[str, ...] = setting((), "Updates of the checkpoints to average, with commas.")

    def faults(self) -> list[str]:
        """More than one choice, or none, and updates that are no numbers."""
        odd = [name for name in self.checkpoint if not name.isdecimal()]
        faults = [f"--checkpoint={name}: must be the number of an update." for name in odd]
        if sum(map(bool, (self.last, self.best, self.checkpoint))) != 1:
            faults.append("Give one of --last, --best and --checkpoint: it says which checkpoints are averaged.")
        return faults


def main() -> None:
    """The console script."""
    application.run(_main, AverageSettings)


def _main(settings: AverageSettings) -> None:
    run = RunDirectory(settings.run_directory)
    store = CheckpointStore(run.checkpoints)
    updates = _choose(store, settings)
    mean = average(store.load(update, slots=()) for update in updates)
    output = new_directory(settings.output)
    for path in (run.path / SETTINGS, run.path / FLAGS, run.source_vocabulary, run.target_vocabulary):
        durable_files.replace(output / path.name, path.read_bytes())
    CheckpointStore(output / "checkpoints").save(mean)
    logging.info("The mean of updates %s is in %s.", ", ".join(map(str, updates)), output)


def _choose(store: CheckpointStore, settings: AverageSettings) -> list[int]:
    """The updates that are averaged."""
    if settings.checkpoint:
        return sorted({int(name) for name in settings.checkpoint})
    candidates = store.updates()[::-1] if settings.last else store.ranking()
    flag, wanted = ("last", settings.last) if settings.last else ("best", settings.best)
    if len(candidates) < wanted:
        what = "checkpoints" if settings.last else "checkpoints with a validation metric"
        raise UserError(
            f"--{flag}={wanted}: {store.directory} has {len(candidates)} {what}. Training keeps more of them with "
            f"--keep_{flag}={wanted}."
        )
    return sorted(candidates[:wanted])


if __name__ == "__main__":
    main()
