"""One of two ranks is started; the other never comes."""

import re
import subprocess
import sys

import pytest

from tfnmt.cluster.rank_launch import rank_tasks
from tfnmt.errors import LostError

SECONDS = 120  # a hang must not hold up the suite


def start(rank, logs, environment):
    """The exit code of one of two ranks, and what it says."""
    program = "from tfnmt.cluster.ranks import Ranks, RankSettings; Ranks(RankSettings(stall_timeout=12.0))"
    (task,) = (task for task in rank_tasks([sys.executable, "-c", program], 2, logs) if task.number == rank)
    environment = {**task.environment, **environment}
    ended = subprocess.run(task.command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("rank, environment", [(0, {}), (1, {"HOROVOD_GLOO_TIMEOUT_SECONDS": "16"})])
def test_ranks_that_do_not_come_are_awaited_aloud_and_not_for_ever(tmp_path, rank, environment):
    code, said = start(rank, tmp_path, environment)
    assert code == LostError.exit_code, said
    assert "Waiting for the other ranks for 10 s." in said
    limit = "11" if environment else "12"
    assert re.search(rf"Rank {rank} of 2 has waited {limit} s for the others, and not all came", said), said
    assert "Traceback" not in said and "terminate called" not in said
