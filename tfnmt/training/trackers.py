"""Experiment trackers, which get every curve of TensorBoard's too: Weights & Biases and MLflow.

A tracker keeps what it is told, so it is told each update once: what a resumed run repeats is left out. The run
directory keeps the id under which a resumed run goes on, and the newest update that was told, by heading:

trackers.json   {tracker: {"run_id": id, "updates": {"train": number, "eval": number}}}

The packages are imported when training begins, and only those that `--report_to` names.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from absl import logging

from tfnmt.training.log_points import Scalar

FILE = "trackers.json"
PROJECT = "tfnmt"
"""The project of Weights & Biases, the experiment of MLflow, where the environment names no other."""

_PARAMETERS_AT_ONCE, _PARAMETER_LENGTH = 100, 6000  # MLflow's limits

Hyperparameters = Mapping[str, bool | int | float | str]


class Tracker(Protocol):
    """One run in one tracker. Any method may raise anything: `Trackers` is careful."""

    def __init__(self, directory: Path, run_id: str, hyperparameters: Hyperparameters | None):
        """Opens the run `run_id`; without an id a new one.

        Args:
          directory: the run directory, whose name is the run's.
          run_id: as `run_id` was in an earlier session; empty for a new run.
          hyperparameters: for a new run.
        """

    run_id: str

    def scalars(self, update: int, points: Mapping[str, float]) -> None:
        """Adds one point to each of these curves."""

    def close(self) -> None:
        """Says that the session has ended."""


class WeightsAndBiases:
    """A run of Weights & Biases in the run directory, which `wandb sync` uploads; WANDB_MODE=online does at once."""

    def __init__(self, directory: Path, run_id: str, hyperparameters: Hyperparameters | None):
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self.run_id = run_id or secrets.token_hex(8)
        self._run = wandb.init(
            dir=directory,
            id=self.run_id,
            name=directory.name,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            mode=mode,
            config=dict(hyperparameters or {}),
            resume=None if mode == "offline" else "allow",  # offline, sessions are joined when they are uploaded
            settings=wandb.Settings(console="off", silent=True),
        )

    def scalars(self, update: int, points: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(points), step=update)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class MLflow:
    """A run of MLflow, in a store of files in the run directory or where MLFLOW_TRACKING_URI says."""

    def __init__(self, directory: Path, run_id: str, hyperparameters: Hyperparameters | None):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else it asks for a database
        from mlflow import MlflowClient
        from mlflow.entities import Param

        store = os.environ.get("MLFLOW_TRACKING_URI") or (directory / "mlruns").absolute().as_uri()
        self._client = MlflowClient(store)
        if run_id:
            self._client.update_run(run_id, "RUNNING")
            self.run_id = run_id
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self.run_id = self._client.create_run(number, run_name=directory.name).info.run_id
        parameters = [Param(key, str(value)[:_PARAMETER_LENGTH]) for key, value in (hyperparameters or {}).items()]
        for start in range(0, len(parameters), _PARAMETERS_AT_ONCE):
            self._client.log_batch(self.run_id, params=parameters[start : start + _PARAMETERS_AT_ONCE])

    def scalars(self, update: int, points: Mapping[str, float]) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self._client.log_batch(self.run_id, [Metric(tag, value, now, update) for tag, value in points.items()])

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self.run_id)


TRACKERS: dict[str, type[Tracker]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}
"""Value of `--report_to`, which is the module's name -> the tracker."""

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}
"""Value of `--report_to` -> the package that brings the module."""


def faults_of_trackers(names: Sequence[str]) -> list[str]:
    """The trackers whose packages are not installed."""
    return [
        f"--report_to={name}: its package is not installed; {sys.executable} -m pip install {PACKAGES[name]}"
        for name in names
        if name in PACKAGES and importlib.util.find_spec(name) is None
    ]


class Trackers:
    """All the trackers of a session. One that fails is left out from then on, and training goes on."""

    def __init__(self, names: Sequence[str], directory: Path, hyperparameters: Hyperparameters):
        """Opens a new run in each, or the one that an earlier session has opened."""
        self._file = directory / FILE
        self._records: dict[str, dict[str, Any]] = {}
        if names and self._file.exists():
            with contextlib.suppress(ValueError):  # a damaged file means new runs
                self._records = json.loads(self._file.read_bytes())
        self._told = {name: dict(record["updates"]) for name, record in self._records.items()}  # in earlier sessions
        self._open: dict[str, Tracker] = {}
        for name in names:
            run_id = self._records.get(name, {}).get("run_id", "")
            try:
                tracker = TRACKERS[name](directory, run_id, None if run_id else hyperparameters)
            except Exception as error:
                _warn(name, error)
                continue
            self._open[name] = tracker
            self._records.setdefault(name, {"run_id": tracker.run_id, "updates": {}})
        self._record()

    def scalars(self, update: int, points: Sequence[Scalar]) -> None:
        """Adds one point to each of these curves, but for updates of which an earlier session has told.

        A log point and an evaluation may come at one update: each has its own heading, that of the first curve.
        """
        heading = points[0].tag.partition("/")[0]
        values = {point.tag: float(point.value) for point in points}
        self._each(lambda name, tracker: self._tell(name, tracker, heading, update, values))
        self._record()

    def close(self) -> None:
        """Says that the session has ended."""
        self._each(lambda _, tracker: tracker.close())
        self._open = {}

    def _tell(self, name: str, tracker: Tracker, heading: str, update: int, values: Mapping[str, float]) -> None:
        if update > self._told.get(name, {}).get(heading, -1):
            tracker.scalars(update, values)
            self._records[name]["updates"][heading] = update

    def _each(self, act: Callable[[str, Tracker], object]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                act(name, tracker)
            except Exception as error:
                _warn(name, error)
                del self._open[name]

    def _record(self) -> None:
        if self._open:
            aside = self._file.with_name(f".{FILE}.writing")
            aside.write_text(json.dumps(self._records))
            aside.replace(self._file)


def _warn(name: str, error: Exception) -> None:
    logging.warning("--report_to=%s: %s: %s; training goes on without.", name, type(error).__name__, error)
