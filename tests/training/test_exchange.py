"""What is told of pushes, by hand."""

from tfnmt.engines.report import PushReport
from tfnmt.training.exchange import exchange_values


def push(worker, **changed):
    facts = {"staleness": 0, "target_tokens": 100, "seconds": 2.0, "wait_seconds": 0.5, "bytes_pulled": 8}
    return PushReport(worker=worker, bytes_pushed=4, **{**facts, **changed})


def test_values_of_three_pushes():
    values = exchange_values(
        [push(0), push(1, staleness=2, seconds=6.0), push(1, refused="a duplicate", skipped_steps=3)]
    )
    assert values == {
        "exchange/pushes": 3,
        "exchange/refused_pushes": 1,
        "exchange/skipped_steps": 3,
        "exchange/mean_staleness": 2 / 3,
        "exchange/max_staleness": 2,
        "exchange/bytes_pulled": 24,
        "exchange/bytes_pushed": 12,
        "exchange/barrier_wait_share": 0.15,
        "workers/target_tokens_per_second_of_0": 50.0,
        "workers/target_tokens_per_second_of_1": 25.0,
    }


def test_no_pushes_have_no_values():
    assert exchange_values([]) == {}


def test_no_time_has_no_speed():
    values = exchange_values([push(0, seconds=0.0)])
    assert values["exchange/barrier_wait_share"] == 0.0
    assert not any(name.startswith("workers/") for name in values)
