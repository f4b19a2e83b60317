"""The chief waits for its tasks aloud and not for ever, be they absent or silent."""

import itertools

import pytest

from tfnmt.cluster import rendezvous
from tfnmt.cluster.addresses import Cluster
from tfnmt.errors import LostError, UserError

CLUSTER = Cluster("127.0.0.1:1", ("127.0.0.1:2",), ("127.0.0.1:3",), rendezvous_timeout=30.0)


def wait(monkeypatch, listening):
    """Waits for tasks none of which answers; the clock goes on by a second whenever somebody looks at it."""
    monkeypatch.setattr(rendezvous, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(rendezvous, "answers", lambda address: False)
    monkeypatch.setattr(rendezvous, "is_listening", lambda address: address in listening)
    clock = itertools.count().__next__
    rendezvous.wait_for_tasks(CLUSTER, lambda job, number: f"start {job} {number}", clock)


def test_absent_task_is_named_with_the_command_that_starts_it(monkeypatch):
    with pytest.raises(UserError) as found:
        wait(monkeypatch, listening=CLUSTER.workers)
    assert not isinstance(found.value, LostError)
    assert "ps 0 at 127.0.0.1:3 has not come for" in str(found.value)
    assert "Start it there with: start ps 0" in str(found.value)
    assert "worker 0" not in str(found.value)


def test_tasks_that_are_there_and_silent_are_lost(monkeypatch, caplog):
    """To start the job again may help: a launcher does."""
    with pytest.raises(LostError, match=r"worker 0 at \S+ accepts connections but has not answered for 3\d s"):
        wait(monkeypatch, listening=(*CLUSTER.workers, *CLUSTER.servers))
    said = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(" for ")[0] for line in said] == [
        "Waiting for ps 0 at 127.0.0.1:3, worker 0 at 127.0.0.1:2"
    ] * 2
