"""The training loop around the local engine: exact resume, limits, early stopping, what is saved."""

import dataclasses
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import local
from tests.training.reports import pushed, report
from tfnmt.checkpoints import Checkpoint, CheckpointStore, SaveError
from tfnmt.errors import UserError
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import ModelAverage
from tfnmt.training.stopping import HIGHER_IS_BETTER, StoppingSettings
from tfnmt.training.trainer import SavingSettings, Trainer

SAVING = SavingSettings(max_nonfinite=3)


class Listener:
    """A monitor that keeps what it hears."""

    def __init__(self):
        self.updates, self.evaluations, self.closed = [], [], False

    def record(self, report, totals):
        self.updates.append(report.update)

    def evaluated(self, evaluation, totals, early_stopping):
        self.evaluations.append((totals.updates, *evaluation.metrics().values()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


class ScriptedValidation:
    """Gives the values of a list for a metric, one at each evaluation, and keeps the vectors that it saw."""

    def __init__(self, scores, metric):
        self._scores, self._metric, self.vectors = list(scores), metric, []

    def evaluate(self, vector):
        self.vectors.append(vector.numpy())
        score = self._scores[len(self.vectors) - 1]
        return SimpleNamespace(metrics=lambda: {self._metric: score})


class PoisonedModel(toy.ToyModel):
    """Its loss is never a number."""

    def loss(self, views, batch, seed=None):
        sums = super().loss(views, batch, seed)
        return sums._replace(loss=sums.loss * np.nan)


def build(
    directory,
    *,
    row=None,
    scores=(),
    every=0,
    model=None,
    average_rate=0.0,
    schedule=None,
    saving=SAVING,
    clock=time.monotonic,
    **limits,
):
    stopping = StoppingSettings(**limits)
    schedule = schedule or ScheduleSettings(learning_rate=0.1, warmup_updates=2)
    engine = local(
        toy.make_batches(60, epoch_length=7),
        row,
        model=model or toy.ToyModel(dropout=0.2),
        optimizer="adam",
        schedule=schedule,
        average_rate=average_rate,
        dtype=tf.float32,
    )
    store, monitor = CheckpointStore(directory), Listener()
    validation = ScriptedValidation(scores, stopping.early_stopping_metric)
    trainer = Trainer(
        engine,
        toy.layout(),
        store,
        monitor,
        validation,
        stopping=stopping,
        schedule=schedule,
        saving=saving,
        evaluate_every_updates=every,
        clock=clock,
    )
    return trainer, store, monitor, validation


def saved(store):
    """The newest checkpoint without what depends on the clock."""
    checkpoint = store.load()
    for name in ("seconds", "data_wait_seconds"):
        checkpoint.progress["trainer"]["totals"][name] = 0.0
    return checkpoint


@pytest.mark.parametrize(
    "average_rate, row",
    [
        (0.0, None),
        (0.01, None),
        (0.0, ModelAverage(local_steps=2)),
        (0.0, ModelAverage(local_steps=2, local_slots="average")),
    ],
)
def test_interrupted_run_equals_one_that_was_not(tmp_path, average_rate, row):
    """I1, through the files: parameters, slots, average, reader, dropout, totals and best-so-far."""
    scores, options = [3.0, 5.0, 4.0, 6.0], {"every": 4, "average_rate": average_rate, "row": row}
    through, whole, *_ = build(tmp_path / "a", scores=scores, max_updates=16, **options)
    through.train()
    first, *_ = build(tmp_path / "b", scores=scores[:2], max_updates=8, **options)
    first.train()
    second, parts, *_ = build(tmp_path / "b", scores=scores[2:], max_updates=16, **options)
    assert second.resume(workers=1)
    second.train()
    one, other = saved(whole), saved(parts)
    assert one.progress == other.progress
    assert one.state.keys() == other.state.keys()
    for arrays, others in [(one.parameters, other.parameters), *((one.state[n], other.state[n]) for n in one.state)]:
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)
    assert (whole.newest, whole.ranking()) == (parts.newest, parts.ranking())


def test_a_signal_at_an_evaluation_puts_it_off(tmp_path, caplog):
    scores, schedule = [5.0, 4.0, 4.5, 4.0], ScheduleSettings(learning_rate=0.1, schedule="plateau", plateau_patience=1)
    through, whole, heard, _ = build(tmp_path / "a", scores=scores, every=4, schedule=schedule, max_updates=16)
    through.train()
    first, _, ended, _ = build(tmp_path / "b", scores=scores[:1], every=4, schedule=schedule, max_updates=16)

    def record(report, _):
        if report.update == 8:
            signal.raise_signal(signal.SIGTERM)
            while not any("training saves after this update" in line for line in caplog.messages):
                time.sleep(0.01)  # a thread reads the signal

    ended.record = record
    assert first.train() == 128 + signal.SIGTERM
    second, parts, resumed, _ = build(tmp_path / "b", scores=scores[1:], every=4, schedule=schedule, max_updates=16)
    second.resume(workers=1)
    second.train()
    assert ended.evaluations + resumed.evaluations == heard.evaluations
    assert [update for update, _ in resumed.evaluations] == [8, 12, 16]
    assert saved(whole).progress == saved(parts).progress
    np.testing.assert_array_equal(saved(whole).parameters["bias"], saved(parts).parameters["bias"])


def test_a_run_that_starts_afresh_would_differ(tmp_path):
    """The negative control: eight updates are not sixteen."""
    through, whole, *_ = build(tmp_path / "a", max_updates=16)
    through.train()
    half, part, *_ = build(tmp_path / "b", max_updates=8)
    half.train()
    assert not np.array_equal(saved(whole).parameters["bias"], saved(part).parameters["bias"])


@pytest.mark.parametrize(("workers", "breaks_off"), [(1, False), (2, True)])
def test_another_number_of_workers_breaks_the_epoch_off(tmp_path, workers, breaks_off):
    first, *_ = build(tmp_path, max_updates=3)
    first.train()
    again, store, *_ = build(tmp_path, max_updates=5)
    again.resume(workers=workers)
    again.train()
    assert saved(store).progress["trainer"]["meter"]["breaks_off"] == breaks_off


def test_ranks_that_change_twice_between_two_saves_break_two_epochs_off(tmp_path):
    """An epoch has 40 sentences, four reports; the ranks are three, two and one."""
    trainer, store, *_ = build(tmp_path, max_updates=6)
    ranks_and_epochs = [(3, 0)] * 4 + [(3, 1), (2, 2)]
    reports = [
        report(update, epoch=epoch, pushes=tuple(map(pushed, range(ranks))))
        for update, (ranks, epoch) in enumerate(ranks_and_epochs, 1)
    ]
    state = trainer._engine.state()
    counters = {**state.counters, "workers": state.counters["workers"] * 2}
    trainer.resume(workers=1, live=dataclasses.replace(state, counters=counters, reports=tuple(reports)))
    trainer.train()
    progress = saved(store).progress["trainer"]
    assert (progress["totals"]["epochs"], progress["meter"]["length"]) == (1.5, 40)
    assert progress["meter"]["breaks_off"]


def test_nothing_to_resume(tmp_path):
    trainer, *_ = build(tmp_path, max_updates=1)
    assert not trainer.resume(workers=1)


def test_averaged_parameters_cannot_be_trained_on(tmp_path):
    trainer, store, *_ = build(tmp_path, max_updates=2)
    trainer.train()
    store.save(Checkpoint(3, store.load().parameters, {}, {"averaged_updates": [1, 2]}))
    again, *_ = build(tmp_path, max_updates=2)
    with pytest.raises(UserError, match="tfnmt-average"):
        again.resume(workers=1)


def test_what_was_evaluated_is_what_was_saved(tmp_path):
    trainer, store, _, validation = build(tmp_path, scores=[2.0, 1.0], every=3, max_updates=6, average_rate=0.1)
    trainer.train()
    np.testing.assert_array_equal(toy.layout().pack_arrays(store.load("best").parameters), validation.vectors[0])
    np.testing.assert_array_equal(toy.layout().pack_arrays(store.load().parameters), validation.vectors[1])
    assert "parameters" in store.load().state


def test_the_end_is_evaluated_too(tmp_path):
    trainer, store, monitor, _ = build(tmp_path, scores=[2.0, 7.0], every=3, max_updates=5)
    assert trainer.train() == 0
    assert monitor.updates == [1, 2, 3, 4, 5]
    assert monitor.evaluations == [(3, 2.0), (5, 7.0)]
    assert monitor.closed
    assert (store.newest, store.ranking()[0]) == (5, 5)


def test_early_stopping(tmp_path):
    trainer, store, monitor, _ = build(
        tmp_path, scores=[5.0, 4.0, 3.0, 9.0], every=2, max_updates=20, early_stopping_patience=2
    )
    trainer.train()
    assert [update for update, _ in monitor.evaluations] == [2, 4, 6]
    assert store.ranking()[0] == 2


@pytest.mark.parametrize("metric", HIGHER_IS_BETTER)
def test_the_best_is_kept_and_patience_ends_by_any_metric(tmp_path, metric):
    values = [30.0, 40.0, 20.0, 10.0] if HIGHER_IS_BETTER[metric] else [30.0, 20.0, 40.0, 50.0]
    limits = {"max_updates": 20, "early_stopping_patience": 2, "early_stopping_metric": metric}
    trainer, store, monitor, _ = build(tmp_path, scores=values, every=2, **limits)
    trainer.train()
    assert monitor.evaluations == [(2, values[0]), (4, values[1]), (6, values[2]), (8, values[3])]
    assert store.ranking() == [4, 6, 8]
    found = store.load().progress["trainer"]["early_stopping"]
    assert found == {"best": values[1], "best_update": 4, "evaluations_without_improvement": 2}


def test_the_run_is_saved_by_the_clock(tmp_path, monkeypatch):
    """Each update takes 20 s; an evaluation saves too, and the minute begins anew behind it."""
    now, saved_at = [1000.0], []
    saving = SavingSettings(save_every_minutes=1.0)
    limits = {"scores": [1.0, 1.0], "every": 5, "max_updates": 9, "saving": saving, "clock": lambda: now[0]}
    trainer, store, monitor, _ = build(tmp_path, **limits)
    save, record = store.save, monitor.record

    def saves(checkpoint, metric=None):
        saved_at.append((checkpoint.update, metric))
        save(checkpoint, metric)

    def records(report, totals):
        now[0] += 20.0
        record(report, totals)

    monkeypatch.setattr(store, "save", saves)
    monkeypatch.setattr(monitor, "record", records)
    trainer.train()
    assert saved_at == [(3, None), (5, 1.0), (8, None), (9, 1.0)]


def test_what_was_read_is_counted(tmp_path):
    batches = toy.make_batches(60, epoch_length=7)[:3]
    trainer, store, *_ = build(tmp_path, max_updates=3)
    trainer.train()
    totals, sides = store.load().progress["trainer"]["totals"], ("source_ids", "target_ids")
    tokens = [sum(int((getattr(batch, side).numpy() != 0).sum()) for batch in batches) for side in sides]
    assert [totals["source_tokens"], totals["target_tokens"]] == tokens and tokens[0] != tokens[1]
    assert totals["positions"] == sum(getattr(batch, side).numpy().size for batch in batches for side in sides)
    assert totals["positions"] > sum(tokens)
    assert totals["sentences"] == sum(len(batch.source_ids) for batch in batches)


def test_the_target_ends_the_run_and_those_that_resume_it(tmp_path):
    limits = {"every": 2, "max_updates": 20, "early_stopping_target": 4.0}
    trainer, _, monitor, _ = build(tmp_path, scores=[3.0, 5.0], **limits)
    trainer.train()
    assert monitor.evaluations == [(2, 3.0), (4, 5.0)]
    again, _, monitor, _ = build(tmp_path, **limits)
    again.resume(workers=1)
    assert again.train() == 0
    assert monitor.updates == []


def test_epochs_end_the_run(tmp_path):
    trainer, _, monitor, _ = build(tmp_path, max_epochs=2)
    trainer.train()
    assert monitor.updates[-1] in (14, 15)


def test_a_finished_run_does_nothing_more(tmp_path):
    trainer, *_ = build(tmp_path, scores=[1.0], every=2, max_updates=2)
    trainer.train()
    again, _, monitor, _ = build(tmp_path, every=2, max_updates=2)
    again.resume(workers=1)
    assert again.train() == 0
    assert monitor.updates == [] and monitor.evaluations == []


def test_plateau_lowers_the_learning_rate(tmp_path):
    schedule = ScheduleSettings(learning_rate=0.1, warmup_updates=1, schedule="plateau", plateau_patience=2)
    trainer, store, *_ = build(tmp_path, scores=[5, 4, 4, 4, 4], every=1, max_updates=5, schedule=schedule)
    trainer.train()
    assert store.load().progress["engine"]["plateau_scale"] == 0.25


def test_too_many_updates_that_are_not_finite(tmp_path):
    trainer, store, monitor, _ = build(tmp_path, model=PoisonedModel(), max_updates=10)
    with pytest.raises(UserError, match=r"--max_nonfinite=3.*gradient of \w+ was not finite at step 3.*learning_rate"):
        trainer.train()
    assert monitor.updates == [0, 0, 0]
    assert np.isfinite(trainer._engine.state().vectors["parameters"]).all()
    assert store.updates() == []


def test_a_full_disk_ends_only_the_last_save(tmp_path, monkeypatch):
    trainer, store, monitor, _ = build(tmp_path, scores=[1.0, 2.0, 3.0], every=2, max_updates=5)
    save = store.save

    def fail(checkpoint, metric=None):
        if checkpoint.update > 2:
            raise SaveError("no room")
        save(checkpoint, metric)

    monkeypatch.setattr(store, "save", fail)
    with pytest.raises(SaveError):
        trainer.train()
    assert monitor.updates == [1, 2, 3, 4, 5]
    assert store.newest == 2
