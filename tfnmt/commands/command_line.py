"""Settings classes as absl flags, and a command line as settings: every fault of it found at once."""

import collections
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from tfnmt.commands.flagfiles import Argument, expand
from tfnmt.errors import refuse
from tfnmt.settings import expanded, fault_of, faults_of, flag_text, idle_fault, present_names

KINDS: dict[Any, tuple[Callable[..., Any], str]] = {
    str: (flags.DEFINE_string, "a text"),
    int: (flags.DEFINE_integer, "a whole number"),
    float: (flags.DEFINE_float, "a number"),
    bool: (flags.DEFINE_boolean, "true or false"),
    tuple[str, ...]: (flags.DEFINE_list, "a list with commas"),
}
"""Type of a field -> what defines its flag, and the words for its values."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A request for one of several settings classes: the one that a flag names.

    The command line accepts the flags of all of them, and refuses those that the chosen one does not have.
    """

    flag: str  # a field of another class that is asked for beside this one
    classes: Mapping[str, type]  # value of that flag -> settings class


Request = type | Choice


@dataclasses.dataclass(eq=False)
class HelpRequested(Exception):  # noqa: N818 (it is not an error)
    """`--help` was given or, for the flags of the libraries too, `--helpfull`."""

    full: bool


@dataclasses.dataclass(frozen=True)
class Given:
    """A flag's value and the argument that gave it."""

    value: Any
    argument: Argument


