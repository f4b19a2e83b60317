"""The Horovod engine against the simulated one and plain training, on 2 and 4 ranks of real processes."""

import itertools
import json
import subprocess
import sys

import pytest

from tests.engines.rows import WITH_BARRIER, columns
from tfnmt.cluster.rank_launch import rank_tasks

SECONDS = 900  # a hang must not hold up the suite
EXACT = 1e-12
DIFFERENT = 1e-6
RESUMED = ["bmuf", "averaged_slots", "elastic_barrier", "streaming+int4", "streaming_eager", "by_speed"]
OWN = {"ring_allreduce": False, "model_average": True}
"""Rows, and whether a rank's worker keeps something for itself."""
GATHERED = {"bfloat16": lambda size: 2 * size, "int8": lambda size: 4 + size, "topk": lambda size: size // 4 * 10}
"""Encodings of which ranks gather payloads, and their bytes for a short vector of float64, the largest quarter."""
GATHERED_PAIRS = [*itertools.product(OWN, GATHERED), ("weighted", "int8")]


def start(size, logs, *scenarios):
    """Exit code, output and errors of each rank that has run the scenarios, rank 0 last."""
    command = [sys.executable, "-m", "tests.engines.rank_child", *scenarios]
    tasks = rank_tasks(command, size, logs)
    pipe = subprocess.PIPE
    ranks = [subprocess.Popen(task.command, env=task.environment, stdout=pipe, stderr=pipe) for task in tasks]
    try:
        said = [rank.communicate(timeout=SECONDS) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, *(text.decode() for text in texts)) for rank, texts in zip(ranks, said)]


def train(size, logs, *scenarios):
    """What `rank_child` prints of each scenario."""
    ended = start(size, logs, *scenarios)
    assert [code for code, _, _ in ended] == [0] * size, [errors[-2000:] for _, _, errors in ended]
    return printed(ended)


def printed(ended):
    return {found["scenario"]: found for found in map(json.loads, ended[-1][1].splitlines())}


def of_row(two, row):
    """What is found of a row that is compared with the simulation, behind a resume or not."""
    return two[f"resume:{row}" if row in RESUMED else f"compare:{row}"]


def assert_same_noise(found, updates):
    """What was measured in so many updates on ranks, and in the simulation."""
    on_ranks, simulated = found["noise"]
    assert [each["updates"] for each in (on_ranks, simulated)] == updates
    assert on_ranks == pytest.approx(simulated, rel=1e-9)


@pytest.fixture(name="two", scope="module")
def _two(tmp_path_factory):
    scenarios = [f"compare:{row}" for row in WITH_BARRIER if row not in RESUMED]
    scenarios += [f"resume:{row}" for row in RESUMED]
    scenarios += ["exchange:model_average", "exchange:averaged_slots", "poison:ring_allreduce"]
    scenarios += ["uneven:ring_allreduce", "half:ring_allreduce", "pieces:ring_allreduce"]
    scenarios += [f"encode:{row}+{encoding}" for row, encoding in GATHERED_PAIRS]
    scenarios += ["regroup:ring_allreduce", "regroup:model_average", "own:ring_allreduce"]
    scenarios += ["wire:ring_allreduce", "plateau:ring_allreduce", "plateau:model_average", "pause:ring_allreduce"]
    scenarios += ["refuse:0", "refuse:1", "drift:1"]
    ended = start(2, tmp_path_factory.mktemp("logs"), *scenarios, "fail:0")
    found = printed(ended)
    assert [*found] == scenarios, [errors[-2000:] for _, _, errors in ended]
    return {**found, "ended": ended}


@pytest.fixture(name="sharing", scope="module")
def _sharing(tmp_path_factory):
    """Two ranks with a part of the tables each."""
    scenarios = ["tables:ring_allreduce", "tables:sync", "share:ring_allreduce", "interchange:ring_allreduce"]
    scenarios += ["spoil:ring_allreduce", "carry:ring_allreduce", "alone:ring_allreduce"]
    return train(2, tmp_path_factory.mktemp("logs"), *scenarios)


