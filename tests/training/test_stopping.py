"""Limits and early stopping, as tables."""

import dataclasses
import json
import math

import pytest

from tfnmt.settings import faults_of
from tfnmt.training.stopping import (
    HIGHER_IS_BETTER,
    EarlyStopping,
    StoppingSettings,
    describe_limits,
    limit_reached,
    seconds_left,
    share_done,
)
from tfnmt.training.totals import Totals

HALF = Totals(updates=50, epochs=1.5, target_tokens=5000, seconds=90.0)


@pytest.mark.parametrize(
    ("limits", "reason", "share", "left"),
    [
        ({}, None, None, None),
        ({"max_updates": 100}, None, 0.5, 90.0),
        ({"max_updates": 50}, "--max_updates=50 reached", 1.0, 0.0),
        ({"max_updates": 49}, "--max_updates=49 reached", 1.0, 0.0),
        ({"max_updates": 51}, None, 50 / 51, 1.8),
        ({"max_epochs": 2}, None, 0.75, 30.0),
        ({"max_epochs": 1}, "--max_epochs=1 reached", 1.0, 0.0),
        ({"max_tokens": 20000}, None, 0.25, 270.0),
        ({"max_tokens": 5000}, "--max_tokens=5,000 reached", 1.0, 0.0),
        ({"max_minutes": 3.0}, None, 0.5, 90.0),
        ({"max_minutes": 1.5}, "--max_minutes=1.5 reached", 1.0, 0.0),
        ({"max_updates": 100, "max_tokens": 20000, "max_minutes": 2.0}, None, 0.75, 30.0),
        ({"max_updates": 100, "max_minutes": 1.0}, "--max_minutes=1 reached", 1.0, 0.0),
    ],
)
def test_limits(limits, reason, share, left):
    settings = StoppingSettings(**limits)
    assert not faults_of(settings)
    assert limit_reached(settings, HALF) == reason
    assert share_done(settings, HALF) == pytest.approx(share)
    assert seconds_left(settings, HALF, Totals()) == pytest.approx(left)


def test_time_left_follows_the_speed_of_this_session():
    before = Totals(updates=40, seconds=80.0)  # since then, 10 updates took 10 s
    assert seconds_left(StoppingSettings(max_updates=100), HALF, before) == pytest.approx(50.0)


def test_no_time_left_before_anything_has_moved():
    assert seconds_left(StoppingSettings(max_updates=100), Totals(), Totals()) is None
    assert seconds_left(StoppingSettings(max_epochs=2), Totals(updates=3, seconds=3.0), Totals()) is None


def test_what_ends_the_run_is_said():
    settings = StoppingSettings(max_updates=10000, max_minutes=40.0, early_stopping_patience=5)
    text = "Training ends after 10,000 updates or 40 minutes or 5 evaluations without a better bleu."
    assert describe_limits(settings) == text
    assert "Ctrl-C" in describe_limits(StoppingSettings())


def test_negative_limits_are_refused():
    settings = StoppingSettings(max_updates=-1, max_minutes=-0.5, early_stopping_metric="rouge")
    assert len(faults_of(settings)) == 3


def _run(settings: StoppingSettings, values) -> list[EarlyStopping]:
    states, state = [], EarlyStopping()
    for evaluation, value in enumerate(values, start=1):
        # Through JSON each time: a checkpoint in between must change nothing.
        state = EarlyStopping(**json.loads(json.dumps(dataclasses.asdict(state)))).after(settings, value, evaluation)
        states.append(state)
    return states


@pytest.mark.parametrize(
    ("metric", "minimum", "values", "waited"),
    [
        ("bleu", 0.0, [1, 2, 3], [0, 0, 0]),
        ("bleu", 0.0, [3, 2, 3, 4], [0, 1, 2, 0]),
        ("bleu", 0.0, [0, 0, 0], [0, 1, 2]),
        ("bleu", 0.5, [3, 3.4, 3.5, 3.9, 4.0], [0, 1, 0, 1, 0]),
        ("bleu", 0.0, [1, math.nan, 2], [0, 1, 0]),
        ("bleu", 0.0, [math.nan, 1], [1, 0]),
        ("loss", 0.0, [3, 2, 2, 1], [0, 0, 1, 0]),
        ("loss", 0.25, [3, 2.9, 2.75], [0, 1, 0]),
        ("ter", 0.0, [60, 61, 59], [0, 1, 0]),
        ("chrf", 0.0, [60, 61, 59], [0, 0, 1]),
        ("cross_entropy", 0.0, [3, math.inf, 2], [0, 1, 0]),
    ],
)
def test_evaluations_without_improvement(metric, minimum, values, waited):
    settings = StoppingSettings(early_stopping_metric=metric, early_stopping_minimum=minimum)
    states = _run(settings, values)
    assert [state.evaluations_without_improvement for state in states] == waited


@pytest.mark.parametrize("metric", HIGHER_IS_BETTER)
def test_the_best_is_kept_with_its_update(metric):
    values = [2.0, 1.0, 3.0, 2.5]
    best = max(values) if HIGHER_IS_BETTER[metric] else min(values)
    last = _run(StoppingSettings(early_stopping_metric=metric), values)[-1]
    assert (last.best, last.best_update) == (best, values.index(best) + 1)


def test_patience():
    settings = StoppingSettings(early_stopping_patience=2)
    ends = [state.patience_ended(settings) for state in _run(settings, [10.0, 9.0, 8.0])]
    assert ends == [None, None, "no better bleu in 2 evaluations; the best is 10 at update 1"]
    assert _run(settings, [math.nan, math.nan])[-1].patience_ended(settings) == "no better bleu in 2 evaluations"


def test_no_patience_never_ends():
    settings = StoppingSettings()
    assert _run(settings, [5.0] * 100)[-1].patience_ended(settings) is None
    assert EarlyStopping().patience_ended(settings) is None


@pytest.mark.parametrize(
    ("metric", "target", "values", "ends"),
    [
        ("bleu", 20.0, [10, 20, 30], [False, True, True]),
        ("bleu", 20.0, [10, 21, 5], [False, True, True]),
        ("bleu", 0.0, [math.nan, 0], [False, True]),
        ("ter", 20.0, [30, 20.5, 19], [False, False, True]),
        ("bleu", None, [10, 100], [False, False]),
    ],
)
def test_the_target_ends_the_run(metric, target, values, ends):
    settings = StoppingSettings(early_stopping_metric=metric, early_stopping_target=target)
    assert [state.target_reached(settings) is not None for state in _run(settings, values)] == ends


def test_the_target_is_said():
    settings = StoppingSettings(early_stopping_target=20)
    assert describe_limits(settings) == "Training ends after a bleu of 20."
    assert _run(settings, [25.5])[-1].target_reached(settings) == "bleu 25.5 at update 1 reached 20"
