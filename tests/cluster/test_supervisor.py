"""Supervision of processes that only pretend to be tasks."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tfnmt.cluster import supervisor
from tfnmt.cluster.supervisor import DISMISSED, SupervisionSettings, Supervisor, Task

SLEEP = "import time; time.sleep(60)"
LOST = 75


@pytest.fixture(name="make")
def _make(tmp_path):
    """Makes a task whose process runs a Python program; with `counted`, each start leaves a line in a file."""

    def make(job, number, program):
        starts = tmp_path / f"{job}-{number}.starts"
        lines = f"open({str(starts)!r}, 'a').write('start\\n')\nstarts = len(open({str(starts)!r}).readlines())\n"
        command = (sys.executable, "-c", lines + textwrap.dedent(program))
        log = tmp_path / f"{job}-{number}.log"
        return Task(job, number, command, log, leads=job == "chief", is_replaceable=job == "worker")

    return make


@pytest.fixture(name="starts")
def _starts(tmp_path):
    return lambda name: len((tmp_path / f"{name}.starts").read_text().splitlines())


def supervise(tasks, **settings):
    return Supervisor(lambda: tasks, SupervisionSettings(**settings), (LOST,)).run()


def test_everything_ends_with_the_chief(make):
    before = _children()
    assert supervise([make("worker", 0, SLEEP), make("chief", 0, "import time; time.sleep(1)")]) == 0
    assert _children() <= before


def test_a_worker_that_dies_is_started_again_alone(make, starts):
    worker = make("worker", 0, "import os, time\nif starts == 1: os.kill(os.getpid(), 9)\ntime.sleep(60)")
    assert supervise([worker, make("chief", 0, "import time; time.sleep(3)")]) == 0
    assert (starts("worker-0"), starts("chief-0")) == (2, 1)


@pytest.mark.parametrize("end", ["import os; os.kill(os.getpid(), 9)", f"raise SystemExit({LOST})"])
def test_the_job_starts_again_when_the_chief_is_lost(make, starts, end):
    chief = make("chief", 0, f"if starts == 1:\n    {end.replace('; ', chr(10) + '    ')}")
    assert supervise([make("worker", 0, SLEEP), chief]) == 0
    assert (starts("worker-0"), starts("chief-0")) == (2, 2)


def test_restarts_are_limited(make, starts):
    chief = make("chief", 0, f"raise SystemExit({LOST})")
    assert supervise([make("worker", 0, SLEEP), chief], max_restarts=2) == LOST
    assert starts("chief-0") == 3


def test_what_the_user_must_mend_is_not_repeated(make, starts):
    """The negative control: a refusal would only be refused again."""
    assert supervise([make("worker", 0, SLEEP), make("chief", 0, "raise SystemExit(2)")]) == 2
    assert starts("chief-0") == 1


def test_a_defect_elsewhere_is_not_repeated(make, starts):
    """The chief has only lost somebody; who would fail again."""
    server = make("ps", 0, "raise SystemExit(1)")
    assert supervise([server, make("chief", 0, f"import time; time.sleep(1); raise SystemExit({LOST})")]) == 1
    assert starts("chief-0") == 1


def test_tasks_that_the_chief_tells_to_end_are_no_failures(make, starts, caplog):
    """While it still waits for a silent one, nobody starts them again, and the whole job keeps its restarts."""
    told = [make(job, 0, f"if starts == 1: raise SystemExit({DISMISSED})\n{SLEEP}") for job in ("worker", "ps")]
    chief = make("chief", 0, f"import time\nif starts == 1:\n    time.sleep(2)\n    raise SystemExit({LOST})")
    assert supervise([*told, chief], max_restarts=1) == 0
    assert (starts("worker-0"), starts("ps-0"), starts("chief-0")) == (2, 2, 2)
    assert "first" not in caplog.text


def test_a_chief_that_tells_the_others_to_end_and_hangs_is_killed(make, starts, monkeypatch):
    monkeypatch.setattr(supervisor, "_NOTICE_SECONDS", 1.0)
    worker = make("worker", 0, f"if starts == 1: raise SystemExit({DISMISSED})\n{SLEEP}")
    assert supervise([worker, make("chief", 0, f"if starts == 1:\n    {SLEEP.replace('; ', chr(10) + '    ')}")]) == 0
    assert (starts("worker-0"), starts("chief-0")) == (2, 2)


def test_a_job_without_workers_ends(make, starts, caplog):
    worker = make("worker", 0, "import os; os.kill(os.getpid(), 9)")
    assert supervise([worker, make("chief", 0, SLEEP)], max_restarts=1) == 128 + signal.SIGKILL
    assert (starts("worker-0"), starts("chief-0")) == (2, 1)
    assert "--max_restarts are used up" in caplog.text


def test_the_first_failure_is_shown_first(make, caplog):
    server = make("ps", 0, "raise SystemExit('the disk is full')")
    chief = make("chief", 0, f"import time; time.sleep(1); print('lost a server'); raise SystemExit({LOST})")
    supervise([server, chief], max_restarts=0)
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "Ps 0 ended with code 1 first."
    assert "the disk is full" in told[1]


def test_signals_go_to_the_chief(tmp_path):
    """A launcher that is told to end lets the chief save, and ends with the signal's code."""
    program = f"""
        import sys
        from tfnmt.cluster.supervisor import SupervisionSettings, Supervisor, Task
        orderly = "import signal, sys, time\\n" \\
            "signal.signal(signal.SIGTERM, lambda *_: (open({str(tmp_path / "saved")!r}, 'w'), sys.exit(143)))\\n" \\
            "open({str(tmp_path / "ready")!r}, 'w')\\ntime.sleep(60)"
        task = Task("chief", 0, (sys.executable, "-c", orderly), None, leads=True)
        sys.exit(Supervisor(lambda: [task], SupervisionSettings(), ()).run())
    """
    launcher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=60) == 143
    assert (tmp_path / "saved").exists()


def test_who_is_told_twice_to_end_kills_all(tmp_path):
    program = f"""
        import sys
        from tfnmt.cluster.supervisor import SupervisionSettings, Supervisor, Task
        stubborn = "import signal, time\\n" \\
            "signal.signal(signal.SIGTERM, lambda *_: open({str(tmp_path / "told")!r}, 'w'))\\n" \\
            "open({str(tmp_path / "ready")!r}, 'w')\\ntime.sleep(120)"
        task = Task("chief", 0, (sys.executable, "-c", stubborn), None, leads=True)
        sys.exit(Supervisor(lambda: [task], SupervisionSettings(), ()).run())
    """
    launcher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.DEVNULL)
    for name in ("ready", "told"):
        deadline = time.monotonic() + 60
        while not (tmp_path / name).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        if name == "told":
            time.sleep(1.5)  # sooner, it would be taken for the same request
        launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=30) == 143


def test_tasks_die_with_a_launcher_that_is_killed(tmp_path):
    program = f"""
        import sys
        from tfnmt.cluster.supervisor import SupervisionSettings, Supervisor, Task
        sleeper = "import os, time; open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        task = Task("chief", 0, (sys.executable, "-c", sleeper), None)
        Supervisor(lambda: [task], SupervisionSettings(), ()).run()
    """
    launcher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    launcher.kill()
    launcher.wait(timeout=60)
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _children():
    children = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
    with open(children) as file:
        return set(file.read().split())
