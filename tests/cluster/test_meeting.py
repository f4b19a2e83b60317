"""One of two ranks is started; the other never comes."""

import re
import subprocess
import sys

import pytest

from tfnmt.cluster.meeting import limit_seconds
from tfnmt.cluster.rank_launch import rank_tasks
from tfnmt.errors import LostError

GLOO_TIMEOUT = "HOROVOD_GLOO_TIMEOUT_SECONDS"
SECONDS = 120  # a hang must not hold up the suite


def start(rank, logs, environment):
    """The exit code of one of two ranks, and what it says."""
    program = "from tfnmt.cluster.ranks import Ranks, RankSettings; Ranks(RankSettings(stall_timeout=12.0))"
    (task,) = (task for task in rank_tasks([sys.executable, "-c", program], 2, logs) if task.number == rank)
    environment = {**task.environment, **environment}
    ended = subprocess.run(task.command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("rank, environment", [(0, {}), (1, {GLOO_TIMEOUT: "16"})])
def test_ranks_that_do_not_come_are_awaited_aloud_and_not_for_ever(tmp_path, rank, environment):
    code, said = start(rank, tmp_path, environment)
    assert code == LostError.exit_code, said
    assert re.search(r"Waiting for the other ranks for \d+ s\.", said), said
    assert re.search(rf"Rank {rank} of 2 has waited \d+ s for the others, and not all came", said), said
    assert "Traceback" not in said and "terminate called" not in said


@pytest.mark.parametrize("environment, limit", [({}, 12), ({GLOO_TIMEOUT: "16"}, 11), ({GLOO_TIMEOUT: "660"}, 12)])
def test_the_wait_ends_at_the_timeout_or_before_gloo_s(environment, limit):
    assert limit_seconds(12.0, environment) == limit
