"""Metrics that a command of the user's computes of translations: COMET and whatever else is not in this project."""

import contextlib
import math
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from tfnmt.progress import Progress

_POLL_SECONDS = 0.2


def faults_of_command(command: str) -> list[str]:
    """The fault of a `--metrics_command` that cannot be started; none where it is empty."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        return [f"--metrics_command={command}: {error}."]
    if not words or shutil.which(words[0]):
        return []
    return [f"--metrics_command={command}: there is no program {words[0]}; give its path, or install it."]


def run_metrics_command(
    command: str, hypotheses: Sequence[str], references: Sequence[str], sources: Sequence[str]
) -> tuple[tuple[str, float], ...]:
    """What `command` says of translations: it gets three files, with a sentence a line, in the order of the arguments.

    It prints a line for each of its numbers, such as "comet 0.8123", and may say more on standard error. A failure is
    logged, and there are no numbers then: training must not end for it.

    Returns:
      Names and numbers, in the order of the lines.
    """
    with tempfile.TemporaryDirectory() as directory:
        paths = []
        for name, lines in {"hypotheses": hypotheses, "references": references, "sources": sources}.items():
            paths.append(Path(directory, name))
            paths[-1].write_text("".join(f"{line}\n" for line in lines), "utf-8")
        try:
            return _numbers(_output([*shlex.split(command), *map(str, paths)], Path(directory, "output")))
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            logging.error("--metrics_command=%s: %s; training goes on without its numbers.", command, error)
            return ()


def _output(words: Sequence[str], path: Path) -> str:
    """What a program prints, with progress while it works; its standard error is ours."""
    with (
        path.open("wb") as file,
        Progress("Measuring by --metrics_command") as progress,
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file) as process,
    ):
        try:
            while process.poll() is None:
                progress.show(0, "waiting for its end")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        finally:
            process.kill()  # does nothing to a process that has ended
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words[0])
    return path.read_text("utf-8")


def _numbers(text: str) -> tuple[tuple[str, float], ...]:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or not all(map(_is_metric, lines)):
        raise ValueError(f"it printed {text[:200]!r}, and not lines of a name and a number, such as 'comet 0.8123'")
    return tuple((name, float(number)) for name, number in lines)


def _is_metric(words: Sequence[str]) -> bool:
    """Whether a line is a name and a finite number."""
    try:
        _, number = words
        return math.isfinite(float(number))
    except ValueError:
        return False