@pytest.fixture(name="four", scope="module")
def _four(tmp_path_factory):
    scenarios = ["compare:ring_allreduce", "plain:ring_allreduce", "pairs:sync", "drift:0", "own:sync"]
    return train(4, tmp_path_factory.mktemp("logs"), *scenarios)


@pytest.mark.parametrize("row", WITH_BARRIER)
def test_two_ranks_equal_the_simulation(two, row):
    """I9 among it: the batches of a step are added up."""
    found = of_row(two, row)
    assert found["names"] and found["progress"]
    assert found["distance"] < EXACT
    assert found["losses"] < 1e-9
    assert_same_noise(found, [4, 4] if columns(row).sums_gradients else [0, 0])
    least, parts, whole = found["parts"]
    assert least >= 0 and 0 < parts <= whole
    on_ranks, simulated = found["tokens"]
    assert on_ranks == simulated and min(on_ranks) >= 80
    assert found["workers"] == [[0, 1]] * 4
    assert set(found["staleness"]) == {0}


def test_blocks_are_as_long_as_speeds_say(two):
    """Every rank knows its own share: a block of 2 steps each, and three at half speed for rank 1."""
    assert two["resume:by_speed"]["steps"] == [4 * 2, 2 + 3 * 1]


def test_four_ranks_equal_the_simulation(four):
    found = four["compare:ring_allreduce"]
    assert found["names"] and found["progress"]
    assert found["distance"] < EXACT
    assert found["workers"] == [[0, 1, 2, 3]] * 4


def test_ring_allreduce_equals_plain_training_on_the_joined_batch(two, four):
    """I7."""
    assert two["regroup:ring_allreduce"]["from_plain"] < EXACT
    assert four["plain:ring_allreduce"]["from_plain"] < EXACT


def test_averaged_replicas_do_not(two):
    """The negative control; and training moves the parameters by far more than the equalities allow."""
    assert two["regroup:model_average"]["from_plain"] > DIFFERENT
    assert two["regroup:model_average"]["from_start"] > DIFFERENT


