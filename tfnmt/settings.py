"""Settings: frozen dataclasses whose fields are the command line's flags.

A default, its help text and its limits stand once, in the field that owns them:

    @dataclasses.dataclass(frozen=True)
    class OptimizerSettings:
        learning_rate: float = setting(0.001, "Learning rate after the warm-up.", minimum=0)

        def faults(self) -> list[str]:
            ...  # optional: impossible combinations, one sentence each, asked once every field is within its limits

Fields are `str`, `int`, `float`, `bool`, `tuple[str, ...]` (a list with commas), or one of these `| None`.
`tfnmt.commands.application` turns the fields into absl flags and flags back into settings.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    required: bool = False,
    is_path: bool = False,
    may_change: bool = False,
    only_with: Mapping[str, Sequence[Any] | None] | None = None,
    formerly: str = "",
) -> Any:
    """One field of a settings dataclass.

    Args:
      default: the value when the flag is not given; its type must be the field's annotation.
      help: one sentence, with the unit; it is shown by `--help`.
      choices: the words that a text setting accepts.
      minimum: the smallest number accepted.
      maximum: the largest number accepted.
      above: numbers must be larger than this one.
      below: numbers must be smaller than this one.
      required: the value may not be empty.
      is_path: a text names a file or a directory; `~` at its beginning is the home directory, and a run records it
        as an absolute path.
      may_change: a run may be resumed with another value, because what was trained so far does not depend on it.
      only_with: flag -> its values with which this field counts, None for all but zero and empty. One flag of several
        is enough. Without any flag, in a subclass, the field never counts, and its help says what does instead.
      formerly: the name that it had once; command lines, flagfiles and recorded settings may still have it.
    """
    metadata = dict(locals())  # all arguments, under their names
    del metadata["default"]
    return dataclasses.field(default=default, metadata=metadata)


def present_names(fields: Iterable[dataclasses.Field]) -> dict[str, str]:
    """The name that a field had once -> the one that it has now."""
    return {former: field.name for field in fields if (former := field.metadata.get("formerly"))}


def expanded(field: dataclasses.Field, value: Any) -> Any:
    """`value` with the home directory for `~`, where the field has paths."""
    return _with_paths(os.path.expanduser, field, value)


def absolute(field: dataclasses.Field, value: Any) -> Any:
    """`value` such that it names the same place from every directory, and is spelt in one way, where it has paths."""
    return _with_paths(lambda path: os.path.abspath(os.path.expanduser(path)), field, value)


def _with_paths(change: Callable[[str], str], field: dataclasses.Field, value: Any) -> Any:
    """`value` with its paths changed, where the field has paths; `-` is standard input or output."""
    if not field.metadata.get("is_path") or not value:
        return value
    if isinstance(value, tuple):
        return tuple(_with_paths(change, field, path) for path in value)
    return value if value == "-" else change(value)


def faults_of(settings: Any) -> list[str]:
    """The faults of `settings`, one sentence for each.

    These are values outside their choices or limits or, when there are none, what the class's own `faults()` finds.
    """
    fields = dataclasses.fields(settings)
    outside = [fault for field in fields if (fault := fault_of(field, getattr(settings, field.name)))]
    if outside or not hasattr(settings, "faults"):
        return outside
    return list(settings.faults())


def fault_of(field: dataclasses.Field, value: Any) -> str | None:
    """The fault of `value` for this field, naming the flag; None when it is within its choices and limits."""
    choices = field.metadata.get("choices")
    if value in (None, "", ()):
        required = field.metadata.get("required") or (choices is not None and value == "" and "" not in choices)
        return f"--{field.name} is missing: {field.metadata['help']}" if required else None
    words = value if isinstance(value, tuple) else (value,)
    if choices is not None and not set(words) <= set(choices):
        return f"{flag_text(field.name, value)}: must be one of {', '.join(choices)}."
    if value != value:
        return f"{flag_text(field.name, value)}: must be a number."
    broken = next((words for words, holds in limits_of(field).items() if not holds(value)), None)
    return f"{flag_text(field.name, value)}: must be {broken}." if broken else None


def idle_fault(name: str, settings: Sequence[Any]) -> str | None:
    """Why the flag `name` of one of the `settings` does nothing with the others; None where it counts."""
    fields = {
        field.name: (field, getattr(group, field.name)) for group in settings for field in dataclasses.fields(group)
    }
    causes = _idle_with(name, fields)
    if causes is None:
        return None
    if not causes:
        return f"--{name} does nothing here. {fields[name][0].metadata['help']}"
    return f"--{name} does nothing with {' and '.join(causes)}; leave it out."


def _idle_with(name: str, fields: Mapping[str, tuple[dataclasses.Field, Any]]) -> list[str] | None:
    """The flags with which the field `name` does nothing; None where it counts.

    A flag counts only with a flag that counts itself: `--adam_cooldown_beta1` needs `--adam_cooldown_updates`, which
    needs Adam. Flags that the command does not have decide nothing.
    """
    conditions = fields[name][0].metadata.get("only_with")
    if conditions is None or (conditions and not conditions.keys() & fields.keys()):
        return None
    causes: list[str] = []
    for flag in conditions.keys() & fields.keys():
        deeper, value = _idle_with(flag, fields), fields[flag][1]
        if deeper is None and (value in conditions[flag] if conditions[flag] is not None else value):
            return None
        causes += deeper or [flag_text(flag, value)]
    return sorted(set(causes))


def limits_of(field: dataclasses.Field) -> dict[str, Callable[[Any], bool]]:
    """The limits of a number, in words such as "at least 0", each with its test."""
    minimum, maximum, above, below = (field.metadata.get(key) for key in ("minimum", "maximum", "above", "below"))
    limits: dict[str, Callable[[Any], bool]] = {}
    if minimum is not None:
        limits[f"at least {minimum}"] = lambda value: value >= minimum
    if maximum is not None:
        limits[f"at most {maximum}"] = lambda value: value <= maximum
    if above is not None:
        limits[f"above {above}"] = lambda value: value > above
    if below is not None:
        limits[f"below {below}"] = lambda value: value < below
    return limits


def flag_text(name: str, value: Any) -> str:
    """`--name=value` as a command line or a flagfile takes it."""
    return f"--{name}={value_text(value)}"


def value_text(value: Any) -> str:
    """`value` in the form that its flag accepts; None is the empty text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(value)
        return line.getvalue()
    return str(value)


def flagfile_text(*settings: Any) -> str:
    """A flagfile that gives exactly these settings, each flag once, under the name of its class."""
    lines: dict[str, None] = {}
    for group in settings:
        lines[f"# {type(group).__name__}"] = None
        lines |= {flag_text(name, value): None for name, value in vars(group).items()}
    return "\n".join(lines) + "\n"
