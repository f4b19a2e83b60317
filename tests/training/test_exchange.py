"""What is told of pushes, by hand."""

import pytest

from tests.training.reports import pushed
from tfnmt.training.exchange import exchange_values


def test_values_of_three_pushes():
    values = exchange_values(
        [
            pushed(0, compute_seconds=2.0),
            pushed(1, staleness=2, seconds=6.0),
            pushed(1, refused="a duplicate", skipped_steps=3),
        ]
    )
    assert values == {
        "exchange/pushes": 3,
        "exchange/refused_pushes": 1,
        "exchange/skipped_steps": 3,
        "exchange/mean_staleness": 2 / 3,
        "exchange/max_staleness": 2,
        "exchange/bytes_pulled": 24,
        "exchange/bytes_pushed": 12,
        "time/compute_share": 0.2,
        "time/reader_share": 0.0,
        "time/pull_share": 0.0,
        "time/push_share": 0.0,
        "time/barrier_wait_share": 0.15,
        "time/server_share": 0.0,
        "time/other_share": pytest.approx(0.65),
        "workers/target_tokens_per_second_of_0": 50.0,
        "workers/target_tokens_per_second_of_1": 25.0,
    }


def test_no_pushes_have_no_values():
    assert exchange_values([]) == {}


def test_no_time_has_no_speed():
    values = exchange_values([pushed(0, seconds=0.0, wait_seconds=0.0)])
    assert not any(name.startswith(("workers/", "time/")) for name in values)
