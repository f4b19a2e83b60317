"""Slack and rank order without any training."""

import pytest

from tfnmt.engines.pace import Pace, Ready
from tfnmt.engines.worker import Push


def push(worker):
    return Push(worker, 1, 1, 0, 1, (), None)


def arrive(pace, *workers, absorbed=True):
    """Whose pushes may be absorbed behind each arrival; they are, at once, unless told otherwise."""
    found = []
    for worker in workers:
        ready = [each.push for each in pace.arrive(push(worker), now=0.0)]
        for each in ready if absorbed else ():
            pace.absorb(each)
        found.append([each.worker for each in ready])
    return found


def furthest(pace, worker, blocks=10):
    """How many blocks a worker can do while the others do none; each push is absorbed at once."""
    for done in range(blocks):
        if not pace.may_begin(worker):
            return done
        arrive(pace, worker)
    return blocks


def test_barrier_lets_pushes_through_in_rank_order():
    assert arrive(Pace(3, slack=0), 2, 0, 1) == [[], [0], [1, 2]]


def test_barrier_holds_everybody_until_all_have_pushed():
    pace = Pace(3, slack=0)
    assert all(pace.may_begin(worker) for worker in range(3))
    arrive(pace, 2, 0)
    assert [pace.may_begin(worker) for worker in range(3)] == [False, True, False]
    arrive(pace, 1)
    assert all(pace.may_begin(worker) for worker in range(3))


def test_barrier_holds_everybody_until_the_last_push_is_absorbed():
    pace = Pace(2, slack=0)
    pushes = [push(worker) for worker in range(2)]
    assert [list(pace.arrive(each, now=0.0)) for each in pushes] == [[Ready(each)] for each in pushes]
    pace.absorb(pushes[0])
    assert [pace.may_begin(worker) for worker in range(2)] == [False, False]
    pace.absorb(pushes[1])
    assert all(pace.may_begin(worker) for worker in range(2))


@pytest.mark.parametrize("slack", [1, 2, 5])
def test_slack_bounds_how_far_the_fastest_may_be_ahead(slack):
    pace = Pace(3, slack)
    assert furthest(pace, 0) == slack
    arrive(pace, 1)
    assert furthest(pace, 0) == 0  # the slowest counts, who is worker 2
    arrive(pace, 2)
    assert furthest(pace, 0) == 1


def test_nobody_waits_without_a_limit():
    pace = Pace(2, None)
    assert arrive(pace, *[0] * 50) == [[0]] * 50
    assert pace.may_begin(0)


@pytest.mark.parametrize("slack", [None, 2, 5])
def test_worker_of_a_free_row_computes_while_its_last_push_waits(slack):
    """One block, and no more: its payloads have two places."""
    pace = Pace(2, slack)
    arrive(pace, 1)
    for _ in range(pace.payloads):
        assert pace.may_begin(0)
        arrive(pace, 0, absorbed=False)
    assert not pace.may_begin(0)
    assert pace.may_begin(1)
    pace.absorb(push(0))
    assert pace.may_begin(0)


@pytest.mark.parametrize("workers, slack", [(1, None), (3, 0), (3, 1)])
def test_one_place_is_enough_where_a_worker_must_wait_for_its_own_push(workers, slack):
    pace = Pace(workers, slack)
    assert pace.payloads == 1
    arrive(pace, 0, absorbed=False)
    assert not pace.may_begin(0)
