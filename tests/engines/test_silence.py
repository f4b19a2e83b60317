"""A worker of a real cluster that is silent, and without which a quorum goes on: stopped, let go on, started again.

Whoever waited for it would do so until the timeout, and end. So nothing that it has no part in may take as long.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.engines.silence_child import STALL_SECONDS
from tfnmt.errors import LostError

SECONDS = 240  # a hang must not hold up the suite


@pytest.fixture(name="found", scope="module")
def _found():
    """What `silence_child` prints, and what is said."""
    command = [sys.executable, "-m", "tests.engines.silence_child"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        output, said = child.communicate(timeout=SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, said[-3000:]
    return {"said": said, **json.loads(output)}


def test_training_goes_on_without_a_silent_worker(found):
    """For longer than the timeout, though a state is read behind every update; a line names the worker."""
    assert found["pushes_while_silent"] <= 1  # which was on its way
    assert found["gap"] < STALL_SECONDS
    assert "Worker 2 at 127.0.0.1:" in found["said"]
    assert found["said"].count("does not answer; training goes on without it.") >= 4
    assert "Waiting for" not in found["said"].partition("goes on without it")[2].partition("failed")[0]


def test_it_takes_part_again_when_it_goes_on_or_is_started_again(found):
    """And no batch is lost, or counts twice."""
    assert found["back_seconds"] < STALL_SECONDS
    assert found["restarted_seconds"] < 3 * STALL_SECONDS  # it loads TensorFlow anew
    assert found["wrongly_counted"] == []


def test_what_a_silent_worker_holds_is_not_waited_for(found):
    """Neither at the end of training nor where its slots would be saved."""
    assert found["end_seconds"] < STALL_SECONDS
    assert found["save_seconds"] < STALL_SECONDS and found["gap_behind_save"] < STALL_SECONDS
    assert [name for name in found["saved"] if name.startswith("worker_2")] == []
    assert {"worker_0_m", "worker_1_m"} <= set(found["saved"])


def test_too_few_who_answer_end_training_and_the_silent_are_named(found):
    """The negative control: with two of three silent, at the timeout."""
    assert found["code"] == LostError.exit_code
    assert found["lost_seconds"] >= STALL_SECONDS - 1
    lost = [line for line in found["said"].splitlines() if line.startswith("error: worker 1 at")]
    assert len(lost) == 1 and ", worker 2 at" in lost[0] and "has not answered for" in lost[0]
    assert "Traceback" not in found["said"]
