"""The cluster engine against the simulated one, on embedded clusters, each in a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest

from graphs.encodings import ENCODINGS
from tests.engines.rows import ON_SERVERS, WITHOUT_BARRIER, columns

GRACE_SECONDS = 0.2  # of `cluster_child`
SECONDS = 900  # a hang must not hold up the suite
RESUMED = ["sync", "model_average", "averaged_slots", "elastic_barrier", "streaming_slots+int8+int4", "by_speed"]
RESUMED += ["streaming_eager"]
MOVED = ["sync", "averaged_slots"]
ENCODED = [*(f"sync+{name}" for name in ENCODINGS if name != "none"), "model_average+topk", "bmuf+int8+topk"]
SPARSE = ["async", "ramp"]
WIRED = {"sync": 2, "model_average": 2, "averaged_slots": 6}
"""Rows, and how many vectors of the model's size each of their pushes and its pull bring together."""


def train(workers, servers, updates, *rows):
    """What `cluster_child` prints of each row."""
    command = [sys.executable, "-m", "tests.engines.cluster_child", str(workers), str(servers), str(updates), *rows]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return {found["row"]: found for found in map(json.loads, ended.stdout.splitlines())}


@pytest.fixture(name="one_worker", scope="module")
def _one_worker():
    return train(1, 2, 5, *WITHOUT_BARRIER, *(f"sparse:{row}" for row in SPARSE))


@pytest.fixture(name="two_workers", scope="module")
def _two_workers():
    others = [
        *(f"resume:{row}" for row in RESUMED),
        *(f"servers:{row}" for row in MOVED),
        "fall:model_average",
        "wait:async",
        "stale:compensated",
        "patient:model_average",
        "late:sync",
    ]
    others += [
        "plateau:sync",
        "plateau:model_average",
        "pause:sync",
        *(f"encode:{row}" for row in ENCODED),
        *(f"wire:{row}" for row in WIRED),
        "wire:sync+int8+int8",
        "sparse:sync",
        "wire_sparse:sync",
    ]
    return train(2, 3, 4, *(row for row in ON_SERVERS if row not in RESUMED), "async", "bounded", *others)


def of_row(two_workers, row):
    """What is found of a row that is compared with the simulation, behind a resume or not."""
    return two_workers[f"resume:{row}" if row in RESUMED else row]


@pytest.mark.parametrize("row", ON_SERVERS)
def test_rows_with_a_barrier_equal_the_simulation(two_workers, row):
    """I3, I4, I17 to I23 where it counts: over servers of their own, whoever comes first."""
    found = of_row(two_workers, row)
    assert found["names"]
    assert found["distance"] < 1e-12
    assert found["staleness"] == [0] * 8
    on_servers, simulated = found["noise"]
    assert on_servers["updates"] == (4 if columns(row).sums_gradients else 0)
    assert on_servers == pytest.approx(simulated, rel=1e-9)
    least, parts, whole = found["parts"]
    assert least >= 0 and 0 < parts <= whole


def test_blocks_are_as_long_as_speeds_say(two_workers):
    """A block of 2 steps each, and three at half speed for worker 1."""
    assert of_row(two_workers, "by_speed")["progress"]
    assert of_row(two_workers, "by_speed")["steps"] == [4 * 2, 2 + 3 * 1]


@pytest.mark.parametrize("row", RESUMED)
def test_resume_is_exact(two_workers, row):
    """I22: N + N updates equal 2 N bit for bit, local optimizers and readers included."""
    found = two_workers[f"resume:{row}"]["resumed"]
    assert found["names"] and found["progress"]
    assert found["distance"] == 0
    assert found["moved"] > 1e-6


@pytest.mark.parametrize("row", MOVED)
def test_resume_on_other_numbers_of_servers_is_the_undisturbed_run(two_workers, row):
    """From two to three, and from three to one: whatever a server holds is a part of a vector, and nothing else."""
    found = two_workers[f"servers:{row}"]
    assert found["names"] and found["progress"]
    assert found["distance"] < 1e-12
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


def test_stale_payloads_are_compensated_by_what_was_pulled_for_them(two_workers):
    """Though their workers have pulled again since; an update is the equation's, in NumPy."""
    pushes = two_workers["stale:compensated"]["pushes"]
    assert [push["age"] for push in pushes[:4]] == [0, 1, 2, 3]
    assert max(push["distance"] for push in pushes) < 1e-12
    assert max(push["pulled"] for push in pushes[:4]) == 0 < pushes[3]["pulled_later"]


def test_a_quorum_with_a_grace_time_that_does_not_end_is_the_barrier(two_workers):
    found = two_workers["patient:model_average"]
    assert found["names"] and found["progress"]
    assert found["distance"] < 1e-12


