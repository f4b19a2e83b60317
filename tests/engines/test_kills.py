"""Workers of a real cluster, killed in the middle of their pull, their steps and their push under every row."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.engines.building import parameters, run, simulated
from tests.engines.kill_tasks import ADAM, EXACT_SUM, PHASES, ROWS, CountingModel, make_batches, wrongly_counted
from tfnmt.engines.servers import Progress, UpdateSequence
from tfnmt.strategies import Async, Sync

SECONDS = 900  # a hang must not hold up the suite
QUORUMS = {"sync": 2, "model_average": 2, "bmuf": 2, "summed_async": 3}
WITH_BARRIER = ["sync", "model_average", "bmuf"]


@pytest.fixture(name="found", scope="module")
def _found():
    """What `kill_child` prints of each row, and what it says."""
    command = [sys.executable, "-m", "tests.engines.kill_child", *ROWS]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, said = process.communicate(timeout=SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said[-3000:]
    return {"said": said, **{found["row"]: found for found in map(json.loads, output.splitlines())}}


@pytest.mark.parametrize("row", ROWS)
def test_every_push_is_taken_and_none_twice(found, row):
    """I27: version = pushes / quorum, where a round has no more. Behind each kill it goes on, and refuses nothing."""
    facts = found[row]
    assert facts["killed"] == list(PHASES)
    assert facts["updates"] == [*range(1, len(facts["updates"]) + 1)]
    least, updates = QUORUMS.get(row, 1), len(facts["updates"])
    most = 2 if row == "quorum" else least  # both workers, where one would do
    assert least * updates <= facts["pushes"] - facts["arrived"] <= most * updates
    assert facts["refused"] == []
    assert np.isfinite(facts["losses"]).all()


@pytest.mark.parametrize("row", WITH_BARRIER)
def test_behind_a_barrier_nothing_shows_of_it(found, row):
    """Bit for bit: the servers' vectors, and the losses."""
    facts = found[row]
    assert facts["unequal"] == []
    assert facts["losses"] == facts["expected_losses"]
    assert facts["staleness"] == 0


@pytest.mark.parametrize("row", [row for row in ROWS if row not in WITH_BARRIER])
def test_every_batch_is_counted_once(found, row):
    """I27: the servers hold the sum of the gradients of all batches of all pushes; the lost work was done again."""
    assert found[row]["wrongly_counted"] == []


def test_everybody_ends_well(found):
    """Every kill was noticed, and the tasks that are there at the end end with 0."""
    assert found["end"]["codes"] == [0] * 5
    assert found["said"].count("Worker 1 at") >= len(ROWS) * len(PHASES)
    assert "Traceback" not in found["said"]
    assert {found[row]["interface_of_chief"] for row in ROWS} == {"lo"}


def _doubled(absorb, servers, push, *how):
    absorb(servers, push, *how)
    servers.progress[push.worker] = Progress()  # forgets that it has it
    return absorb(servers, push, *how)


def _lost(absorb, servers, push, *how):
    servers.progress[push.worker] = Progress(push.block, push.step, push.work.position)


@pytest.mark.parametrize("fault, times", [(None, 1), (_doubled, 2), (_lost, 0)])
def test_a_push_that_is_doubled_or_lost_would_be_noticed(monkeypatch, fault, times):
    """The negative control of both equalities."""
    undisturbed = simulated(Sync(), make_batches, workers=2, model=CountingModel(), **ADAM)
    run(undisturbed, 4)
    absorb = UpdateSequence.absorb

    def absorb_badly(servers, push, *how):
        if fault and (push.worker, push.block) == (1, 3):
            return fault(absorb, servers, push, *how)
        return absorb(servers, push, *how)

    monkeypatch.setattr(UpdateSequence, "absorb", absorb_badly)
    free = simulated(Async(), make_batches, workers=2, model=CountingModel(), **EXACT_SUM)
    run(free, 8)
    assert wrongly_counted(free.state()) == ([] if times == 1 else [5])
    together = simulated(Sync(), make_batches, workers=2, model=CountingModel(), **ADAM)
    run(together, 4)
    assert np.array_equal(parameters(together), parameters(undisturbed)) == (times == 1)
