"""What the chief tells its tasks at the end."""

import pytest

from tfnmt.cluster import chief
from tfnmt.cluster.addresses import Cluster
from tfnmt.cluster.supervisor import DISMISSED
from tfnmt.errors import LostError


@pytest.fixture(name="told")
def _told(monkeypatch):
    """The codes with which tasks have been told to end; there are no tasks."""
    codes = []
    monkeypatch.setattr(chief, "wait_for_tasks", lambda cluster, command: None)
    monkeypatch.setattr(chief, "end_tasks", lambda cluster, code: codes.append(code))
    return codes


CLUSTER = Cluster("127.0.0.1:1", ("127.0.0.1:2",), ("127.0.0.1:3",))


def test_at_a_good_end_tasks_end_with_zero(told):
    with chief.tasks_of(CLUSTER):
        pass
    assert told == [0]


def test_tasks_of_a_chief_that_was_interrupted_end_as_it_does(told):
    with chief.tasks_of(CLUSTER) as end:
        end.code = 143
    assert told == [143]


def test_tasks_of_a_chief_that_fails_end_as_dismissed(told):
    """A code of its own: a launcher must not take them for dead ones."""
    with pytest.raises(LostError), chief.tasks_of(CLUSTER):
        raise LostError("worker 0 is silent")
    assert told == [DISMISSED]
