"""The table of counters, and what is made of it by hand."""

import dataclasses
import math

import pytest

from tests.training.reports import pushed, report, totals_of
from tfnmt.training.log_points import COUNTERS, LogPoint, json_record, scalars, training_line
from tfnmt.training.totals import Totals


def _at(*pushes, reports=None, left=None, **changes) -> LogPoint:
    """A log point of one report, or of the `reports`."""
    reports = reports or [report(1, **changes)]
    return LogPoint(totals_of(reports), totals_of(reports), reports[-1], pushes, left)


def _values(at, *prefixes) -> dict[str, float]:
    return {point.tag: point.value for point in scalars(at) if point.tag.startswith(prefixes)}


def test_names_and_keys_stand_once():
    names = [counter.name for counter in COUNTERS]
    keys = [name.rpartition("/")[2] for name in names]
    assert len(set(names)) == len(names) and len(set(keys)) == len(keys)
    assert all(counter.meaning for counter in COUNTERS)
    assert all("/" in counter.name or counter.text for counter in COUNTERS)  # or nobody would see it


def test_values_of_three_pushes():
    pushes = [
        pushed(0, compute_seconds=2.0),
        pushed(1, staleness=2, seconds=6.0),
        pushed(1, refused="a duplicate", skipped_steps=3),
    ]
    assert _values(_at(*pushes), "workers") == {
        "workers/pushes_per_second": 3 / 2,
        "workers/refused_pushes_per_second": 1 / 2,
        "workers/dropped_pushes_per_second": 0,
        "workers/skipped_steps_per_second": 3 / 2,
        "workers/mean_staleness": 2 / 3,
        "workers/max_staleness": 2,
        "workers/bytes_pulled_per_second": 24 / 2,
        "workers/bytes_pushed_per_second": 12 / 2,
        "workers/compute_share": 0.2,
        "workers/reader_share": 0.0,
        "workers/pull_share": 0.0,
        "workers/push_share": 0.0,
        "workers/barrier_wait_share": 0.15,
        "workers/server_share": 0.0,
        "workers/other_share": pytest.approx(0.65),
        "workers_speed/target_tokens_per_second_of_0": 50.0,
        "workers_speed/target_tokens_per_second_of_1": 25.0,
    }


def test_what_is_dropped_is_refused_too():
    pushes = [pushed(0, refused="a duplicate"), pushed(1, refused="it was 3 updates old", dropped=True), pushed(2)]
    found = _values(_at(*pushes), "workers")
    assert found["workers/refused_pushes_per_second"] == 2 * found["workers/dropped_pushes_per_second"] > 0


def test_no_pushes_have_no_values():
    assert _values(_at(), "workers") == {}


def test_no_time_has_no_speed():
    found = _values(_at(pushed(0, seconds=0.0, wait_seconds=0.0), seconds=0.0), "workers")
    assert found == {"workers/mean_staleness": 0.0, "workers/max_staleness": 0}


def test_json_lines_keep_the_sums_of_which_curves_show_rates():
    found = json_record(_at(pushed(0), pushed(1)))
    assert (found["pushes"], found["bytes_pushed"], found["loss"]) == (2, 8, 3.0)
    assert not any(key.endswith("_bytes_pushed_per_second") or "/" in key for key in found)


def test_sums_are_divided_once():
    short = report(1, target_tokens=5, source_tokens=5, positions=20, seconds=1.0, gradient_norm=0.5)
    long = report(2, target_tokens=395, source_tokens=295, positions=700, seconds=9.0, gradient_norm=2.5)
    assert _values(_at(reports=[short, long]), "train_speed/", "train/gradient_norm") == {
        "train_speed/target_tokens_per_second": 40,
        "train_speed/source_tokens_per_second": 30,
        "train_speed/sentences_per_second": 2,
        "train_speed/padding_share": 20 / 720,
        "train_speed/data_wait_share": 0.1,
        "train_speed/data_wait_seconds": 1.0,
        "train/gradient_norm": 1.5,
    }


def test_the_log_line():
    facts = {"epoch": 2, "loss": 291.3, "cross_entropy": 241.6, "learning_rate": 0.00048, "gradient_norm": 0.82}
    at = _at(pushed(0, seconds=10.0, compute_seconds=9.0, push_seconds=0.6, wait_seconds=0.0), left=720.0, **facts)
    line = training_line(dataclasses.replace(at, totals=at.window + Totals(updates=1199)))
    assert line == (
        "update 1,200  epoch 3  loss 2.913  ppl 11.2  lr 0.00048  50 tokens/s  pushes 6.0%  grad 0.82  left 12 min"
    )
    assert _values(at, "train/loss", "train/perp") == pytest.approx(
        {"train/loss": 2.913, "train/perplexity": math.exp(2.416)}
    )


def test_the_log_line_under_a_virtual_clock():
    """It says so beside every time."""
    line = training_line(_at(left=720.0, is_virtual=True))
    assert "50 tokens/s (virtual)" in line and "left 12 min (virtual)" in line
