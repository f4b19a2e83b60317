"""The words of a command line, with flagfiles read in their place.

A flagfile has a flag a line, `--name=value`, or is YAML where its name says so: `name: value`.
"""

import dataclasses
import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from tfnmt.settings import flag_text

YAML_SUFFIXES = (".yaml", ".yml")
"""The ends of the names of flagfiles in YAML."""

_NULL = ("~", "null", "Null", "NULL")


@dataclasses.dataclass(frozen=True)
class Argument:
    """One word of the command line or one line of a flagfile."""

    text: str
    origin: str = ""  # `file:line`; empty for the command line
    directory: Path = Path()  # where relative flagfiles that it names are looked for first

    def fault(self, text: str) -> str:
        """`text`, with the place of this argument before it if that is a file."""
        return f"{self.origin}: {text}" if self.origin else text

    @property
    def name(self) -> str:
        """The flag's name: what stands between the dashes and the equals sign."""
        return self.text.lstrip("-").partition("=")[0]

    @property
    def value(self) -> str | None:
        """The text behind the equals sign; None when there is none."""
        _, equals, value = self.text.partition("=")
        return value if equals else None

    @property
    def is_flag(self) -> bool:
        """True unless this is a plain word."""
        return self.text.startswith("-") and self.text.strip("-") != ""


def expand(arguments: Sequence[Argument], faults: list[str], outer: tuple[Path, ...] = ()) -> list[Argument]:
    """Puts the lines of the flagfiles before the other arguments, which so override them.

    The same holds inside a flagfile: what it says itself overrides the flagfiles that it names.

    Args:
      arguments: as given; `--flagfile=path` and `--flagfile path` name files.
      faults: what is wrong with the files is added here.
      outer: the files that are being read, for files that name each other.
    """
    from_files, others = [], []
    words = iter(arguments)
    for argument in words:
        if argument.is_flag and argument.name == "flagfile":
            path = argument.value if argument.value is not None else next(words, Argument("")).text
            from_files += _read(path, argument, faults, outer)
        else:
            others.append(argument)
    return from_files + others


def _read(text: str, argument: Argument, faults: list[str], outer: tuple[Path, ...]) -> list[Argument]:
    """The arguments in the flagfile `text`, which is looked for beside the file that names it, then here."""
    name = os.path.expanduser(text)
    beside = argument.directory / name
    path = beside if beside.is_file() else Path(name)
    if path.resolve() in outer:
        faults.append(argument.fault(f"--flagfile={text}: this file names itself, directly or through others."))
        return []
    try:
        content = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        faults.append(argument.fault(f"--flagfile={text}: {reason}.{_suggestion(path)}"))
        return []
    arguments = _of_yaml(path, content, faults) if path.suffix in YAML_SUFFIXES else _of_lines(path, content)
    return expand(arguments, faults, (*outer, path.resolve()))


def _of_lines(path: Path, content: str) -> list[Argument]:
    return [
        Argument(line.strip(), f"{path}:{number}", path.parent)
        for number, line in enumerate(content.splitlines(), start=1)
        if line.strip() and not line.strip().startswith(("#", "//"))
    ]


def _of_yaml(path: Path, content: str, faults: list[str]) -> list[Argument]:
    """The flags of one mapping: from their names to a value or, for flags that take several, a list of values."""
    import yaml  # few command lines name such a file

    try:
        # The base loader leaves every value as it is written: `languages: no` is a language, and no boolean.
        root = yaml.compose(content, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "no characters of YAML"
        faults.append(f"{path}:{mark.line + 1 if mark else 1}: this is not YAML: {what}.")
        return []
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        faults.append(f"{path}:{root.start_mark.line + 1}: must be lines of a flag and its value: `dropout: 0.1`.")
        return []
    arguments: dict[str, Argument] = {}
    for key, node in root.value:
        origin = f"{path}:{key.start_mark.line + 1}"
        values = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not isinstance(key, yaml.ScalarNode) or len(key.value.split()) != 1:
            faults.append(f"{origin}: the name of a flag must stand before the colon.")
        elif not all(isinstance(each, yaml.ScalarNode) for each in values):
            faults.append(f"{origin}: {key.value}: a flag has one value, or a list of values.")
        elif key.value in arguments:
            faults.append(f"{origin}: {key.value}: {arguments[key.value].origin} has given it already.")
        else:
            words = tuple("" if each.style is None and each.value in _NULL else each.value for each in values)
            word = flag_text(key.value, words if isinstance(node, yaml.SequenceNode) else words[0])
            arguments[key.value] = Argument(word, origin, path.parent)
    return list(arguments.values())


def _suggestion(path: Path) -> str:
    siblings = [str(sibling) for sibling in path.parent.glob("*")] if not path.exists() else []
    nearest = difflib.get_close_matches(str(path), siblings, n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""
