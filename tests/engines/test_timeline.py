"""Events and transfers in order, without training."""

from tfnmt.engines.links import PULL, Links
from tfnmt.engines.timeline import Event, Timeline, Transfer


def timeline():
    """Worker 0 pulls 1 byte at 1 byte per second; two events of worker 1 are known, the later one first."""
    found = Timeline(Links(3, 1, 1.0))
    found.begin(0.0, Transfer(0, "pulled", PULL, [1.0]))
    found.add(Event(3.0, 1, "late"))
    found.add(Event(0.5, 1, "early"))
    return found


def test_events_come_in_the_order_of_time_and_transfers_among_them():
    found = timeline()
    events = iter(found.next, None)
    assert [*events] == [(0.5, 1, "early"), (1.0, 0, "pulled"), (3.0, 1, "late")]


def test_transfer_that_begins_moves_the_end_of_another():
    found = timeline()
    assert found.next() == (0.5, 1, "early")
    found.begin(0.5, Transfer(2, "pulled", PULL, [1.0]))
    assert [*iter(found.next, None)] == [(1.5, 0, "pulled"), (2.0, 2, "pulled"), (3.0, 1, "late")]


def test_at_one_time_what_has_been_known_for_longer_comes_first():
    found = Timeline(Links(3, 1, 1.0))
    for worker in (2, 0, 1):
        found.add(Event(1.0, worker, "done"))
    assert [event.worker for event in iter(found.next, None)] == [2, 0, 1]


def test_a_worker_s_own_events_can_be_taken_out_of_order():
    found = timeline()
    assert found.next_of(0) == (1.0, 0, "pulled")
    assert found.next_of(0) is None
    assert found.next_of(1) == (0.5, 1, "early")


def test_what_is_left_is_in_order_when_one_has_been_taken_out():
    found = Timeline(Links(8, 1, 1.0))
    for seconds, worker in ((1.0, 0), (5.0, 1), (2.0, 2), (6.0, 3), (7.0, 4), (3.0, 5), (4.0, 6)):
        found.add(Event(seconds, worker, "done"))
    assert found.next_of(0) == (1.0, 0, "done")
    assert [event.worker for event in iter(found.next, None)] == [2, 5, 6, 1, 3, 4]


def test_what_ends_meanwhile_keeps_its_time():
    found = timeline()
    assert found.next_of(1) == (0.5, 1, "early")
    assert found.next_of(1) == (3.0, 1, "late")
    assert found.next_of(0) == (1.0, 0, "pulled")


def test_what_a_worker_does_at_once_comes_before_what_is_due_at_that_time():
    found = Timeline(Links(3, 1, 1.0))
    for worker in (1, 0):
        found.add(Event(1.0, worker, "pushed"))
    assert found.next() == (1.0, 1, "pushed")
    found.add(Event(1.0, 1, "absorbed"))
    assert [*iter(found.next, None)] == [(1.0, 1, "absorbed"), (1.0, 0, "pushed")]
