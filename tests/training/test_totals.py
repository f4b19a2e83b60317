"""Sums over reports, against numbers made by hand."""

import dataclasses
import json
import math

import pytest

from tests.training.reports import report, totals_of
from tfnmt.training.run_state import RunState
from tfnmt.training.totals import EpochMeter, Totals

SHORT = report(1, loss=10.0, cross_entropy=5.0, target_tokens=5, source_tokens=5, positions=20, seconds=1.0)
LONG = report(2, loss=400.0, cross_entropy=300.0, target_tokens=395, source_tokens=295, positions=700, seconds=9.0)


def test_sums_are_divided_once():
    totals = totals_of([SHORT, LONG])
    assert totals.loss_per_token == 410 / 400
    assert totals.cross_entropy_per_token == 305 / 400
    assert totals.perplexity == math.exp(305 / 400)
    assert totals.target_tokens_per_second == 40
    assert totals.padding == 20


def test_a_mean_of_means_would_be_noticed():
    each = [totals_of([one]) for one in (SHORT, LONG)]
    both = totals_of([SHORT, LONG])
    for name in ("loss_per_token", "cross_entropy_per_token", "target_tokens_per_second"):
        mean_of_means = sum(getattr(one, name) for one in each) / 2
        assert mean_of_means != pytest.approx(getattr(both, name), rel=0.05), name


def test_a_difference_is_the_sum_of_the_reports_between():
    reports = [report(n, loss=float(n**3), target_tokens=n, seconds=0.5 * n) for n in range(1, 9)]
    between = totals_of(reports) - totals_of(reports[:3])
    assert between == totals_of(reports[3:])


def test_a_skipped_update_adds_time_and_no_loss():
    nan = math.nan
    skipped = report(1, loss=nan, cross_entropy=nan, gradient_norm=nan, skipped="step 7, embedding")
    totals = totals_of([SHORT, skipped])
    assert dataclasses.replace(totals, skipped=0, seconds=1.0, data_wait_seconds=0.5) == totals_of([SHORT])
    assert (totals.skipped, totals.updates, totals.seconds) == (1, 1, 3.0)


def test_json_and_back_is_exact():
    totals = totals_of([report(n, loss=n / 3, seconds=n / 7) for n in range(1, 50)])
    assert Totals(**json.loads(json.dumps(dataclasses.asdict(totals)))) == totals


def test_nothing_gives_no_number_rather_than_an_error():
    assert math.isnan(Totals().loss_per_token)


def test_perplexity_of_a_hopeless_model_is_finite():
    assert math.isfinite(totals_of([report(1, cross_entropy=1e9)]).perplexity)


def test_the_length_of_an_epoch_is_measured():
    meter = EpochMeter()
    assert meter.epochs(50) == 0  # nobody knows yet
    meter = meter.at(1, 200)
    assert meter.epochs(200) == 1 and meter.epochs(250) == 1.25
    assert meter.at(1, 250) == meter
    meter = meter.at(2, 410)
    assert meter.epochs(410) == 2 and meter.epochs(410 + 105) == 2.5
    assert meter.epochs(10000) == 3  # never more than the epoch that is being read
    assert EpochMeter(**json.loads(json.dumps(dataclasses.asdict(meter)))) == meter


def _epochs(state: RunState, epochs) -> tuple[RunState, list[float]]:
    """The state behind a report of 10 sentences in each of the `epochs`, and the epochs read behind each of them."""
    counted = []
    for epoch in epochs:
        state = state.after(report(state.totals.updates + 1, epoch=epoch))
        state = RunState.from_json(json.loads(json.dumps(state.to_json())))
        counted.append(state.totals.epochs)
    return state, counted


def test_an_epoch_that_other_workers_break_off_counts_as_far_as_it_was_read():
    """An epoch has 40 sentences, four reports."""
    state, _ = _epochs(RunState.beginning(), [0, 0, 0, 0, 1])
    state, counted = _epochs(state.with_other_workers(), [2, 2, 2, 2, 3, 3])
    assert counted == [1.5, 1.75, 2.0, 2.25, 2.5, 2.75]
    assert _epochs(state.with_other_workers(), [4, 4])[1] == [3.0, 3.25]


def test_a_first_epoch_that_is_broken_off_is_not_taken_for_a_whole_one():
    state, counted = _epochs(RunState.beginning(), [0, 0])
    state, more = _epochs(state.with_other_workers(), [1, 1, 1, 1, 2, 2])
    assert counted + more == [0, 0, 0, 0, 0, 0, 1.75, 2.0]


def test_other_workers_from_the_beginning_break_nothing_off():
    _, counted = _epochs(RunState.beginning().with_other_workers(), [0, 0, 1, 1])
    assert counted == [0, 0, 1.5, 2.0]


def test_a_meter_of_an_earlier_version_is_read():
    assert EpochMeter(epoch=2, began_at=80, length=40.0).epochs(90) == 2.25
