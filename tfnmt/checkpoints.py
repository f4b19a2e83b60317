"""Checkpoints are commits: written aside, read back and verified, renamed, then pointed to.

    checkpoints/
      update-0000001200/    one whole checkpoint (`tfnmt.checkpoint_files`)
      index.json            the newest, the best and the metric of each

A crash at any instant leaves the checkpoints from before, or those and the new one. Names that start with a dot are
unfinished work: `.writing`, `.deleting`, and `.replaced` for a checkpoint whose successor of the same update was
just about to take its name.
"""

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Collection, Container, Iterable
from pathlib import Path
from typing import Any, Literal

from absl import logging

from tfnmt import checkpoint_files, durable_files
from tfnmt.checkpoint_files import Checkpoint, DamagedError
from tfnmt.errors import UserError
from tfnmt.settings import setting

__all__ = ["Checkpoint", "CheckpointSettings", "CheckpointStore", "SaveError"]

_DIRECTORY = re.compile(r"update-(\d+)|\.update-(\d+)\.replaced")


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """Which checkpoints are kept."""

    keep_last: int = setting(3, "How many of the newest checkpoints to keep.", minimum=1, may_change=True)
    keep_best: int = setting(1, "How many of the checkpoints with the best metric to keep.", minimum=1, may_change=True)


class SaveError(UserError):
    """A checkpoint could not be saved; those from before are intact, and training may go on."""


@dataclasses.dataclass(frozen=True)
class _Index:
    """The content of `index.json`: the newest checkpoint, and the metrics, of which a larger one is better."""

    newest: int | None = None
    metrics: dict[int, float] = dataclasses.field(default_factory=dict)

    def ranking(self) -> list[int]:
        """Updates from the best metric to the worst; of equal ones the earlier is better."""
        return sorted(self.metrics, key=lambda update: (-self.metrics[update], update))

    def with_newest(self, update: int, metric: float | None) -> "_Index":
        """The index behind a new checkpoint of `update`, whose metric is no number (None or NaN) where it has none."""
        metrics = {other: value for other, value in self.metrics.items() if other != update}
        if metric is not None and not math.isnan(metric):
            metrics[update] = float(metric)
        return _Index(update, metrics)

    def to_json(self) -> str:
        return json.dumps(
            {"newest": self.newest, "best": next(iter(self.ranking()), None), "metrics": self.metrics}, indent=1
        )

    @classmethod
    def from_json(cls, text: str) -> "_Index":
        values = json.loads(text)
        return cls(values["newest"], {int(update): metric for update, metric in values["metrics"].items()})


