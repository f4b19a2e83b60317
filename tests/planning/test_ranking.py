"""The ranking of candidates, in numbers."""

import dataclasses
import json

import pytest

from tfnmt.engines.virtual_time import CostSettings
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.planning import ranking
from tfnmt.planning.goal import Goal, token_excess
from tfnmt.planning.probe import Probe, fit_line
from tfnmt.planning.ranking import Candidate
from tfnmt.strategies import STRATEGIES, Bmuf, DelayedAsync, Downpour, ModelAverage, RingAllreduce, Single, Sync

PROBE = Probe(
    machine="a machine",
    parameters=1000,
    batch_tokens=100,
    step_seconds=0.2,
    seconds_per_token=0.008,
    server_seconds_per_byte=0.0,
    meeting_seconds=0.0,
    table_rows=25,
    table_width=10,
)
NETWORK = CostSettings(jitter=0.0, network_bytes_per_second=4000.0, network_latency_seconds=0.0)
"""A step takes a second, and so does a vector over one link."""
ADAM = OptimizerSettings()
NO_GOAL = Goal()


def ranked(*found, goal=NO_GOAL, price=0.0):
    alone = Candidate("single", Single(), "none", 1, 1)
    return ranking.rank([alone, *found], PROBE, NETWORK, ADAM, goal, price)


def test_candidates_are_all_rows_with_all_that_they_can_choose():
    found = list(ranking.candidates([2, 4], 0, [5, 100], ["none", "float16"]))
    assert len(found) == len(set(found))
    assert {one.strategy for one in found} == set(STRATEGIES)
    assert found[0] == Candidate("single", Single(), "none", 1, 1)
    assert [one.workers for one in found if one.strategy == "single"] == [1]
    assert {(one.workers, one.servers) for one in found if one.strategy == "sync"} == {(2, 2), (4, 4)}
    assert {one.servers for one in found if one.strategy == "ring_allreduce"} == {0}
    steps = {(one.row.local_steps, one.encoding) for one in found if one.strategy == "bmuf"}
    assert steps == {(5, "none"), (5, "float16"), (100, "none"), (100, "float16")}
    assert {one.servers for one in ranking.candidates([4], 1, [5], ["none"]) if one.strategy == "sync"} == {1}


def test_quorums_are_proposed_where_they_are_possible_and_ranked_by_their_speed():
    found = [*ranking.candidates([2, 4], 1, [5], ["none"], quorums=True)]
    chosen = {(one.strategy, one.workers, one.flags()["quorum"]) for one in found if "quorum" in one.flags()}
    assert chosen == {(name, n, str(n - 1)) for name in ("sync", "model_average", "bmuf") for n in (2, 4)}
    sync = [one for one in found if one.strategy == "sync" and one.workers == 4]
    for jitter, quorum in ((0.5, 3), (0.0, None)):
        network = dataclasses.replace(NETWORK, jitter=jitter, network_bytes_per_second=1e9)
        order = ranking.rank([found[0], *sync], PROBE, network, ADAM, NO_GOAL)
        assert order[0].candidate.row.quorum == quorum


def test_ranks_that_share_tables():
    """A step of 1 s; a vector of 1,000 numbers, of which tables are a quarter, takes a second."""
    whole = Candidate("ring_allreduce", RingAllreduce(), "none", 2, 0)
    shared = dataclasses.replace(whole, model_parallel=2)
    seconds = {one.candidate: one.speed.step_seconds for one in ranked(whole, shared)}
    states, rows, sums = 100 * (2 * 10 + 5) + 1, 25 * (2 * 10 + 1) / 2, 10
    assert seconds[whole] == pytest.approx(1 + 1.0)
    assert seconds[shared] == pytest.approx(1 + 0.75 + (states + rows + sums) / 1000)
    assert shared.flags() == {"strategy": "ring_allreduce", "vocabulary_parallel": "true"}
    said = ranking.describe_tables(PROBE, [2, 4])
    assert "2 or 4 ranks to a copy of the tables (--model_parallel) hold 0 MB or 0 MB each of a vector of 0 MB" in said
    assert "; it saves no bytes, at 100 target tokens" in said


def test_groups_of_ranks_that_share_tables():
    """Two groups of two: a reduction of the rest by four, of half of the tables by two, and all else as without."""
    pairs = Candidate("ring_allreduce", RingAllreduce(), "none", 4, 0, model_parallel=2)
    (found,) = [one for one in ranked(pairs) if one.candidate is pairs]
    states, rows, sums = 100 * (2 * 10 + 5) + 1, 25 * (2 * 10 + 1) / 2, 10
    rest, owners = 750 * 2 * 3 / 4, 125 * 2 / 2
    assert found.speed.step_seconds == pytest.approx(1 + (rest + owners + states + rows + sums) / 1000)
    assert pairs.flags() == {"strategy": "ring_allreduce", "vocabulary_parallel": "true", "model_parallel": "2"}
    shared = [one.model_parallel for one in ranking.candidates([6], 0, [5], ["none"]) if one.model_parallel > 1]
    assert shared == [2, 3, 6]


