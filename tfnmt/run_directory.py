"""A run directory holds all of a run, and is all that the other commands need.

settings.json             the effective settings by class, and the versions that they were made with
flags.txt                 the same settings as a flagfile
vocabulary.model          the vocabulary, or vocabulary.source.model and vocabulary.target.model
checkpoints/              `tfnmt.checkpoints`
pairs/                    `tfnmt.data.spool`
metrics.jsonl             one JSON record a line
trackers.json             `tfnmt.training.trackers`; wandb/ and mlruns/ are theirs
events/, logs/            TensorBoard's event files; text
lock                      names the process that trains here
"""

import contextlib
import fcntl
import json
import math
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from tfnmt import durable_files, recorded_settings
from tfnmt.errors import UserError, refuse
from tfnmt.recorded_settings import FLAGS, SETTINGS, Settings

LOCK = "lock"
JOINT, SOURCE, TARGET = "vocabulary.model", "vocabulary.source.model", "vocabulary.target.model"


class RunDirectory:
    """The directory of one run; its attributes are the paths of what is in it."""

    def __init__(self, path: Path | str):
        """Opens an existing run directory.

        Raises:
          UserError: it is missing, is not a run directory, is damaged or was made by a newer version.
        """
        self.path = Path(path)
        self.checkpoints, self.events, self.logs = (self.path / name for name in ("checkpoints", "events", "logs"))
        self.metrics = self.path / "metrics.jsonl"
        self._recorded = recorded_settings.read(self.path)

    @classmethod
    @contextlib.contextmanager
    def locked(cls, path: Path | str, *settings: Any, free: Collection[type] = ()) -> Iterator["RunDirectory"]:
        """The run directory of `create_or_check`, with the lock held; nothing is recorded where another process trains.

        Raises:
          UserError: as `create_or_check`, and where another process holds the lock.
        """
        _check(Path(path), settings, free)
        with lock(path):
            yield cls.create_or_check(path, *settings, free=free)

    @classmethod
    def create_or_check(cls, path: Path | str, *settings: Any, free: Collection[type] = ()) -> "RunDirectory":
        """Makes a new run directory for these settings, or opens the one that was made with them.

        Settings that may change (`setting(may_change=True)`, or of the classes `free`) are recorded anew.

        Raises:
          UserError: the directory was made with other settings, each of which is named, or holds something else.
        """
        _check(Path(path), settings, free)
        recorded_settings.write(Path(path), settings)
        return cls(path)

    def settings(self, cls: type[Settings]) -> Settings:
        """The settings of class `cls` that the run was made with.

        Raises:
          UserError: the run has no such settings, or one that this version does not know.
        """
        return recorded_settings.instance(self.path, self._recorded, cls)

    def adopt_vocabularies(self, source: Path | str, target: Path | str) -> None:
        """Copies the vocabularies into the directory; one file stands for both when they are the same file.

        Raises:
          UserError: the run was made with other vocabularies.
        """
        given = {SOURCE: _content(Path(source)), TARGET: _content(Path(target))}
        if given[SOURCE] == given[TARGET]:
            given = {JOINT: given[SOURCE]}
        present = {name: _content(self.path / name) for name in (JOINT, SOURCE, TARGET) if (self.path / name).exists()}
        refuse(
            [
                f"{self.path / name} is another vocabulary than {source} and {target}, and a model is of no use with "
                "any but its own. Give the old vocabularies or choose another --run_directory."
                for name, content in present.items()
                if given.get(name) != content
            ]
        )
        for name in given.keys() - present.keys():
            durable_files.replace(self.path / name, given[name])

    @property
    def source_vocabulary(self) -> Path:
        """The file of the source vocabulary."""
        return self._vocabulary(SOURCE)

    @property
    def target_vocabulary(self) -> Path:
        """The file of the target vocabulary; the source's where they are joint."""
        return self._vocabulary(TARGET)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Adds one line to the metrics; NumPy's numbers become Python's, and those that JSON lacks become null."""
        line = json.dumps(_plain(record)) + "\n"
        with open(self.metrics, "ab", buffering=0) as file:
            file.write(line.encode())

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records so far, without lines that a crash cut short."""
        lines = self.metrics.read_bytes().splitlines() if self.metrics.exists() else []
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                records.append(json.loads(line))
            except ValueError:
                logging.warning("%s:%d was cut short and is left out.", self.metrics, number)
        return records

    def rewind_metrics(self, update: int) -> None:
        """Drops the records of updates behind `update`, which are about to be made again, and lines cut short."""
        if self.metrics.exists():
            records = [record for record in self.read_metrics() if record.get("update", 0) <= update]
            durable_files.replace(self.metrics, "".join(json.dumps(record) + "\n" for record in records).encode())

    def _vocabulary(self, name: str) -> Path:
        for path in (self.path / name, self.path / JOINT):
            if path.exists():
                return path
        raise UserError(f"{self.path / name} is missing, and so is {JOINT}; training puts them there at its start.")


@contextlib.contextmanager
def lock(path: Path | str, flag: str = "run_directory", work: str = "training") -> Iterator[None]:
    """Keeps other processes from the same work in the directory; the lock ends with this process, however it dies.

    Raises:
      UserError: another process holds it, which the message names.
      OSError: it cannot be written; the error names it.
    """
    with open(Path(path, LOCK), "a+b", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UserError(
                f"--{flag}={path}: {file.read().decode().strip() or 'another process'} is {work} here. "
                "Wait for it, end it, or choose another directory."
            ) from error
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as error:
            error.filename = file.name
            raise
        yield


def _plain(value: Any) -> Any:
    """The nearest thing to `value` that any reader of JSON understands."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(path: Path, settings: Sequence[Any], free: Collection[type]) -> None:
    """Sees whether a run with these settings may be there, and makes a directory that is missing."""
    if (path / SETTINGS).exists():
        refuse(recorded_settings.differences(path, settings, free))
    else:
        _make(path)


def _make(path: Path) -> None:
    """Creates the directory, or takes one that is empty or whose flags are recorded though its settings are not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        names = sorted(entry.name for entry in path.iterdir() if entry.name != LOCK and entry.name[0] != ".")
    except OSError as error:
        raise UserError(f"--run_directory={path}: {error.strerror}. Choose another.") from error
    if names and FLAGS not in names:
        raise UserError(
            f"--run_directory={path} is not a run directory, because it has no {SETTINGS}, and it is not empty: it "
            f"holds {', '.join(names[:5])}. Choose another."
        )


def _content(vocabulary: Path) -> bytes:
    try:
        return vocabulary.read_bytes()
    except OSError as error:
        raise UserError(f"{vocabulary}: {error.strerror}; tfnmt-vocabulary makes vocabularies.") from error


def new_directory(path: str) -> Path:
    """Makes the directory that --output names.

    Raises:
      UserError: it cannot be made, or holds something.
    """
    output = Path(path)
    try:
        output.mkdir(parents=True, exist_ok=True)
        occupied = any(output.iterdir())
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}. Choose another.") from error
    if occupied:
        raise UserError(f"--output={output} is not empty. Choose another, or remove it.")
    return output
