"""Tasks that are silent or gone when nobody has a block: from the start, while the chief saves, behind the end."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tfnmt.errors import LostError

SECONDS = 240  # a hang must not hold up the suite
AT_ONCE = 3  # of the cases, which wait most of the time
SILENT = [
    ("SIGSTOP", "worker", "1", "before"),
    ("SIGSTOP", "ps", "0", "before"),
    ("SIGSTOP", "worker", "1", "connecting"),
    ("SIGSTOP", "worker", "1", "between"),
    ("SIGSTOP", "ps", "0", "behind"),
]
GONE = ("SIGKILL", "worker", "0,1", "between")


def run(words):
    """The chief's exit code, and what is said."""
    command = [sys.executable, "-m", "tests.engines.stall_child", *words]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        printed, said = child.communicate(timeout=SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    return int(printed or 0), said


@pytest.fixture(name="ended", scope="module")
def _ended():
    cases = [*SILENT, GONE]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(cases, pool.map(run, cases)))


@pytest.mark.parametrize("case", SILENT, ids="-".join)
def test_silent_task_is_named_and_training_ends(ended, case):
    """The guard kills a chief that waits inside TensorFlow, with Python's global lock held."""
    code, said = ended[case]
    _, job, number, when = case
    who = rf"{job} {number} at 127.0.0.1:\d+"
    assert code == LostError.exit_code or (code, when) == (-signal.SIGKILL, "connecting"), said
    assert re.search(rf"Waiting for {who} for \d+ s\.", said), said
    assert re.search(rf"{who} .*has not answered for \d+ s \(--(stall|rendezvous)_timeout=30\)", said), said
    assert "Traceback" not in said


def test_job_whose_workers_are_all_gone_ends(ended):
    code, said = ended[GONE]
    assert code == LostError.exit_code, said
    assert re.search(r"error: All workers have been gone for \d+ s \(--stall_timeout=30\); training ends\.", said), said
    assert "Traceback" not in said
