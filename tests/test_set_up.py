"""tools/set_up: what it refuses, what it repeats, what it shows of a failure. Nothing is really installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tfnmt import installation

# Stands for .venv/bin/python: notes what pip is asked for, and fails when told to.
INTERPRETER = """#!/bin/sh
case "$*" in
  *pip*) echo "$*" >>calls; [ ! -e broken ] || { echo "no space left"; exit 1; } ;;
  *tfnmt.installation*) [ ! -e incomplete ] ;;
  -V) echo "Python 3.11.2" ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose environment has a Python that only takes notes."""
    (tmp_path / "tools").mkdir()
    for name in ("tools/set_up", "tools/constraints.txt", "setup.py"):
        shutil.copy(installation.ROOT / name, tmp_path / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/stamps").mkdir()
    (tmp_path / ".venv/stamps/environment").touch()
    interpreter = tmp_path / ".venv/bin/python"
    interpreter.write_text(INTERPRETER)
    interpreter.chmod(0o755)
    return tmp_path


def _set_up(project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [project / "tools/set_up", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def _calls(project: Path) -> int:
    """How often pip was asked for something since the last time."""
    calls = project / "calls"
    count = len(calls.read_text().splitlines()) if calls.exists() else 0
    calls.unlink(missing_ok=True)
    return count


def test_the_second_time_installs_nothing(project):
    first = _set_up(project)
    assert (first.returncode, first.stderr, _calls(project)) == (0, "", 2)
    assert "Installing the packages for training: done in " in first.stdout
    second = _set_up(project)
    assert (second.returncode, _calls(project)) == (0, 0)
    assert second.stdout.startswith("  Everything is in place in .venv")


@pytest.mark.parametrize("changed", ["setup.py", "tools/constraints.txt"])
def test_other_versions_are_installed(project, changed):
    _set_up(project)
    _calls(project)
    with (project / changed).open("a") as file:
        file.write("# changed\n")
    assert (_set_up(project).returncode, _calls(project)) == (0, 2)


def test_a_package_that_somebody_removed_is_installed_again(project):
    _set_up(project)
    _calls(project)
    (project / "incomplete").touch()
    assert (_set_up(project).returncode, _calls(project)) == (0, 2)


def test_a_failure_shows_its_cause_and_is_repeated(project):
    (project / "broken").touch()
    failed = _set_up(project)
    assert failed.returncode == 1
    assert "no space left" in failed.stderr
    assert "The whole log: .cache/set_up.log" in failed.stderr
    (project / "broken").unlink()
    assert _set_up(project).returncode == 0


@pytest.fixture(name="path")
def _path(project: Path) -> str:
    """A PATH without MPI, whose apt-get takes notes and installs it, unless told to fail."""
    commands = project / "commands"
    commands.mkdir()
    for name in ("bash", "sh", "cat", "dirname", "flock", "grep", "mkdir", "rm", "sha256sum", "sleep", "tail", "wc"):
        (commands / name).symlink_to(shutil.which(name))
    apt = '#!/bin/sh\necho "pip $*" >>calls\n[ ! -e offline ] || exit 100\ncase $1 in install) cd commands\n'
    _script(commands / "apt-get", f"{apt}cp apt-get mpicxx; cp apt-get mpirun ;; esac\n")
    _script(commands / "sudo", '#!/bin/sh\n[ "$1" = -v ] || { shift; exec "$@"; }\n')
    (commands / "cp").symlink_to(shutil.which("cp"))
    return str(commands)


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_mpi_is_installed_for_the_tests_alone_and_once(project, path):
    assert (_set_up(project, PATH=path).returncode, _calls(project)) == (0, 2)
    first = _set_up(project, "--tests", PATH=path)
    assert (first.returncode, first.stderr) == (0, "")
    assert "Installing Debian packages openmpi-bin libopenmpi-dev: done in " in first.stdout
    _calls(project)
    second = _set_up(project, "--tests", PATH=path)
    assert (second.returncode, _calls(project)) == (0, 0)


def test_where_mpi_cannot_be_installed_set_up_goes_on(project, path):
    (project / "offline").touch()
    result = _set_up(project, "--tests", PATH=path)
    assert result.returncode == 0
    assert "Reading Debian's package lists failed (exit code 100)" in result.stderr
    assert "  Going on without MPI: " in result.stdout
    assert "  Everything is in place in .venv" in result.stdout


def test_an_unsuitable_python_is_refused(project):
    shutil.rmtree(project / ".venv")
    refused = _set_up(project, PYTHON="/bin/false")
    assert refused.returncode == 1
    assert "PYTHON=/bin/false is not a Python from 3.10 to 3.13" in refused.stderr


def test_an_unknown_argument_is_refused(project):
    refused = _set_up(project, "--test")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "unknown argument --test" in refused.stderr


@pytest.mark.parametrize("name", ["set_up", "quickstart", "test"])
def test_the_scripts_parse(name):
    subprocess.run(["bash", "-n", installation.ROOT / "tools" / name], check=True)


@pytest.mark.parametrize("has_mpi", [True, False])
def test_horovod_is_checked_without_building_it(tmp_path, has_mpi):
    """It has MPI where there is one to build with, and only there: then it is built anew, once."""
    if has_mpi:
        (tmp_path / "mpicxx").touch(0o755)
    command = [sys.executable, installation.ROOT / "tools/build_horovod", "--check"]
    wanted = f"{installation.wanted_horovod()}{installation.MPI_LABEL if has_mpi else ''}"
    is_there = installation.horovod_fault() is None and installation.installed_version("horovod") == wanted
    assert subprocess.run(command, env={**os.environ, "PATH": str(tmp_path)}, timeout=60).returncode == (not is_there)
