"""The text of `--help`: the flags by settings class, each with its type, default and limits."""

import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tfnmt.commands.command_line import KINDS, Choice, CommandLine, Request, without_none
from tfnmt.settings import flag_text, limits_of

WIDTH = 100


def help_text(program: str, summary: str, command_line: CommandLine) -> str:
    """The help of `program`, which `summary` describes in one sentence."""
    usage = f"{program}: {summary}\n\nUsage: {program} [--flag=value ...] [--flagfile=path ...]"
    note = (
        "A flagfile holds one flag a line or, where its name ends in .yaml, is YAML from flags to values; "
        "what is given on the command line overrides it. --helpfull shows the flags of the libraries too."
    )
    sections = [usage, textwrap.fill(note, WIDTH)]
    shown: set[type] = set()
    for request in command_line.requests:
        sections += _request_sections(request, shown, _never(command_line.classes))
    return "\n\n".join(sections) + "\n"


def _never(classes: Iterable[type]) -> set[str]:
    """The flags that do nothing in this command, whatever others say."""
    fields = [field for cls in classes for field in dataclasses.fields(cls)]
    return {field.name for field in fields if field.metadata.get("only_with") == {}}


def _request_sections(request: Request, shown: set[type], hidden: Collection[str]) -> Iterable[str]:
    """One section for each class in `request` and each of its bases, in the order of inheritance."""
    choices = request.classes if isinstance(request, Choice) else {"": request}
    for cls in (base for leaf in choices.values() for base in reversed(leaf.__mro__)):
        if dataclasses.is_dataclass(cls) and cls not in shown:
            shown.add(cls)
            yield from _section(cls, _condition(cls, request), hidden)


def _condition(cls: type, request: Request) -> str:
    """The choices with which the flags of `cls` count; empty where they always do."""
    if not isinstance(request, Choice):
        return ""
    values = [flag_text(request.flag, value) for value, leaf in request.classes.items() if issubclass(leaf, cls)]
    return f" With {' or '.join(values)}:" if len(values) < len(request.classes) else ""


def _section(cls: type, condition: str, hidden: Collection[str]) -> Iterable[str]:
    """The fields that `cls` itself declares, but for the `hidden` ones."""
    names = inspect.get_annotations(cls).keys() - hidden
    own = [field for field in dataclasses.fields(cls) if field.name in names]
    if own:
        hints = typing.get_type_hints(cls)
        heading = f"{(cls.__doc__ or cls.__name__).splitlines()[0]}{condition}"
        yield "\n".join([heading, *(_flag(field, hints[field.name]) for field in own)])


def _flag(field: dataclasses.Field, type_: object) -> str:
    prefix = "  --[no]" if type_ is bool else "  --"
    head = prefix + flag_text(field.name, field.default).removeprefix("--")
    text = f"{field.metadata['help']} ({_domain(field, type_)})"
    body = textwrap.indent(textwrap.fill(text, WIDTH - 6), "      ")
    return f"{head}\n{body}"


def _domain(field: dataclasses.Field, type_: object) -> str:
    """The values that a field accepts."""
    choices = field.metadata.get("choices")
    words = [f"one of {', '.join(choices)}" if choices else KINDS[without_none(type_)][1]]
    words += limits_of(field)
    words += ["required"] if field.metadata.get("required") else []
    words += ["empty for none"] if without_none(type_) is not type_ else []
    if only_with := field.metadata.get("only_with"):
        words.append(f"only with {' or '.join(_conditions(only_with))}")
    if former := field.metadata.get("formerly"):
        words.append(f"formerly --{former}")
    return ", ".join(words)


def _conditions(only_with: Mapping[str, Sequence[Any] | None]) -> Iterable[str]:
    """The flags with which a field counts."""
    for flag, values in only_with.items():
        yield from [f"--{flag}"] if values is None else [flag_text(flag, value) for value in values]
