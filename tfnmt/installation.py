"""Which packages tfnmt wants and which are installed; importing it takes nothing but the standard library.

`python -m tfnmt.installation [extra ...]` ends with exit code 0 when all that tfnmt and these extras need is there.
"""

import importlib.metadata
import re
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tfnmt-doctor runs where even this package is missing.
    from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
HOROVOD_VERSION = "0.28.1"
HOROVOD_REVISION = "r2"
"""Of what tools/build_horovod changes in the source: one that was built before is built anew."""
HOROVOD_COMMAND = "tools/set_up --tests"
MPI_LABEL = ".mpi"
"""The end of the version of a Horovod that has MPI beside Gloo."""


def is_complete(extras: Sequence[str] = ()) -> bool:
    """Whether tfnmt and the packages that it and these extras need are installed."""
    try:
        needed = [requirement for requirement in requirements() if extra_of(requirement) in ("", *extras)]
    except ModuleNotFoundError:
        return False
    return not any(map(fault, needed))


def requirements() -> "list[Requirement]":
    """The requirements of the installed tfnmt.

    Raises:
      ModuleNotFoundError: tfnmt itself is not installed, or what reads its requirements is not.
    """
    lines = importlib.metadata.requires("tfnmt") or []
    from packaging.requirements import Requirement

    return [Requirement(line) for line in lines]


def extra_of(requirement: "Requirement") -> str:
    """The extra that needs it; empty when everybody does."""
    match = re.search(r'extra == "(.+?)"', str(requirement.marker))
    return match[1] if match else ""


def installed_version(name: str) -> str | None:
    """The version of distribution `name`, or None."""
    try:
        return importlib.metadata.version(name)
    except PackageNotFoundError:
        return None


def fault(requirement: "Requirement") -> str | None:
    """The fault of the installed version of a requirement, or None."""
    version, wanted = installed_version(requirement.name), requirement.specifier
    if version is None:
        return f"is not installed, {wanted or 'any version'} is wanted"
    if not wanted.contains(version, prereleases=True):
        return f"{version} is installed, {wanted} is wanted"
    return None


def remedy(requirement: "Requirement | None" = None) -> str:
    """The command that installs a requirement; without one, tfnmt itself."""
    if (ROOT / "tools" / "set_up").exists():
        return "tools/set_up --tests" if requirement and extra_of(requirement) else "tools/set_up"
    wanted = f"{requirement.name}{requirement.specifier}" if requirement else "tfnmt"
    return f"{sys.executable} -m pip install '{wanted}'"


def reinstallation(name: str) -> str:
    """The command that installs a broken package anew, in the version that is there."""
    return f"{sys.executable} -m pip install --force-reinstall --no-deps {name}=={installed_version(name)}"


def wanted_horovod() -> str | None:
    """The Horovod version, labelled with the TensorFlow that it is built against; None without a TensorFlow.

    A Horovod that has MPI, too, ends with MPI_LABEL, and fits as well.
    """
    tensorflow = installed_version("tensorflow")
    return f"{HOROVOD_VERSION}+tf{tensorflow}.{HOROVOD_REVISION}" if tensorflow else None


def horovod_fault() -> str | None:
    """The fault that keeps Horovod from running with the installed TensorFlow, or None."""
    installed, wanted = installed_version("horovod"), wanted_horovod()
    if installed is None:
        return "Horovod is not installed"
    if wanted is None:
        return "Horovod needs TensorFlow, which is not installed"
    if installed.removesuffix(MPI_LABEL) != wanted:
        return f"Horovod {installed} is installed, {wanted} is wanted, which is built for this TensorFlow and mended"
    if not _horovod_library().exists():
        return f"Horovod {installed} has no library for TensorFlow"
    return None


def _horovod_library() -> Path:
    distribution = importlib.metadata.distribution("horovod")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return Path(str(distribution.locate_file(f"horovod/tensorflow/mpi_lib{suffix}")))


if __name__ == "__main__":
    sys.exit(not is_complete(sys.argv[1:]))
