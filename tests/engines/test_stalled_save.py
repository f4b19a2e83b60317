"""A task that is silent while the chief saves: nobody has a block then, and still nobody waits for ever."""

import contextlib
import os
import re
import signal
import subprocess
import sys

import pytest

from tfnmt.errors import LostError

SECONDS = 150  # a hang must not hold up the suite
CASES = {"worker 1": ("worker", "1", "between"), "ps 0": ("ps", "0", "behind")}


@pytest.fixture(name="ended", scope="module")
def _ended():
    """What `stall_child` prints and says in each case; they run side by side, for they wait most of the time."""
    pipe, ended = subprocess.PIPE, {}
    children = {
        name: subprocess.Popen(
            [sys.executable, "-m", "tests.engines.stall_child", *words],
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )
        for name, words in CASES.items()
    }
    try:
        for name, child in children.items():
            ended[name] = child.communicate(timeout=SECONDS)
    finally:
        for child in children.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    return ended


@pytest.mark.parametrize("name", CASES)
def test_it_is_named_and_training_ends(ended, name):
    """Between two updates behind a barrier, and behind the last."""
    printed, said = ended[name]
    assert printed == f"{LostError.exit_code}\n", said
    assert f"Waiting for {name} at 127.0.0.1:" in said
    assert re.search(rf"{name} at 127.0.0.1:\d+ has not answered for \d+ s \(--stall_timeout=11\)", said), said
    assert "Traceback" not in said
