"""Experiment trackers, with the real packages: what they keep of a run, of a resumed one, and of a failure."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.training.reports import evaluation, report, totals_of
from tfnmt.run_directory import RunDirectory
from tfnmt.settings import faults_of
from tfnmt.training import trackers
from tfnmt.training.monitoring import Monitor, MonitoringSettings
from tfnmt.training.stopping import EarlyStopping, StoppingSettings
from tfnmt.training.trackers import TRACKERS

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages, which this project does not mend


def _settings(*names: str) -> MonitoringSettings:
    return MonitoringSettings(log_every_updates=2, log_every_seconds=1e9, report_to=names)


@pytest.fixture(autouse=True)
def _of_no_user(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create_or_check(tmp_path / "run", MonitoringSettings())


def _train(run, settings, reports, before=(), evaluate_at=(), close=True):
    """One session, which goes on behind the reports of those `before`."""
    monitor = Monitor(run, settings, StoppingSettings())
    monitor.describe([settings, StoppingSettings()], {})
    for count, each in enumerate(reports, start=1):
        totals = totals_of([*before, *reports[:count]])
        monitor.record(each, totals)
        if each.update in evaluate_at:
            monitor.evaluated(evaluation(bleu=float(each.update)), totals, EarlyStopping(30.0, each.update))
    if close:
        monitor.close()


def _records(run) -> dict:
    return json.loads((run.path / trackers.FILE).read_bytes())


def test_mlflow_keeps_each_point_of_a_resumed_run_once(run):
    from mlflow import MlflowClient

    reports = [report(n, loss=100.0 * n) for n in range(1, 13)]
    _train(run, _settings("mlflow"), reports[:7], evaluate_at=(4,), close=False)  # killed; the checkpoint is of 4
    first = _records(run)["mlflow"]
    _train(run, _settings("mlflow"), reports[4:], reports[:4], evaluate_at=(8,))
    assert first["updates"] == {"train": 6, "eval": 4}
    client = MlflowClient((run.path / "mlruns").as_uri())
    (experiment,) = [each for each in client.search_experiments() if each.name == "tfnmt"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (first["run_id"], "run", "FINISHED")
    losses = [(point.step, point.value) for point in client.get_metric_history(first["run_id"], "train/loss")]
    assert losses == [(1, 1.0), (2, 2.0), (4, 3.5), (6, 5.5), (8, 7.5), (10, 9.5), (12, 11.5)]
    scores = [(point.step, point.value) for point in client.get_metric_history(first["run_id"], "eval/bleu")]
    assert scores == [(4, 4.0), (8, 8.0)]
    assert found.data.params["early_stopping_metric"] == "bleu"
    assert "log_every_updates" not in found.data.params  # it may change


def test_an_evaluation_at_the_update_of_a_log_point_is_told_after_a_kill(run):
    from mlflow import MlflowClient

    reports = [report(n) for n in range(1, 5)]
    _train(run, _settings("mlflow"), reports, close=False)  # killed behind the log point of 4, before the evaluation
    _train(run, _settings("mlflow"), reports[2:], reports[:2], evaluate_at=(4,))
    client, run_id = MlflowClient((run.path / "mlruns").as_uri()), _records(run)["mlflow"]["run_id"]
    assert [point.step for point in client.get_metric_history(run_id, "eval/bleu")] == [4]
    assert [point.step for point in client.get_metric_history(run_id, "train/loss")] == [1, 2, 4]


def test_a_damaged_file_of_ids_begins_new_runs(run):
    (run.path / trackers.FILE).write_text('{"mlf')
    _train(run, _settings("mlflow"), [report(1)])
    assert _records(run)["mlflow"]["updates"] == {"train": 1}


def test_wandb_is_offline_and_goes_on_under_one_id(run):
    reports = [report(n, loss=100.0 * n) for n in range(1, 7)]
    _train(run, _settings("wandb"), reports[:4])
    first = _records(run)["wandb"]
    _train(run, _settings("wandb"), reports[2:], reports[:2])
    assert _records(run)["wandb"] == {"run_id": first["run_id"], "updates": {"train": 6}}
    files = sorted((run.path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {path.name for path in files} == {f"run-{first['run_id']}.wandb"}
    content = b"".join(path.read_bytes() for path in files)
    assert b"train/loss" in content and b"early_stopping_metric" in content and b"log_every_updates" not in content


def test_a_package_that_is_missing_is_told_at_the_door(monkeypatch):
    assert set(TRACKERS) == set(trackers.PACKAGES)
    assert faults_of(_settings(*TRACKERS)) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wandb, mlflow = faults_of(_settings(*TRACKERS))
    assert wandb.startswith("--report_to=wandb: ") and wandb.endswith("-m pip install wandb")
    assert mlflow.startswith("--report_to=mlflow: ") and mlflow.endswith("-m pip install mlflow-skinny")
    assert faults_of(_settings()) == []


@pytest.mark.parametrize("fails_at", ["__init__", "scalars", "close"])
def test_training_outlives_its_trackers(run, monkeypatch, caplog, fails_at):
    told = []

    class Kept:
        run_id = "kept"

        def __init__(self, *_):
            pass

        def scalars(self, update, points):
            told.append((update, points["train/loss"]))

        def close(self):
            told.append("closed")

    def fail(*_):
        raise RuntimeError("no route to host")

    warnings = []
    monkeypatch.setattr(trackers.logging, "warning", lambda text, *words: warnings.append(text % words))
    monkeypatch.setitem(TRACKERS, "wandb", type("Failing", (Kept,), {fails_at: fail}))
    monkeypatch.setitem(TRACKERS, "mlflow", Kept)
    if fails_at == "close":
        monkeypatch.setattr(Kept, "scalars", lambda *_: None)
    _train(run, _settings("wandb", "mlflow"), [report(n) for n in range(1, 5)])
    assert [text for text in warnings if "--report_to=wandb: RuntimeError: no route to host" in text] == warnings
    assert len(warnings) == 1 and told[-1] == "closed"
    assert len(run.read_metrics()) == 3


def test_a_run_without_trackers_does_not_pay_for_them(run):
    code = (
        "import sys; import tfnmt.training.trackers\n"
        "assert not {'wandb', 'mlflow'} & sys.modules.keys()\n"
        "import mlflow\n"
        "assert 'mlflow' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    _train(run, _settings(), [report(1)])
    assert not (run.path / trackers.FILE).exists()
