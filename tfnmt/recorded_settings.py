"""The settings of a run as its directory records them: written, read back, compared.

Paths are recorded and compared as absolute ones, so that a run does not depend on the directory that one works in.

settings.json   {"format": 1, "versions": {package: version}, "settings": {class: {field: value}}}
flags.txt       the same settings as a flagfile
"""

import dataclasses
import json
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import tfnmt
from tfnmt import durable_files, installation
from tfnmt.errors import UserError, refuse
from tfnmt.settings import absolute, expanded, flagfile_text, idle_fault, present_names, value_text

FORMAT = 1
SETTINGS, FLAGS = "settings.json", "flags.txt"

Settings = TypeVar("Settings")


def write(directory: Path, settings: Sequence[Any]) -> None:
    """Records `settings`; `settings.json` comes last, since it makes the directory a run directory."""
    versions = {
        "tfnmt": tfnmt.__version__,
        "tensorflow": installation.installed_version("tensorflow") or "unknown",
        "python": platform.python_version(),
    }
    settings = [_located(group) for group in settings]
    classes = {type(group).__name__: dataclasses.asdict(group) for group in settings}
    recorded = {"format": FORMAT, "versions": versions, "settings": classes}
    durable_files.replace(directory / FLAGS, flagfile_text(*settings).encode())
    durable_files.replace(directory / SETTINGS, json.dumps(recorded, indent=1).encode())


def read(directory: Path) -> dict[str, Any]:
    """The content of `settings.json`.

    Raises:
      UserError: the directory is missing or is not a run directory, or the file is damaged or made by a newer version.
    """
    file = directory / SETTINGS
    if not directory.is_dir():
        raise UserError(f"--run_directory={directory}: there is no such directory.")
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
        raise UserError(f"--run_directory={directory} is not a run directory: it has no {SETTINGS}.") from error
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(
        f"{file} is damaged. Remove it, and train with --flagfile={directory / FLAGS}: that writes it anew."
    )


def instance(directory: Path, recorded: Mapping[str, Any], cls: type[Settings]) -> Settings:
    """The settings of class `cls` in what `read` returned; fields that are newer than it have their defaults.

    Raises:
      UserError: there are no such settings, or one that this version does not know.
    """
    remedy = (
        f"The run was made by tfnmt {recorded['versions'].get('tfnmt')}, this is {tfnmt.__version__}: use the former."
    )
    values = recorded["settings"].get(cls.__name__)
    if values is None:
        raise UserError(f"{directory / SETTINGS}: has no {cls.__name__}. {remedy}")
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    values = _renamed(values, fields.values())
    unknown = values.keys() - fields.keys()
    refuse([f"{directory / SETTINGS}: {name} is not a setting. {remedy}" for name in sorted(unknown)])
    return cls(**{name: expanded(fields[name], _from_json(value)) for name, value in values.items()})


def differences(directory: Path, settings: Sequence[Any], free: Collection[type] = ()) -> list[str]:
    """Every setting that is not the recorded one and may not change, under a heading with the remedy.

    Paths where nothing is any more may change into some where something is: the files have been moved. All settings
    of the classes `free` may change, or be absent.
    """
    settings = [_located(group) for group in settings if type(group) not in free]
    names = {cls.__name__ for cls in free}
    classes = [values for name, values in read(directory)["settings"].items() if name not in names]
    fields = {field.name: field for group in settings for field in dataclasses.fields(group)}
    recorded = {name: _from_json(value) for values in classes for name, value in values.items()}
    recorded = _renamed(recorded, fields.values())
    recorded |= {name: absolute(fields[name], value) for name, value in recorded.items() if name in fields}
    values = {name: value for group in settings for name, value in vars(group).items()}
    # A setting that this version has added had its default's effect before.
    before: dict[str, Any] = {name: field.default for name, field in fields.items()} | recorded
    different = [
        f"--{name}: {_shown(before, name)} in the run directory, {_shown(values, name)} now."
        for name in before
        if (name not in values or before[name] != values[name])
        and not (name in fields and fields[name].metadata.get("may_change"))
        and not _has_moved(fields.get(name), before[name], values.get(name))
        and not (name in fields and idle_fault(name, settings))  # It did nothing before either, or its cause is told.
    ]
    heading = (
        f"--run_directory={directory} was made with other settings. Go on with the old ones by "
        f"--flagfile={directory / FLAGS}, or choose another directory."
    )
    return [heading, *different] if different else []


def _renamed(values: Mapping[str, Any], fields: Iterable[dataclasses.Field]) -> dict[str, Any]:
    """Recorded values under the names that their fields have now."""
    present = present_names(fields)
    return {present.get(name, name): value for name, value in values.items()}


def _located(settings: Any) -> Any:
    """`settings` with absolute paths."""
    paths = {field.name: absolute(field, getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    return dataclasses.replace(settings, **paths)


def _has_moved(field: dataclasses.Field | None, before: str | Sequence[str], now: str | Sequence[str] | None) -> bool:
    """Whether a setting was of paths where nothing is any more, but is where they point now."""
    if field is None or not field.metadata.get("is_path") or not before or not now:
        return False
    old, new = ([paths] if isinstance(paths, str) else paths for paths in (before, now))
    return not any(Path(path).exists() for path in old) and all(Path(path).exists() for path in new)


def _shown(values: Mapping[str, Any], name: str) -> str:
    return (value_text(values[name]) or "(empty)") if name in values else "(absent)"


def _from_json(value: Any) -> Any:
    """JSON has no tuples; every list is one that was."""
    return tuple(value) if isinstance(value, list) else value
