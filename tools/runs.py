"""Runs of this project's commands, for the tools that measure them."""

import json
import pathlib
import subprocess
import sys

from tfnmt.errors import UserError


def run_command(name: str, *words: str) -> None:
    """Runs `tfnmt-NAME` of this environment in silence.

    Raises:
      UserError: it failed; the message ends with what it said.
    """
    program = pathlib.Path(sys.executable).with_name(f"tfnmt-{name}")
    ended = subprocess.run([program, *words], capture_output=True, text=True)
    if ended.returncode:
        raise UserError(f"tfnmt-{name} ended with code {ended.returncode}: {ended.stderr[-2000:]}")


def records(run: pathlib.Path, kind: str) -> list[dict]:
    """What a run directory's metrics hold of one kind, in order."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def train_for_speed(run: pathlib.Path, command: str, updates: int, *words: str) -> list[dict]:
    """Trains so many updates without evaluations: the log points, one an update, behind the first quarter."""
    limits = [f"--max_updates={updates}", "--log_every_updates=1", "--evaluate_every_updates=0"]
    run_command(command, f"--run_directory={run}", *limits, *words)
    points = records(run, "training")
    return points[len(points) // 4 :]


def tokens_per_second(points: list[dict]) -> float:
    """Target tokens a second between the first log point and the last."""
    first, last = points[0], points[-1]
    hours = last["training_hours"] - first["training_hours"]
    return (last["target_tokens"] - first["target_tokens"]) / hours / 3600
