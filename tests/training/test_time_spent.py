"""Shares of the workers' time, the largest loss and its remedy, by hand."""

import pytest

from tests.training.reports import pushed
from tfnmt.strategies import ModelAverage, SummedAsync
from tfnmt.training.time_spent import TIME, loss_text, remedy_text, time_shares


def nothing_predicted(row):
    return None


SHARES = {
    "compute_share": 0.25,
    "reader_share": 0.05,
    "pull_share": 0.125,
    "push_share": 0.25,
    "barrier_wait_share": 0.125,
    "server_share": 0.1,
    "other_share": 0.1,
}
PARTS = {"compute_seconds": 5, "data_wait_seconds": 1, "pull_seconds": 2.5, "push_seconds": 5, "wait_seconds": 2.5}


def test_shares_are_of_all_workers_time():
    """Two pushes are summed and divided once."""
    parts = {name: seconds * 3 / 4 for name, seconds in PARTS.items()}
    rest = {name: seconds / 4 for name, seconds in PARTS.items()}
    pushes = [pushed(0, seconds=18.0, server_seconds=2, **parts), pushed(1, seconds=2.0, **rest)]
    assert time_shares(pushes) == pytest.approx(SHARES)


def test_shares_are_never_of_more_than_the_whole():
    """A push may be absorbed sooner behind the one before than its worker has computed."""
    shares = time_shares([pushed(0, seconds=1.0, compute_seconds=3.0, pull_seconds=1.0, wait_seconds=0.0)])
    assert (shares["compute_share"], shares["pull_share"], shares["other_share"]) == (0.75, 0.25, 0.0)


def test_no_time_has_no_shares():
    assert time_shares([]) == time_shares([pushed(0, seconds=0.0, wait_seconds=0.0)]) == {}
    assert loss_text({}) == remedy_text({}, nothing_predicted) == ""


def _shares(**seconds):
    """Of ten seconds, and of these of them."""
    return time_shares([pushed(0, **{"seconds": 10.0, "wait_seconds": 0.0, **seconds})])


@pytest.mark.parametrize("name", ["reader_share", "pull_share", "push_share", "barrier_wait_share", "server_share"])
def test_the_largest_loss_is_named(name):
    part = TIME[name]
    shares = _shares(**{"compute_seconds": 4.0, part.seconds: 4.0})
    assert loss_text(shares) == f"{part.words} 40.0%"
    assert (
        remedy_text(shares, nothing_predicted)
        == f"Workers compute for 40% of the time; {part.words}: 40%. {part.remedy}"
    )
    assert "--" in part.remedy


def test_what_no_engine_measures_is_a_loss_too():
    assert loss_text(_shares(compute_seconds=4.0, pull_seconds=2.0)) == "overhead 40.0%"


def test_nothing_is_to_be_done_where_half_of_the_time_is_computing():
    assert remedy_text(_shares(compute_seconds=5.0, push_seconds=5.0), lambda row: 2.0) == ""


def test_what_is_predicted_of_other_rows_is_told():
    """But of those that would be no faster, or cannot run here."""
    shares = _shares(wait_seconds=8.0)
    predicted = {SummedAsync: 1.04, ModelAverage: 2.06}
    text = remedy_text(shares, lambda row: predicted[type(row)])
    rest = "--strategy=model_average --blocks_by_speed 2.1 times the target tokens/s; tfnmt-plan says more."
    assert text.endswith(f"{TIME['barrier_wait_share'].remedy} Predicted: {rest}")
    predicted[SummedAsync] = 1.06
    text = remedy_text(shares, lambda row: predicted[type(row)])
    assert text.endswith(f" Predicted: --strategy=summed_async 1.1 times and {rest}")
    assert "Predicted" not in remedy_text(shares, nothing_predicted)