class CommandLine:
    """One program's flags.

    Attributes:
      classes: every settings class that a request names.
      given: flag name -> what was given explicitly, in a flagfile or on the command line.
    """

    def __init__(self, requests: Sequence[Request]):
        """Defines a flag for each field of the classes in `requests`, beside the flags that absl has itself."""
        self.requests = requests
        self.classes = [cls for request in requests for cls in _classes(request)]
        self.given: dict[str, Given] = {}
        self._types: dict[str, Any] = {}
        self._flags = flags.FlagValues()
        for cls in self.classes:
            types_by_name = typing.get_type_hints(cls)
            for field in dataclasses.fields(cls):
                self._define(field, types_by_name[field.name])
        self._flags.append_flag_values(flags.FLAGS)
        self._present = present_names(field for cls in self.classes for field in dataclasses.fields(cls))

    def parse(self, words: Sequence[str]) -> list[Any]:
        """Turns the words behind the program's name into one settings instance for each request.

        Raises:
          UserError: with everything that is wrong, each with its place in a flagfile.
          HelpRequested: help was asked for.
        """
        faults: list[str] = []
        arguments = collections.deque(expand([Argument(word) for word in words], faults))
        while arguments:
            argument = arguments.popleft()
            if fault := self._assign(argument, arguments):
                faults.append(argument.fault(fault))
        settings = [self._settings(request, faults) for request in self.requests]
        faults += self._limit_faults(settings) + self._useless_flags(settings) + self._idle_flags(settings)
        refuse(list(dict.fromkeys(faults)) or [fault for group in settings for fault in faults_of(group)])
        return settings

    def _define(self, field: dataclasses.Field, type_: Any) -> None:
        """Defines the flag of a field; classes may share a name if they agree on the type."""
        if self._types.setdefault(field.name, type_) != type_:
            raise ValueError(f"Two settings classes give --{field.name} different types.")
        if field.name not in self._flags:
            define, _ = KINDS[without_none(type_)]
            define(field.name, None, field.metadata["help"], flag_values=self._flags)

    def _assign(self, argument: Argument, following: collections.deque[Argument]) -> str | None:
        """Sets the flag that `argument` gives, whose value may be the first of the `following`; returns its fault."""
        name, value = self._present.get(argument.name, argument.name), argument.value
        if not argument.is_flag:
            return f"{argument.text!r} is not a flag; write --name=value."
        if name in ("h", "help", "helpshort", "helpfull"):
            raise HelpRequested(full=name == "helpfull")
        if value is None and self._is_boolean(name):
            value = "true"
        if value is None and name.startswith("no") and self._is_boolean(name[2:]):
            name, value = name[2:], "false"
        if value is None and following and not following[0].text.startswith("--"):
            value = following.popleft().text
        if name not in self._flags:
            flag, *words = name.split(maxsplit=1)
            if argument.origin and words:
                return f"--{name}: a line of a flagfile needs an equals sign: --{flag}={words[0]}."
            return f"--{name} is not a flag of this command.{self._suggestion(name)}"
        if value is None:
            return f"--{name} needs a value."
        return self._store(name, value, argument)

    def _store(self, name: str, text: str, argument: Argument) -> str | None:
        type_, flag = self._types.get(name), self._flags[name]
        if text == "" and type_ is not None and without_none(type_) is not type_:
            self.given[name] = Given(None, argument)
            return None
        try:
            flag.parse(text)
        except flags.IllegalFlagValueError as error:
            return f"--{name}={text}: must be {KINDS[without_none(type_)][1]}." if type_ else str(error)
        flag.using_default_value = False
        self.given[name] = Given(tuple(flag.value) if isinstance(flag.value, list) else flag.value, argument)
        return None

    def _is_boolean(self, name: str) -> bool:
        return name in self._flags and self._flags[name].boolean

    def _suggestion(self, name: str) -> str:
        negations = [f"no{flag}" for flag in self._types if self._is_boolean(flag)]
        names = [*self._types, *negations, "flagfile", "help"]
        nearest = difflib.get_close_matches(name, names, n=1)
        return f" Did you mean --{nearest[0]}?" if nearest else ""

    def _settings(self, request: Request, faults: list[str]) -> Any:
        """The instance for `request`, with the class's own default for every flag that was not given."""
        if not isinstance(request, Choice):
            return self._instance(request)
        value = self._value(request.flag)
        if value not in request.classes:
            fault = f"{flag_text(request.flag, value)}: must be one of {', '.join(request.classes)}."
            faults.append(self._located(request.flag, fault))
            value = next(iter(request.classes))
        return self._instance(request.classes[value])

    def _instance(self, cls: type) -> Any:
        values = {
            field.name: expanded(field, self.given[field.name].value if field.name in self.given else field.default)
            for field in dataclasses.fields(cls)
        }
        return cls(**values)

    def _value(self, name: str) -> Any:
        """The value of a flag that belongs to a class which is not a matter of choice."""
        plain = [self._instance(request) for request in self.requests if not isinstance(request, Choice)]
        return next(getattr(group, name) for group in plain if hasattr(group, name))

    def _limit_faults(self, settings: Sequence[Any]) -> list[str]:
        values = [(field, getattr(group, field.name)) for group in settings for field in dataclasses.fields(group)]
        return [self._located(field.name, fault) for field, value in values if (fault := fault_of(field, value))]

    def _useless_flags(self, settings: Sequence[Any]) -> list[str]:
        """The flags that were given but belong only to a class that was not chosen."""
        used = {field.name for group in settings for field in dataclasses.fields(group)}
        faults = []
        for choice in (request for request in self.requests if isinstance(request, Choice)):
            chosen = self._value(choice.flag)
            offered = {field.name for cls in choice.classes.values() for field in dataclasses.fields(cls)}
            useless = [name for name in self.given if name in offered - used and chosen in choice.classes]
            faults += [
                self._located(name, f"--{name} does nothing with {flag_text(choice.flag, chosen)}.") for name in useless
            ]
        return faults

    def _idle_flags(self, settings: Sequence[Any]) -> list[str]:
        """The flags that were given but do nothing with the values of others.

        A run's flagfile has every flag: there, one that has its default may stay.
        """
        defaults = {field.name: field.default for group in settings for field in dataclasses.fields(group)}
        told = [
            name
            for name, given in self.given.items()
            if name in defaults and not (given.argument.origin and given.value == defaults[name])
        ]
        return [self._located(name, fault) for name in told if (fault := idle_fault(name, settings))]

    def _located(self, name: str, fault: str) -> str:
        """`fault` with the place where the flag was given, if that is in a file."""
        return self.given[name].argument.fault(fault) if name in self.given else fault


def without_none(type_: Any) -> Any:
    """The type of an optional field's values; any other type as it is."""
    if not isinstance(type_, types.UnionType):
        return type_
    return next(part for part in typing.get_args(type_) if part is not type(None))


def _classes(request: Request) -> Iterable[type]:
    return request.classes.values() if isinstance(request, Choice) else [request]
