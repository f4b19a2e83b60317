"""The cluster engine against the simulated one, on embedded clusters, each in a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.engines.rows import ON_SERVERS, WITHOUT_BARRIER

SECONDS = 300  # a hang must not hold up the suite
RESUMED = ["sync", "model_average", "averaged_slots", "elastic_barrier"]


def train(workers, servers, updates, *rows):
    """What `cluster_child` prints of each row."""
    command = [sys.executable, "-m", "tests.engines.cluster_child", str(workers), str(servers), str(updates), *rows]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return {found["row"]: found for found in map(json.loads, ended.stdout.splitlines())}


@pytest.fixture(name="one_worker", scope="module")
def _one_worker():
    return train(1, 2, 5, *WITHOUT_BARRIER)


@pytest.fixture(name="two_workers", scope="module")
def _two_workers():
    others = [*(f"resume:{row}" for row in RESUMED), "fall:model_average", "wait:async"]
    return train(2, 2, 4, *ON_SERVERS, "async", "bounded", *others)


@pytest.mark.parametrize("row", ON_SERVERS)
def test_rows_with_a_barrier_equal_the_simulation(two_workers, row):
    """I3, I4, I17 to I23 where it counts: over servers of their own, whoever comes first."""
    found = two_workers[row]
    assert found["names"]
    assert found["distance"] < 1e-12
    assert found["staleness"] == [0] * 8


@pytest.mark.parametrize("row", RESUMED)
def test_resume_is_exact(two_workers, row):
    """I22: N + N updates equal 2 N bit for bit, local optimizers and readers included."""
    found = two_workers[f"resume:{row}"]
    assert found["names"] and found["progress"]
    assert found["distance"] == 0
    assert found["moved"] > 1e-6


def test_worker_that_falls_has_the_slots_of_the_checkpoint_only_before_its_first_push(two_workers):
    """Behind it they would be outdated: it begins with fresh ones, and what is saved meanwhile is nothing."""
    found = two_workers["fall:model_average"]
    steps = 2  # of a block
    assert found["ages"] == [[5 * steps] * 2, [6 * steps, steps]]
    assert found["saved_while_down"] == []


@pytest.mark.parametrize("row", WITHOUT_BARRIER)
def test_one_worker_of_a_free_row_equals_the_simulation(one_worker, row):
    assert one_worker[row]["names"]
    assert one_worker[row]["distance"] < 1e-12


@pytest.mark.parametrize("row", ["async", "bounded"])
def test_free_rows_make_an_update_of_every_push(two_workers, row):
    """I27: version = pushes."""
    found = two_workers[row]
    assert found["updates"] == [1, 2, 3, 4]
    assert found["pushes"] == 4


def test_workers_of_a_free_row_compute_while_their_pushes_wait(two_workers):
    """Staleness counts the updates until a push is absorbed, and a state holds every push that has come before."""
    found = two_workers["wait:async"]
    assert found["staleness"] == [0, 1, 2, 3]
    assert min(found["contained"]) >= 2
    assert found["contained_at_the_end"] == found["delivered"]


def test_nobody_from_elsewhere_can_come_in(two_workers):
    assert two_workers["interfaces"]["of_tasks"] == ["lo"] * 4


def test_rows_do_not_equal_each_other(two_workers):
    """The negative control."""
    sync, bmuf = (np.array(two_workers[row]["parameters"]) for row in ("sync", "bmuf"))
    assert np.abs(sync - bmuf).max() > 1e-6


def test_eight_embedded_workers_do_not_lock_each_other_out():
    """Servers with too few threads would stand still for ever."""
    found = train(8, 1, 3, "sync", "async")
    assert found["sync"]["pushes"] == 24
    assert found["sync"]["distance"] < 1e-12
