"""Slack and rank order without any training."""

import pytest

from tfnmt.engines.pace import Pace
from tfnmt.engines.worker import Push


def push(worker):
    return Push(worker, 1, 1, 0, 1, (), None)


def arrive(pace, *workers):
    return [[each.worker for each in pace.arrive(push(worker))] for worker in workers]


def test_barrier_lets_pushes_through_in_rank_order():
    assert arrive(Pace(3, slack=0), 2, 0, 1) == [[], [0], [1, 2]]


def test_barrier_holds_everybody_until_all_have_pushed():
    pace = Pace(3, slack=0)
    assert all(pace.may_begin(worker) for worker in range(3))
    arrive(pace, 2, 0)
    assert [pace.may_begin(worker) for worker in range(3)] == [False, True, False]
    arrive(pace, 1)
    assert all(pace.may_begin(worker) for worker in range(3))


@pytest.mark.parametrize("slack, ahead", [(1, 2), (3, 4)])
def test_slack_bounds_how_far_the_fastest_may_be_ahead(slack, ahead):
    pace = Pace(2, slack)
    blocks = 0
    while pace.may_begin(0) and blocks < 10:
        arrive(pace, 0)
        blocks += 1
    assert blocks == ahead


def test_nobody_waits_without_a_limit():
    pace = Pace(2, None)
    assert arrive(pace, *[0] * 50) == [[0]] * 50
    assert pace.may_begin(0)
