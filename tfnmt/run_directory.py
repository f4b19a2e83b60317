"""A run directory holds all of a run, and is all that the other commands need.

settings.json             the effective settings by class, and the versions that they were made with
flags.txt                 the same settings as a flagfile
vocabulary.model          the vocabulary, or vocabulary.source.model and vocabulary.target.model
checkpoints/              `tfnmt.checkpoints`
metrics.jsonl             one JSON record a line
events/, logs/            TensorBoard's event files; text
lock                      names the process that trains here
"""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import inspect
import json
import math
import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import logging

import tfnmt
from tfnmt import durable_files
from tfnmt.errors import UserError, refuse
from tfnmt.settings import flagfile_text, value_text

FORMAT = 1
SETTINGS, FLAGS = "settings.json", "flags.txt"
JOINT, SOURCE, TARGET = "vocabulary.model", "vocabulary.source.model", "vocabulary.target.model"

Settings = TypeVar("Settings")


class RunDirectory:
    """The directory of one run.

    Attributes:
      path: the directory.
      checkpoints: the directory for `CheckpointStore`.
      events: the directory for TensorBoard.
      logs: the directory for log files.
      metrics: the file of metrics.
    """

    def __init__(self, path: Path | str):
        """Opens an existing run directory.

        Raises:
          UserError: it is missing, is not a run directory, is damaged or was made by a newer version.
        """
        self.path = Path(path)
        self.checkpoints, self.events, self.logs = (self.path / name for name in ("checkpoints", "events", "logs"))
        self.metrics = self.path / "metrics.jsonl"
        self._recorded = _read_settings(self.path)

    @classmethod
    def create_or_check(cls, path: Path | str, *settings: Any) -> "RunDirectory":
        """Makes a new run directory for these settings, or opens the one that was made with them.

        Settings that may change (`setting(may_change=True)`) are recorded anew.

        Raises:
          UserError: the directory was made with other settings, each of which is named, or holds something else.
        """
        path = Path(path)
        if (path / SETTINGS).exists():
            refuse(_differences(path, settings))
        else:
            _make(path)
        durable_files.replace(path / FLAGS, flagfile_text(*settings).encode())
        durable_files.replace(path / SETTINGS, json.dumps(_record(settings), indent=1).encode())
        return cls(path)

    def settings(self, cls: type[Settings]) -> Settings:
        """The settings of class `cls` that the run was made with.

        Raises:
          UserError: the run has no such settings, or one that this version does not know.
        """
        recorded = self._recorded["settings"].get(cls.__name__)
        if recorded is None:
            raise UserError(f"{self.path / SETTINGS}: has no {cls.__name__}. {self._made_by()}")
        unknown = recorded.keys() - inspect.signature(cls).parameters.keys()
        refuse([f"{self.path / SETTINGS}: {name} is not a setting. {self._made_by()}" for name in sorted(unknown)])
        return cls(**{name: _from_json(value) for name, value in recorded.items()})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from training here; the lock ends with this process, however it dies.

        Raises:
          UserError: another process holds it, which the message names.
        """
        with open(self.path / "lock", "a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise UserError(
                    f"--run_directory={self.path}: {file.read().strip() or 'another process'} is training here. "
                    "Wait for it, end it, or choose another directory."
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield
            file.truncate(0)

    def adopt_vocabularies(self, source: Path | str, target: Path | str) -> None:
        """Copies the vocabularies into the directory; one file stands for both when they are the same file.

        Raises:
          UserError: the run was made with other vocabularies.
        """
        source, target = Path(source), Path(target)
        contents = {SOURCE: source.read_bytes(), TARGET: target.read_bytes()}
        if contents[SOURCE] == contents[TARGET]:
            contents = {JOINT: contents[SOURCE]}
        present = {
            name: (self.path / name).read_bytes() for name in (JOINT, SOURCE, TARGET) if (self.path / name).exists()
        }
        conflicts = [name for name, content in present.items() if contents.get(name) != content]
        refuse(
            [
                f"{self.path / name} is another vocabulary than {source} and {target}, and a model is of no use with "
                "any but its own. Give the old vocabularies or choose another --run_directory."
                for name in conflicts
            ]
        )
        for name in contents.keys() - present.keys():
            durable_files.replace(self.path / name, contents[name])

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

    def _made_by(self) -> str:
        return (
            f"The run was made by tfnmt {self._recorded['versions'].get('tfnmt')}, this is {tfnmt.__version__}: "
            "use the former."
        )


def _make(path: Path) -> None:
    """Creates the directory; one that exists may hold only what a creation that was cut short has left."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        strangers = sorted(entry.name for entry in path.iterdir() if entry.name != FLAGS and entry.name[0] != ".")
    except OSError as error:
        raise UserError(f"--run_directory={path}: {error.strerror}. Choose another.") from error
    if strangers:
        raise UserError(
            f"--run_directory={path} has no {SETTINGS}, so it is not a run directory, and it is not empty: it holds "
            f"{', '.join(strangers[:5])}. Choose another."
        )


