"""Silent tasks are found, named and, past the timeout, the end of training."""

import json
import math
import socket
import subprocess
import sys
import threading
import time

import pytest

from tfnmt.cluster import stall_watch, tasks
from tfnmt.cluster.addresses import Cluster
from tfnmt.cluster.probes import answers, is_listening
from tfnmt.cluster.stall_guard import CHIEF_ITSELF, culprit
from tfnmt.cluster.stall_watch import StallWatch
from tfnmt.errors import LostError, UserError


@pytest.fixture(name="silent")
def _silent():
    """The address of somebody who accepts connections and says nothing, as a stopped process does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(name="alive")
def _alive():
    """The address of somebody who greets back."""

    def greet(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(100)
                connection.sendall(b"\0\0\0\4\0\0\0\0\0")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, args=(listener,), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_silence_is_told_from_life_and_absence(silent, alive):
    assert [answers(address, 0.5) for address in (silent, alive, "127.0.0.1:1")] == [False, True, False]
    assert [is_listening(address) for address in (silent, alive, "127.0.0.1:1")] == [True, True, False]


def test_long_blocks_are_told_of_every_ten_seconds_and_end_at_the_timeout(silent, alive, caplog):
    cluster = Cluster("", (alive, alive), (silent,))
    busy = []
    watch = StallWatch(60.0, lambda: busy, lambda worker: culprit(cluster, worker))
    said = []
    for seconds in (1, 9, 11, 15, 22, 59):
        busy[:] = [(1, float(seconds), 1.0)]
        caplog.clear()
        assert watch.look() is None
        said.append([record.getMessage() for record in caplog.records])
    assert [len(lines) for lines in said] == [0, 0, 1, 0, 1, 1]
    assert said[2] == [f"Waiting for ps 0 at {silent} for 11 s."]
    busy[:] = [(1, 61.0, 1.0)]
    error = watch.look()
    assert isinstance(error, LostError)
    assert str(error).startswith(f"ps 0 at {silent} has not answered for 61 s (--stall_timeout=60)")


def test_who_waits_for_something_else_is_not_silent(monkeypatch):
    """A pipe, say; the time counts from when it brings something."""
    now, excused = [1000.0], [True]
    monkeypatch.setattr(stall_watch.time, "monotonic", lambda: now[0])
    watch = StallWatch(60.0, lambda: [(1, now[0], 1.0)], str, is_excused=lambda: excused[0])
    assert watch.look() is None
    excused[0], now[0] = False, 1059.0
    assert watch.look() is None
    now[0] = 1061.0
    assert isinstance(watch.look(), LostError)


def test_nobody_is_named_without_whom_training_goes_on(monkeypatch, caplog):
    """Not even one that answers and does nothing; once training needs it, its time counts from then."""
    now, spared, asked = [1000.0], [True], []
    monkeypatch.setattr(stall_watch.time, "monotonic", lambda: now[0])

    def goes_on_without(worker, seconds):
        asked.append(seconds)
        return spared[0] and (worker == 1 or seconds == math.inf)

    watch = StallWatch(60.0, lambda: [(1, now[0], 1.0)], str, goes_on_without=goes_on_without)
    answering = StallWatch(60.0, lambda: [(0, now[0], 1.0)], str, goes_on_without=goes_on_without)
    assert (watch.look(), answering.look()) == (None, None)
    assert asked[-1] == math.inf
    assert not caplog.records
    spared[0], now[0] = False, 1059.0
    assert watch.look() is None
    now[0] = 1061.0
    assert isinstance(watch.look(), LostError)


@pytest.mark.parametrize("longest", [1.0, 6.0, 12.0])
def test_nothing_ends_unannounced(longest, caplog):
    """However long blocks take beside the timeout."""
    busy = []
    watch = StallWatch(15.0, lambda: busy, str)
    for half_seconds in range(100):
        busy[:] = [(0, half_seconds / 2, longest)]
        if watch.look():
            break
    assert half_seconds / 2 > max(15.0, 2 * longest) - 0.5
    assert "Waiting for 0 for" in caplog.text


@pytest.mark.parametrize("is_alive, longest, limit", [(True, 0.0, 600.0), (False, 0.0, 60.0), (True, 1.0, 60.0)])
def test_who_answers_may_take_long_for_its_first_block(is_alive, longest, limit, caplog):
    """It builds graphs, on a machine that may be busy; nobody is left in doubt meanwhile."""
    busy = []
    watch = StallWatch(60.0, lambda: busy, str, is_alive=lambda worker: is_alive)
    for seconds in range(5, 1000, 5):
        busy[:] = [(1, float(seconds), longest)]
        if watch.look():
            break
    assert seconds == limit
    assert len(caplog.records) == limit // 10 - 1


def test_slow_worker_is_named_when_all_answer(alive, caplog):
    cluster = Cluster("", (alive, alive), (alive,))
    watch = StallWatch(60.0, lambda: [(1, 20.0, 1.0)], lambda worker: culprit(cluster, worker))
    watch.look()
    assert [record.getMessage() for record in caplog.records] == [f"Waiting for worker 1 at {alive} for 20 s."]


def test_chief_that_reads_for_long_is_told_from_workers(silent, alive):
    assert culprit(Cluster("", (alive,), (silent,)), CHIEF_ITSELF) == f"ps 0 at {silent}"
    assert culprit(Cluster("", (alive,), (alive,)), CHIEF_ITSELF).startswith("the chief")


def test_watch_that_is_entered_twice_watches_until_it_is_left_twice(monkeypatch):
    monkeypatch.setattr(stall_watch, "_LOOK_SECONDS", 0.01)
    looks = threading.Event()
    watch = StallWatch(60.0, lambda: looks.set() or [], str)
    for _ in range(2):  # and anew behind that
        with watch:
            with watch:
                pass
            looks.clear()
            assert looks.wait(10)
        time.sleep(0.1)
        looks.clear()
        assert not looks.wait(0.1)


def test_blocks_that_always_take_long_are_no_stall(caplog):
    """The negative control."""
    watch = StallWatch(60.0, lambda: [(0, 100.0, 70.0)], str)
    assert watch.look() is None
    assert not caplog.records


def _guard(silent, chief, timeout):
    facts = {"tasks": [["worker", 0, silent]], "timeout": timeout, "chief": chief.pid}
    command = [sys.executable, "-m", "tfnmt.cluster.stall_guard", json.dumps(facts)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(name="chief")
def _chief():
    """A process that hangs."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    yield process
    process.kill()
    process.wait()


