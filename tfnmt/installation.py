"""Which packages tfnmt wants and which are installed; imports nothing but the standard library.

`python -m tfnmt.installation [extra ...]` ends with exit code 0 when all that tfnmt and these extras need is there.
"""

import importlib.metadata
import re
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HOROVOD_VERSION = "0.28.1"
HOROVOD_COMMAND = "tools/set_up --tests"
MPI_LABEL = ".mpi"
"""How the version of a Horovod that has MPI beside Gloo ends."""


class Requirement(NamedTuple):
    """One distribution that tfnmt needs."""

    name: str
    wanted: str  # as setup.py says it, such as "==2.21.*"; empty for any version
    extra: str  # the extra that needs it; empty when everybody does


def is_complete(extras: Sequence[str] = ()) -> bool:
    """Whether tfnmt and the packages that it and these extras need are installed."""
    try:
        needed = [each for each in requirements() if each.extra in ("", *extras)]
    except PackageNotFoundError:
        return False
    return not any(fault(each) for each in needed)


def requirements() -> list[Requirement]:
    """What the installed tfnmt asks for.

    Raises:
      PackageNotFoundError: tfnmt itself is not installed.
    """
    return [_parse(line) for line in importlib.metadata.requires("tfnmt") or []]


def _parse(line: str) -> Requirement:
    requirement, _, marker = line.partition(";")
    match = re.fullmatch(r"([\w.-]+)\s*\(?([^)]*)\)?", requirement.strip())
    assert match, line
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
    return Requirement(match[1], match[2].strip(), extra[1] if extra else "")


def installed_version(name: str) -> str | None:
    """The version of distribution `name`, or None."""
    try:
        return importlib.metadata.version(name)
    except PackageNotFoundError:
        return None


def fault(requirement: Requirement) -> str | None:
    """What is wrong with the installed version of a requirement, or None."""
    version = installed_version(requirement.name)
    if version is None:
        return f"is not installed, {requirement.wanted or 'any version'} is wanted"
    if not satisfies(version, requirement.wanted):
        return f"{version} is installed, {requirement.wanted} is wanted"
    return None


def remedy(requirement: Requirement | None = None) -> str:
    """The command that installs a requirement; without one, tfnmt itself."""
    if (ROOT / "tools" / "set_up").exists():
        return "tools/set_up --tests" if requirement and requirement.extra else "tools/set_up"
    wanted = f"{requirement.name}{requirement.wanted}" if requirement else "tfnmt"
    return f"{sys.executable} -m pip install '{wanted}'"


def reinstallation(name: str) -> str:
    """The command that installs a broken package anew, in the version that is there."""
    return f"{sys.executable} -m pip install --force-reinstall --no-deps {name}=={installed_version(name)}"


def satisfies(version: str, wanted: str) -> bool:
    """Whether `version` is in the range `wanted`, such as ">=2.20,<2.22" or "==2.21.*"."""
    return all(_satisfies_one(version, clause.strip()) for clause in wanted.split(",") if clause.strip())


def _satisfies_one(version: str, clause: str) -> bool:
    match = re.fullmatch(r"(==|>=|<=|<|>|!=)\s*([\w.+*]+)", clause)
    assert match, clause
    operator, bound = match.groups()
    if bound.endswith(".*"):
        prefix = _numbers(bound[:-2])
        return (_numbers(version)[: len(prefix)] == prefix) == (operator == "==")
    left, right = _padded(_numbers(version), _numbers(bound))
    comparisons = {
        "==": left == right,
        "!=": left != right,
        ">=": left >= right,
        "<=": left <= right,
        "<": left < right,
        ">": left > right,
    }
    return comparisons[operator]


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers; a label of its own behind "+" does not count."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def _padded(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    length = max(len(left), len(right))
    return left + (0,) * (length - len(left)), right + (0,) * (length - len(right))


def wanted_horovod() -> str | None:
    """The Horovod version, labelled with the TensorFlow that it is built against; None without a TensorFlow.

    With MPI or without it, it runs.
    """
    tensorflow = installed_version("tensorflow")
    return f"{HOROVOD_VERSION}+tf{tensorflow}" if tensorflow else None


def horovod_fault() -> str | None:
    """What keeps Horovod from running with the installed TensorFlow, or None."""
    installed, wanted = installed_version("horovod"), wanted_horovod()
    if installed is None:
        return "Horovod is not installed"
    if wanted is None:
        return "Horovod needs TensorFlow, which is not installed"
    if installed.removesuffix(MPI_LABEL) != wanted:
        return (
            f"Horovod {installed} is installed, {wanted} is wanted: it runs only with the TensorFlow it was built for"
        )
    if not _horovod_library().exists():
        return f"Horovod {installed} has no library for TensorFlow"
    return None


def _horovod_library() -> Path:
    distribution = importlib.metadata.distribution("horovod")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return Path(str(distribution.locate_file(f"horovod/tensorflow/mpi_lib{suffix}")))


if __name__ == "__main__":
    sys.exit(not is_complete(sys.argv[1:]))