def _record(settings: Sequence[Any]) -> dict[str, Any]:
    """What `settings.json` holds."""
    versions = {
        "tfnmt": tfnmt.__version__,
        "tensorflow": _version_of("tensorflow"),
        "python": platform.python_version(),
    }
    classes = {type(each).__name__: dataclasses.asdict(each) for each in settings}
    return {"format": FORMAT, "versions": versions, "settings": classes}


def _version_of(package: str) -> str:
    """The version that is installed, without the seconds that importing it takes."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _read_settings(path: Path) -> dict[str, Any]:
    """The content of `settings.json` in the run directory `path`."""
    file = path / SETTINGS
    if not path.is_dir():
        raise UserError(f"--run_directory={path}: there is no such directory.")
    try:
        recorded = json.loads(file.read_bytes())
        if recorded["format"] > FORMAT:
            version = recorded["versions"]["tfnmt"]
            raise UserError(
                f"{file} was made by tfnmt {version}, which is newer than this {tfnmt.__version__}: use it."
            )
        if all(isinstance(values, dict) for values in recorded["settings"].values()):
            return recorded
    except FileNotFoundError as error:
        raise UserError(f"--run_directory={path} is not a run directory: it has no {SETTINGS}.") from error
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{file} is damaged. Write it anew by training with --flagfile={path / FLAGS} after removing it.")


def _differences(path: Path, settings: Sequence[Any]) -> list[str]:
    """Every setting that is not what the run was made with and may not change, under a heading with the remedy."""
    recorded = {
        name: _from_json(value)
        for values in _read_settings(path)["settings"].values()
        for name, value in values.items()
    }
    fields = {field.name: field for each in settings for field in dataclasses.fields(each)}
    values = {name: getattr(each, name) for each in settings for name in vars(each)}
    # A setting that this version has added had its default's effect before.
    before = {name: field.default for name, field in fields.items()} | recorded
    different = [
        f"--{name}: {_shown(before, name)} in the run directory, {_shown(values, name)} now."
        for name in before
        if (name not in values or before[name] != values[name]) and not _may_change(fields.get(name))
    ]
    heading = (
        f"--run_directory={path} was made with other settings. Go on with the old ones by "
        f"--flagfile={path / FLAGS}, or choose another directory."
    )
    return [heading, *different] if different else []


def _may_change(field: dataclasses.Field | None) -> bool:
    return field is not None and bool(field.metadata.get("may_change"))


def _shown(values: Mapping[str, Any], name: str) -> str:
    return (value_text(values[name]) or "(empty)") if name in values else "(absent)"


def _from_json(value: Any) -> Any:
    """JSON has no tuples; every list is one that was."""
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """The nearest thing to `value` that any reader of JSON understands."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