def test_updates_go_on_without_a_worker_that_is_late(two_workers):
    """Each waits for it as long as the grace time is, and no payload is lost: it counts when it comes."""
    found = two_workers["late:sync"]
    assert found["pushes"][:3] == [[[0, 0]]] * 3
    assert min(found["seconds"][:3]) >= GRACE_SECONDS
    came = [push for pushes in found["pushes"][3:] for push in pushes if push[0] == 1]
    assert came and came[0][1] > 0
    assert all(found["tokens"])
    assert found["distance"] < 1e-12 and found["moved"] > 1e-6


@pytest.mark.parametrize("row", ["sync", "model_average"])
def test_plateau_reaches_servers_and_workers_and_is_saved(two_workers, row):
    found = two_workers[f"plateau:{row}"]
    assert found["distance"] < 1e-12
    assert found["saved"] == 0.25
    assert found["rates"] == [pytest.approx([0.1, 0.025, 0.025])] * 2


def test_time_between_reports_is_not_training(two_workers):
    found = two_workers["pause:sync"]
    assert 0 < found["trained"] <= found["passed"]


def test_wait_is_a_part_of_the_seconds_behind_a_pause_too(two_workers):
    assert all(0 <= wait <= seconds for wait, seconds in two_workers["pause:sync"]["waits"])


@pytest.mark.parametrize("row", WIRED)
def test_bytes_that_are_reported_go_through_the_connections(two_workers, row):
    """I16: two updates of two workers, each with its pull and its push; the rest is gRPC's own."""
    found = two_workers[f"wire:{row}"]
    assert found["reported"] == 2 * 2 * WIRED[row] * found["model_bytes"]
    assert 1 <= found["received"] / found["reported"] < 1.02


def test_encoded_bytes_go_through_the_connections(two_workers):
    """Four pulls and four pushes of 8-bit integers, with a scale for each 256 of them."""
    found = two_workers["wire:sync+int8+int8"]
    assert found["reported"] == pytest.approx(8 * found["model_bytes"] // 8 * (1 + 4 / 256), rel=1e-3)
    assert 1 <= found["received"] / found["reported"] < 1.02


@pytest.mark.parametrize("workers, row", [("two_workers", "sync"), *(("one_worker", row) for row in SPARSE)])
def test_rows_of_a_table_travel_as_batches_read_them(workers, row, request):
    """Training is that of the simulation that moves whole vectors, behind a resume too."""
    found = request.getfixturevalue(workers)[f"sparse:{row}"]
    assert found["names"] and found["progress"]
    assert found["distance"] < 1e-12
    moved, expected = found["moved_bytes"]
    assert moved == expected and len(set(map(tuple, moved))) > 1


def test_bytes_of_rows_go_through_the_connections(two_workers):
    """Next to none of a table that is three times as large as all of the rest."""
    found = two_workers["wire_sparse:sync"]
    assert found["reported"] == pytest.approx(8 * found["model_bytes"] / 4, rel=1e-2)
    assert 1 <= found["received"] / found["reported"] < 1.02


def test_bytes_fall_with_the_steps_of_a_block(two_workers):
    """I16: those of a step, as the kernel counts them, are half where a block has two."""
    sync, averaged = (two_workers[f"wire:{row}"] for row in ("sync", "model_average"))
    assert (sync["steps"], averaged["steps"]) == (4, 8)
    per_step = [found["received"] / found["steps"] for found in (sync, averaged)]
    assert per_step[0] / per_step[1] == pytest.approx(2, rel=0.02)


def test_nobody_from_elsewhere_can_come_in(two_workers):
    assert two_workers["interfaces"]["of_tasks"] == ["lo"] * 5


@pytest.mark.parametrize("row", ENCODED)
def test_encoded_payloads_and_pulls_equal_the_simulation(two_workers, row):
    """What was not sent, and what each worker knows, included."""
    found = two_workers[f"encode:{row}"]
    assert found["names"]
    assert found["distance"] < 1e-12
    moved, expected = found["moved_bytes"]
    assert moved == expected and len(moved) == row.count("+")  # a first pull is whole


def test_rows_do_not_equal_each_other(two_workers):
    """The negative control."""
    sync, bmuf = (np.array(of_row(two_workers, row)["parameters"]) for row in ("sync", "bmuf"))
    assert np.abs(sync - bmuf).max() > 1e-6


def test_eight_embedded_workers_do_not_lock_each_other_out():
    """Servers with too few threads would stand still for ever."""
    found = train(8, 1, 3, "end:sync", "end:async")
    assert [found[row]["updates"] for row in ("end:sync", "end:async")] == [[1, 2, 3]] * 2
    assert [found[row]["pushes"] for row in ("end:sync", "end:async")] == [24, 3]