def test_bytes_of_the_ring(two, four):
    """2 M (N - 1) / N for each rank, and nothing is pulled."""
    for found, size in ((two, 2), (four, 4)):
        compared = found["compare:ring_allreduce"]
        assert compared["bytes_pushed"] == [2 * compared["model_bytes"] * (size - 1) // size]
        assert compared["bytes_pulled"] == [0]
    averaged = two["resume:averaged_slots"]
    assert averaged["bytes_pushed"] == [2 * 3 * averaged["model_bytes"] * (2 - 1) // 2]


@pytest.mark.parametrize("row", WITH_BARRIER)
def test_ranks_hold_the_same_bits(two, row):
    """I8: of all that servers would hold; what a rank's own worker keeps is its own, the negative control."""
    found = of_row(two, row)
    assert "parameters" in found["held"][0]
    assert found["copies"] == [1, 2 if found["held"][1] else 1]
    assert bool(found["held"][1]) == OWN.get(row, bool(found["held"][1]))


@pytest.mark.parametrize("kind", ["whole", "half", "gathered"])
def test_bytes_that_are_reported_go_through_the_connections(two, kind):
    """I16: as much comes in as goes out; the rest is what ranks tell each other beside the payload."""
    found = two["wire:ring_allreduce"][kind]
    (reported,) = found["reported"]
    assert 0 <= found["received"] - reported < 21_000


@pytest.mark.parametrize("row", ["ring_allreduce", "model_average"])
def test_plateau_reaches_all_ranks_and_is_saved(two, row):
    """The rates of their copies of the servers, and of their workers."""
    found = two[f"plateau:{row}"]
    assert found["distance"] < EXACT
    assert found["saved"] == 0.25
    assert found["rates"] == [pytest.approx([0.1, 0.025, 0.025])] * 2


def test_time_between_reports_is_not_training(two):
    found = two["pause:ring_allreduce"]
    assert 0 < found["trained"] <= found["passed"]


@pytest.mark.parametrize("row", RESUMED)
def test_resume_is_exact(two, row):
    """N + N updates equal 2 N bit for bit, local optimizers and readers included."""
    found = two[f"resume:{row}"]["resumed"]
    assert found["names"] and found["progress"]
    assert found["distance"] == 0


@pytest.mark.parametrize("row, behind", [("ring_allreduce", 1), ("model_average", 0)])
def test_ranks_that_meet_anew_lose_nothing(two, row, behind):
    """Neither an update, nor the report of one, nor a worker's own optimizer."""
    found = two[f"regroup:{row}"]
    assert found["names"] and found["progress"]
    assert found["distance"] < EXACT
    assert found["held"] == [list(range(1, 5 - behind)), [1, 2, 3, 4]]
    assert found["found"] == list(range(5 - behind, 9))


@pytest.mark.parametrize("row", ["model_average", "averaged_slots"])
def test_checkpoints_of_other_engines(two, row):
    found = two[f"exchange:{row}"]
    assert found["names"] and found["progress"]
    assert found["distance"] < EXACT


def test_push_that_is_not_finite_is_left_out_on_all_ranks(two):
    found = two["poison:ring_allreduce"]
    assert found["same"]
    assert found["distance"] < EXACT
    refused = [reason for round_ in found["refused"] for reason in round_ if reason]
    assert refused == ["the gradient of bias was not finite at step 2 of worker 1"]


def test_uneven_shards(two):
    assert two["uneven:ring_allreduce"]["distance"] < EXACT


def test_payloads_in_16_bits(two):
    """Near, and not equal; of a quarter of the bytes of float64. One sum is as near as its roundings allow."""
    found = two["half:ring_allreduce"]
    assert 0 < found["distance"] < 1e-2
    assert found["off"] > 0
    assert found["excess"] <= 0
    assert found["bytes_pushed"] == [two["compare:ring_allreduce"]["bytes_pushed"][0] // 4]


@pytest.mark.parametrize("row, encoding", GATHERED_PAIRS)
def test_payloads_that_are_gathered_equal_the_simulation(two, row, encoding):
    """What was not sent included; each rank sends its payload to the other one."""
    found = two[f"encode:{row}+{encoding}"]
    assert found["names"] and found["progress"]
    assert found["distance"] < EXACT
    assert found["bytes_pushed"] == [GATHERED[encoding](found["size"])]


@pytest.mark.parametrize("row, ranks", [("ring_allreduce", "two"), ("sync", "four")])
def test_replicas_with_local_gradients_equal_the_simulation(request, row, ranks):
    """Each rank's own; a resume is exact, between ranks bit for bit, and the bytes are the simulation's."""
    found = request.getfixturevalue(ranks)[f"own:{row}"]
    assert found["names"] and found["progress"]
    assert max(found["distance"], found["carried"], found["norms"]) < EXACT
    assert found["resumed"] == (0.0 if ranks == "two" else pytest.approx(0.0, abs=EXACT))
    assert found["spread"] > DIFFERENT
    on_ranks, simulated = found["bytes_pushed"]
    assert on_ranks == simulated or row == "sync"


def test_sums_in_pieces(two):
    """The same; but where one gradient is not finite the whole update is left out, and says whose it was."""
    found = two["pieces:ring_allreduce"]
    assert found["names"] and found["progress"]
    assert found["distance"] < EXACT
    assert_same_noise(found, [4, 4])
    assert found["finite"]
    assert found["skipped"] == [None, "the gradient of bias was not finite at step 2 of worker 1", None, None]


@pytest.mark.parametrize("row", ["ring_allreduce", "sync"])
def test_sharded_tables_equal_whole_ones(sharing, row):
    """I44: parameters, slots and averages, under a norm of all shards; the last line shows that it clips."""
    found = sharing[f"tables:{row}"]
    assert found["names"] and found["progress"]
    assert found["distance"] < EXACT and found["from_pieces"] < EXACT
    assert found["losses"] < 1e-9 and found["norms"] < EXACT
    assert found["from_unclipped"] > DIFFERENT


def test_tables_of_11_rows_on_four_ranks(four):
    """Which go on from a checkpoint of two workers, who went on from one of pairs of ranks."""
    assert four["pairs:sync"]["regrouped"] < EXACT


def test_pairs_of_ranks_that_share_tables_equal_whole_ones(four):
    """A copy for each pair, of 5 and 6 rows, in pieces; under a norm of one of the copies, which clips as above."""
    found = four["pairs:sync"]
    assert found["names"] and found["progress"]
    assert found["distance"] < EXACT
    assert found["measured"] < 1e-9
    assert found["resumed"] == 0


def test_pairs_that_would_not_sum_the_gradients_of_their_rows_are_seen(four):
    """The negative control, and what finds it in use: a rank is compared with the owner of the same rows."""
    assert four["pairs:sync"]["apart"].startswith("rank 2 on ")
    assert "has other values of embedding than rank 0. Its memory" in four["pairs:sync"]["apart"]


def test_ranks_that_might_share_tables_and_do_not(sharing):
    """I43: plain training, bit for bit."""
    assert sharing["alone:ring_allreduce"]["distance"] == 0


def test_a_rank_holds_its_share_of_every_vector(sharing):
    """Rows of 3 numbers, 5 and 6 of 11, in whole lines of 16, beside 9 and 11 numbers that all have."""
    sizes = sharing["share:ring_allreduce"]["sizes"]
    assert [set(each) for each in sizes] == [{16 + 16 + 16}, {32 + 16 + 16}]


def test_checkpoints_of_sharded_tables_are_whole(sharing):
    """2 ranks, one process, 2 ranks; and 2 + 2 rounds equal 4 bit for bit."""
    found = sharing["interchange:ring_allreduce"]
    assert found["names"] and found["progress"]
    assert found["distance"] < EXACT
    assert found["resumed"] == 0


def test_with_sharded_tables_one_bad_gradient_stops_everybody(sharing):
    found = sharing["spoil:ring_allreduce"]
    assert found["finite"]
    assert found["skipped"] == [None, "the gradient of bias was not finite at step 2 of worker 1", None, None]


def test_bytes_of_sharded_tables_go_through_the_connections(sharing):
    """I46."""
    assert 1 <= sharing["carry:ring_allreduce"]["least"] < 1.01


def test_bytes_of_pairs_are_those_of_two_ranks_and_of_sums_beyond(sharing, four):
    """In the first update, in which the first pair of four has the batches of two.

    The rest, a line of 16 numbers for the transform and one for the bias, is summed by four in place of two, and 5 or 6
    rows of 3 numbers in one or two lines by their two owners.
    """
    alone, paired = (found[key]["bytes_pushed"][:2] for found, key in ((sharing, "tables:sync"), (four, "pairs:sync")))
    more = [2 * 8 * (32 * 3 / 4 - 32 / 2) + 2 * 8 * rows / 2 for rows in (16, 32)]
    assert paired == [number + beyond for number, beyond in zip(alone, more)]


def test_rank_that_drifts_is_named(two, four):
    """Where there are more than two, by the majority: it may be rank 0."""
    assert "rank 1 on " in two["drift:1"]["error"]
    assert "has other values of transform than rank 0" in two["drift:1"]["error"]
    assert "rank 0 on " in four["drift:0"]["error"]
    assert "has other values of transform than rank 1" in four["drift:0"]["error"]


def test_rank_that_fails_in_the_middle_of_a_step_is_found_gone(two):
    """Nobody waits for ever for what will never come."""
    (code, _, errors), (first_code, _, first_errors) = two["ended"]
    assert code and first_code
    assert "999 is not in [0, 11)" in first_errors
    assert "LostError: rank 0 on " in errors


def test_what_one_rank_refuses_all_refuse(two):
    assert two["refuse:0"]["error"] == "--data=here: is missing."
    assert two["refuse:1"]["error"].startswith("rank 1 on ")
    assert two["refuse:1"]["error"].endswith(": --data=here: is missing.")
