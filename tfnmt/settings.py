"""Settings: frozen dataclasses whose fields are the command line's flags.

A default, its help text and its limits stand once, in the field that owns them:

    @dataclasses.dataclass(frozen=True)
    class OptimizerSettings:
        learning_rate: float = setting(0.001, "Learning rate after the warm-up.", minimum=0)

`tfnmt.commands.application` turns the fields into absl flags and flags back into settings.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """One field of a settings dataclass.

    Args:
      default: the value when the flag is not given; its type must be the field's annotation.
      help: one sentence, with the unit; it is shown by `--help`.
      choices: the words that a text setting accepts.
      minimum: the smallest number accepted.
      maximum: the largest number accepted.
    """
    metadata = {"help": help, "choices": choices, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata=metadata)


def faults_of(settings: Any) -> list[str]:
    """Every value of `settings` outside its choices or limits, one sentence each, naming the flag."""
    return [fault for field in dataclasses.fields(settings) if (fault := _fault(field, getattr(settings, field.name)))]


def _fault(field: dataclasses.Field, value: Any) -> str | None:
    choices, minimum, maximum = (field.metadata.get(key) for key in ("choices", "minimum", "maximum"))
    if choices is not None and value not in choices:
        return f"--{field.name}={value}: must be one of {', '.join(choices)}."
    if minimum is not None and value < minimum:
        return f"--{field.name}={value}: must be at least {minimum}."
    if maximum is not None and value > maximum:
        return f"--{field.name}={value}: must be at most {maximum}."
    return None