def test_rows_of_a_source_table():
    """A batch reads 8 of the 50 rows, of 10 numbers each, that are half of all parameters."""
    probe = dataclasses.replace(PROBE, source_rows=50, looked_up=8)
    found = {one for one in ranking.candidates([2], 0, [5], ["none"], sparse=True) if one.sparse_embeddings}
    assert {one.strategy for one in found} == {"sync", "async", "summed_async", "delayed_async", "downpour"}
    (sync,) = [one for one in found if one.strategy == "sync"]
    assert sync.flags() == {"strategy": "sync", "sparse_embeddings": "true"}
    columns = sync.columns(ADAM)
    costs = ranking.costs_of(sync, columns, probe, NETWORK)
    assert [table.count for table in costs.rows_on_servers] == [50, 0]
    assert ranking.rows_read(probe, columns, costs.rows_on_servers) == [8, 0]
    assert ranking.rows_read(probe, Downpour().row(2, ADAM), costs.rows_on_servers) == [5 * 8, 0]
    numbers = 1000 - 50 * 10 + 8 * 10
    _, predicted = ranking.rank([Candidate("single", Single(), "none", 1, 1), sync], probe, NETWORK, ADAM, NO_GOAL)
    assert predicted.speed.bytes_per_token == pytest.approx(4 * (2 * numbers + 8) / probe.batch_tokens)


def test_order_and_speed_up():
    """Two servers, two workers: a vector takes a second; ten local steps share a pull and a push of a second each."""
    sync = Candidate("sync", Sync(), "none", 2, 2)
    rare = Candidate("bmuf", Bmuf(local_steps=10), "none", 2, 2)
    found = ranked(sync, rare)
    assert [one.candidate for one in found] == [rare, found[1].candidate, sync]
    assert [one.speed_up for one in found] == pytest.approx([2 / 1.2, 1.0, 2 / 3])
    assert [one.seconds for one in found] == [None] * 3


def test_sixteen_bits_travel_in_half_the_time():
    """A push, and all of a ring's reduction, which is 2 (N - 1) / N vectors."""
    star, ring = (("sync", Sync(), 2), ("ring_allreduce", RingAllreduce(), 0))
    seconds = {}
    for name, row, servers in (star, ring):
        for encoding in ("none", "float16"):
            found = ranked(Candidate(name, row, encoding, 2, servers))
            (one,) = [one for one in found if one.candidate.strategy == name]
            seconds[name, encoding] = one.speed.step_seconds
    assert seconds == pytest.approx(
        {
            ("sync", "none"): 1 + 2.0,
            ("sync", "float16"): 1 + 1.5,
            ("ring_allreduce", "none"): 1 + 1.0,
            ("ring_allreduce", "float16"): 1 + 0.5,
        }
    )


@pytest.mark.parametrize(
    "row, batches",
    [
        (Single(), 4),
        (Sync(), 4),
        (ModelAverage(local_steps=50), 4),
        (Downpour(push_every=2, pull_every=2), 4),  # trains between two pushes
        (DelayedAsync(delay=2, local_optimizer_batches=0), 8),  # does not
    ],
)
def test_tokens_grow_with_those_that_bear_on_the_same_parameters(row, batches):
    columns = row.row(4, ADAM)
    assert token_excess(columns, 4, 100, 1000.0) == pytest.approx(1 + batches * 100 / 1000)
    assert token_excess(columns, 4, 100, None) == 1.0


def test_time_and_price_to_the_goal():
    """100 tokens a batch, a critical batch of 200: one worker needs 1.5 times the least, two need twice as many."""
    goal = Goal(critical_tokens=200.0, tokens=36_000.0)
    sync = Candidate("sync", Sync(), "none", 2, 2)
    found = {one.candidate.strategy: one for one in ranked(sync, goal=goal, price=3.0)}
    assert found["single"].seconds == pytest.approx(1.5 * 36_000 / 100)
    assert found["single"].price == pytest.approx(found["single"].seconds / 3600 * 3.0)
    assert found["sync"].seconds == pytest.approx(2 * 36_000 / (200 / 3))
    assert found["sync"].price == pytest.approx(found["sync"].seconds / 3600 * 4 * 3.0)
    assert found["sync"].token_factor == pytest.approx(2 / 1.5)
    assert found["sync"].speed_up == pytest.approx(found["single"].seconds / found["sync"].seconds)


def test_flags_are_those_that_differ_from_the_defaults():
    assert Candidate("bmuf", Bmuf(local_steps=7), "float16", 2, 2).flags() == {
        "strategy": "bmuf",
        "local_steps": "7",
        "encoding": "float16",
    }


def test_a_document_gives_the_probe_back(tmp_path):
    file = tmp_path / "plan.json"
    found = ranked(Candidate("sync", Sync(), "none", 2, 2))
    file.write_text(json.dumps(ranking.document(PROBE, NETWORK, NO_GOAL, found)))
    assert ranking.read_probe(file) == PROBE
    file.write_text('{"probe": {"machine": "a"}}')
    with pytest.raises(ValueError, match="no probe"):
        ranking.read_probe(file)


@pytest.mark.parametrize(
    "points, line",
    [
        ([(100, 0.5), (400, 1.1)], (0.002, 0.3)),
        ([(100, 0.5), (400, 1.1), (100, 0.7), (400, 1.3)], (0.002, 0.4)),
        ([(100, 1.0), (300, 3.2)], (0.0106, 0.0)),  # an offset below nothing is none
        ([(100, 1.0), (300, 0.9)], (0.0037, 0.0)),  # and tokens are never free
        ([(100, 1.0), (100, 2.0)], (0.015, 0.0)),
    ],
)
def test_a_line_through_noise(points, line):
    assert fit_line(points) == pytest.approx(line)