class CheckpointStore:
    """The checkpoints of one run. One process at a time may write; any number may read meanwhile."""

    def __init__(
        self,
        directory: Path | str,
        keep_last: int = CheckpointSettings.keep_last,
        keep_best: int = CheckpointSettings.keep_best,
    ):
        """Opens the store; the directory need not exist before the first `save`."""
        self.directory = Path(directory)
        self.keep_last = keep_last
        self.keep_best = keep_best

    def updates(self) -> list[int]:
        """The updates that have a checkpoint, ascending."""
        return sorted(self._directories())

    @property
    def newest(self) -> int | None:
        """The update that was saved last; None when nothing was."""
        return self._index().newest

    def ranking(self) -> list[int]:
        """The updates that have a metric, from the best to the worst."""
        return self._index().ranking()

    def progress(self) -> list[dict[str, Any]]:
        """The progress of the newest checkpoints, as many as are kept, the oldest first; none of them is verified."""
        index, directories, found = self._index(), self._directories(), []
        for update in self._past(index, directories):
            with contextlib.suppress(OSError, ValueError, KeyError):  # training may save just now
                found.append(json.loads((directories[update] / checkpoint_files.PROGRESS).read_bytes())["progress"])
        return found

    def save(self, checkpoint: Checkpoint, metric: float | None = None) -> None:
        """Commits `checkpoint`, then deletes those that need not be kept.

        Args:
          checkpoint: what to save; one of the same update is replaced.
          metric: how good it is, larger is better (pass a loss negated).

        Raises:
          SaveError: it could not be saved; the earlier checkpoints are intact and nothing unfinished is left.
        """
        aside = self.directory / f".{_name(checkpoint.update)}.writing"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.remove_leftovers()
            self._refuse_without_room(checkpoint)
            checkpoint_files.write(aside, checkpoint)
            self._commit(aside, checkpoint.update, metric)
        except (OSError, DamagedError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise self._save_error(checkpoint, error) from error
        self._delete_surplus()

    def load(self, update: int | Literal["best"] | None = None, *, slots: Container[str] | None = None) -> Checkpoint:
        """Reads a checkpoint, verified against its manifest.

        Args:
          update: None for the newest, "best" for the best; where it is damaged, the next one is taken, with a
            warning. A number for exactly that one.
          slots: the slots of state to read; None reads all.

        Raises:
          UserError: there is no checkpoint that verifies.
        """
        directories = self._directories()
        damages: list[str] = []
        for candidate in self._candidates(update, directories):
            try:
                path = directories.get(candidate, self.directory / _name(candidate))
                checkpoint = checkpoint_files.read(path, slots)
            except DamagedError as error:
                damages.append(str(error))
                continue
            for damage in damages:
                logging.warning("Checkpoint damaged: %s. Using that of update %d instead.", damage, candidate)
            return checkpoint
        if self._directories().keys() != directories.keys():  # Training went on meanwhile and deleted what was read.
            return self.load(update, slots=slots)
        raise UserError(*(f"{damage}." for damage in damages), self._nothing_loaded(update, directories))

    def remove_leftovers(self) -> None:
        """Removes what a save that was killed left behind. Only the process that trains may call it."""
        for path in self.directory.glob(".update-*.replaced"):
            successor = path.with_name(path.name[1:].removesuffix(".replaced"))
            if not successor.exists():
                path.rename(successor)
        for path in self.directory.glob(".update-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _commit(self, aside: Path, update: int, metric: float | None) -> None:
        path = self.directory / _name(update)
        if path.exists():
            path.rename(self.directory / f".{path.name}.replaced")
        aside.rename(path)
        durable_files.sync_directory(self.directory)
        index = self._index().with_newest(update, metric)
        durable_files.replace(self.directory / "index.json", index.to_json().encode())

    def _delete_surplus(self) -> None:
        """Keeps the newest, as many before it as asked for, and the best.

        Checkpoints behind the newest belong to a future that was given up: training went back and took another way.
        """
        index, directories = self._index(), self._directories()
        kept = {*self._past(index, directories), *index.ranking()[: self.keep_best]}
        try:
            for update in directories.keys() - kept:
                directories[update].rename(self.directory / f".{_name(update)}.deleting")
            self.remove_leftovers()
        except OSError as error:
            logging.warning("%s: an old checkpoint could not be deleted (%s).", self.directory, error)

    def _past(self, index: _Index, updates: Iterable[int]) -> list[int]:
        """The newest of the updates and those before it, as many as are kept."""
        past = [update for update in sorted(updates) if index.newest is None or update <= index.newest]
        return past[-self.keep_last :]

    def _candidates(self, update: int | str | None, directories: Iterable[int]) -> list[int]:
        """The updates to try, in order."""
        if isinstance(update, int):
            return [update] if update in directories else []
        index = self._index()
        best = index.ranking() if update == "best" else []
        newest = [] if index.newest is None else [index.newest]
        return list(dict.fromkeys([*best, *newest, *sorted(directories, reverse=True)]))

    def _directories(self) -> dict[int, Path]:
        """Update -> its checkpoint; one with the plain name takes precedence over the one that it replaces."""
        paths = self.directory.iterdir() if self.directory.is_dir() else []
        matches = [(match, path) for path in sorted(paths) if (match := _DIRECTORY.fullmatch(path.name))]
        return {int(match[1] or match[2]): path for match, path in matches}

    def _index(self) -> _Index:
        path = self.directory / "index.json"
        try:
            index = _Index.from_json(path.read_text())
        except FileNotFoundError:
            return _Index()
        except (ValueError, KeyError, TypeError, AttributeError):
            logging.warning("%s is damaged: which checkpoint is best is not known.", path)
            return _Index()
        directories = self._directories()
        present = {update: metric for update, metric in index.metrics.items() if update in directories}
        return dataclasses.replace(index, metrics=present)

    def _refuse_without_room(self, checkpoint: Checkpoint) -> None:
        if shutil.disk_usage(self.directory).free < checkpoint_files.size_bytes(checkpoint):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _save_error(self, checkpoint: Checkpoint, error: Exception) -> SaveError:
        needed_bytes = checkpoint_files.size_bytes(checkpoint)
        free_bytes = f"{shutil.disk_usage(self.directory).free:,}" if self.directory.is_dir() else "unknown"
        return SaveError(
            f"{self.directory}: the checkpoint of update {checkpoint.update} could not be saved: "
            f"{getattr(error, 'strerror', None) or error} ({needed_bytes:,} bytes needed, {free_bytes} bytes free). "
            "The earlier checkpoints are intact. Make room there, or keep fewer with --keep_last and --keep_best."
        )

    def _nothing_loaded(self, update: int | str | None, directories: Collection[int]) -> str:
        existing = ", ".join(map(str, sorted(set(directories) - {update}))) or "none"
        if update in directories:
            return f"{self.directory}: the checkpoint of update {update} is damaged; updates with another: {existing}."
        wanted = f"checkpoint of update {update}" if isinstance(update, int) else "checkpoint that can be used"
        return f"{self.directory}: there is no {wanted}; updates with a checkpoint: {existing}."


def _name(update: int) -> str:
    return f"update-{update:010d}"