def test_guard_kills_a_chief_that_is_not_heard_of(silent, chief):
    guard = _guard(silent, chief, timeout=1.0)
    chief.wait(timeout=60)
    _, said = guard.communicate(timeout=60)
    assert f"worker 0 at {silent} has not answered for" in said


def test_guard_goes_with_the_chief(silent, chief):
    guard = _guard(silent, chief, timeout=60.0)
    guard.communicate(".", timeout=60)
    assert guard.returncode == 0
    assert chief.poll() is None


class _Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_task_waits_for_its_chief_and_then_ends(monkeypatch, caplog):
    clock = _Clock()
    monkeypatch.setattr(tasks, "answers", lambda address: clock.now < 1)
    chief = tasks._Chief(Cluster("127.0.0.1:1", (), (), rendezvous_timeout=30.0, stall_timeout=60.0), clock)
    found = []
    for now in (0.0, 1.0, 12.0, 40.0, 62.0):
        clock.now = now
        found.append(chief.is_gone())
    assert found == [False, False, False, False, True]
    assert "Waiting for the chief at 127.0.0.1:1 for 12 s." in caplog.text


def test_chief_that_never_comes_is_named():
    clock = _Clock()
    chief = tasks._Chief(Cluster("127.0.0.1:1", (), (), rendezvous_timeout=30.0), clock)
    assert not chief.is_gone()
    clock.now = 31.0
    with pytest.raises(UserError, match=r"The chief at 127\.0\.0\.1:1 did not come within --rendezvous_timeout=30"):
        chief.is_gone()
