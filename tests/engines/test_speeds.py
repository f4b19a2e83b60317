"""Blocks in proportion to speed, under the virtual clock; `by_speed` among the rows has what all rows must hold."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import DIFFERENT, EQUAL_SPEED, EXACT, distance, local, parameters, run, simulated
from tfnmt.engines.schedule import STEPPED, Fault
from tfnmt.engines.speeds import Speed, steps_in_proportion
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.strategies import Bmuf, Downpour, ModelAverage
from tfnmt.strategies.delayed_nesterov import DelayedNesterov

BATCHES = toy.make_batches(128)
JITTER = CostSettings(jitter=0.3, seconds_per_token=0.0, step_seconds=1.0, stragglers=("1:1.7",))


def half_speed(**changed):
    """Worker 1 is half as fast, and nothing but steps costs time."""
    free = {"network_latency_seconds": 0.0, "network_bytes_per_second": 1e30}
    return dataclasses.replace(EQUAL_SPEED, **{"stragglers": ("1:2",), **free, **changed})


def average(by_speed=True, **flags):
    return ModelAverage(**{"local_steps": 8, "blocks_by_speed": by_speed, **flags})


class TestSteps:
    """H_i = max(1, ⌊v_i / v_max · H⌋)."""

    def test_are_in_proportion(self):
        speeds = [Speed(8, seconds) for seconds in (1.0, 2.0, 3.0, 99.0)]
        assert [steps_in_proportion(speeds, worker, 8) for worker in range(4)] == [8, 4, 2, 1]

    def test_of_a_whole_number_are_not_one_less(self):
        """Where seconds are rounded: 0.1 + 0.1 + 0.1 is more than 0.3."""
        assert steps_in_proportion([Speed(3, 0.3), Speed(3, 0.1 + 0.1 + 0.1)], 1, 3) == 3

    def test_are_all_until_everybody_is_known(self):
        assert steps_in_proportion([Speed(8, 1.0), Speed(8, 4.0), Speed()], 1, 8) == 8

    def test_follow_a_worker_that_slows_down(self):
        speed = Speed(8, 8.0)
        for _ in range(10):
            speed = speed.after(8, 16.0)
        assert steps_in_proportion([Speed(8, 8.0), speed], 1, 8) == 4


ROWS = [ModelAverage(local_steps=8), Bmuf(local_steps=8)]
FREE_ROWS = [DelayedNesterov(local_steps=8), Downpour(push_every=8, pull_every=16)]


@pytest.mark.parametrize("row", [*ROWS, *FREE_ROWS])
def test_of_equal_speed_all_do_all_steps_bit_for_bit(row):
    options = {"workers": 2, "optimizer": "adam", "dtype": tf.float32}
    plain, by_speed = (
        simulated(dataclasses.replace(row, blocks_by_speed=flag), BATCHES, **options) for flag in (False, True)
    )
    assert run(plain, 4) == run(by_speed, 4)
    for name, vector in plain.state().vectors.items():
        np.testing.assert_array_equal(by_speed.state().vectors[name], vector, err_msg=name)


def test_nobody_waits_for_a_worker_of_half_the_speed():
    """Behind the first block, which measures. Without the flag half of the fast worker's time is lost."""
    waits, seconds = {}, {}
    for by_speed in (False, True):
        engine = simulated(average(by_speed), BATCHES, workers=2, costs=half_speed())
        steps = [[8, 8], *[[8, 4 if by_speed else 8]] * 3]
        reports = run(engine, 4)
        assert [worker.step for worker in engine.crew] == np.sum(steps, axis=0).tolist()
        # A push tells what its worker has waited for others before it.
        waits[by_speed] = [push.wait_seconds for report in reports[2:] for push in report.pushes]
        seconds[by_speed] = [report.seconds for report in reports[1:]]
    assert waits[False] == pytest.approx([8, 0] * 2) and seconds[False] == pytest.approx([16] * 3)
    assert waits[True] == pytest.approx([0] * 4) and seconds[True] == pytest.approx([8] * 3)


@pytest.mark.parametrize("row", FREE_ROWS)
def test_a_worker_of_half_the_speed_that_waits_for_nobody_pushes_as_often(row):
    """Once its first push has told how fast it is; without the flag, half as often, and each time all steps."""
    assert steps_of_pushes(dataclasses.replace(row, blocks_by_speed=True), 9) == [[8] * 5, [8, 4, 4, 4]]
    assert steps_of_pushes(row, 6) == [[8] * 4, [8, 8]]


def steps_of_pushes(row, updates):
    """The steps of each push of the fast worker, and of the slow one."""
    engine = simulated(row, BATCHES, workers=2, costs=half_speed())
    found, absorb = [[], []], engine._servers.absorb
    engine._servers.absorb = lambda push, *how: found[push.worker].append(push.work.sums.steps) or absorb(push, *how)
    run(engine, updates)
    return found


def test_blocks_are_measured_and_not_declared():
    """Steps of random length: blocks are those of the sums that the pushes tell, from update to update."""
    engine = simulated(average(), BATCHES, workers=3, costs=JITTER)
    told, speeds, expected = [], [Speed()] * 3, []
    absorb = engine._servers.absorb
    engine._servers.absorb = lambda push, *how: told.append(push) or absorb(push, *how)
    found = []
    for _ in itertools.islice(engine.blocks(), 6):
        expected.append([steps_in_proportion(speeds, worker, 8) for worker in range(3)])
        found.append([push.work.sums.steps for push in told])
        sums = [push.work.sums for push in told]
        speeds = [speed.after(each.steps, each.step_seconds) for speed, each in zip(speeds, sums)]
        told.clear()
    assert found == expected
    assert found[0] == [8, 8, 8] and {8} < {steps for each in found[1:] for steps in each}


def test_a_block_that_is_lost_says_nothing_of_its_worker():
    """Nor does it matter that others are in their next block when the worker begins its own anew."""
    fault = Fault(worker=1, block=3, kind=STEPPED, seconds=0.5)
    undisturbed, disturbed = (
        simulated(average(), BATCHES, workers=2, costs=JITTER, faults=faults) for faults in ((), [fault])
    )
    run(undisturbed, 6), run(disturbed, 6)
    assert [event.kind for event in disturbed.trace].count("restarted") == 1
    assert disturbed.state().counters["speeds"] == pytest.approx(undisturbed.state().counters["speeds"])
    assert distance(disturbed, undisturbed) == 0


def test_resume_needs_the_speeds():
    """Through JSON, as in a checkpoint; without them the first block has all its steps, the negative control."""
    through, second, without = (simulated(average(), BATCHES, workers=2, costs=JITTER) for _ in range(3))
    blocks = through.blocks()
    list(itertools.islice(blocks, 3))
    state = through.state()
    counters = json.loads(json.dumps(state.counters))
    second.restore(dataclasses.replace(state, counters=counters))
    without.restore(dataclasses.replace(state, counters={**counters, "speeds": []}))
    list(itertools.islice(blocks, 3)), run(second, 3), run(without, 3)
    assert second.state().counters == through.state().counters
    np.testing.assert_array_equal(parameters(second), parameters(through))
    assert distance(without, through) > DIFFERENT


def test_one_graph_has_any_number_of_steps():
    """Of a whole block, as real workers run it: as many batches, steps of Adam and of the clock."""
    engine = local(BATCHES, average(), optimizer="adam")
    engine._servers.steps_of = lambda worker, step: next(numbers)
    numbers, worker = iter([8, 3, 1, 5]), engine._worker
    assert [report.sentences for report in run(engine, 4)] == [4 * 8, 4 * 3, 4 * 1, 4 * 5]
    alone = local(BATCHES, optimizer="adam")
    run(alone, 17)
    assert distance(engine, alone) < EXACT
    assert worker.replica.updates.numpy() == worker.step == 17
    assert len(worker._graph._functions) == 1


def test_without_the_flag_a_graph_reads_no_number_of_steps():
    engine = local(BATCHES, average(by_speed=False))
    engine._servers.steps_of = lambda worker, step: 3
    assert [report.sentences for report in run(engine, 1)] == [4 * 8]


@pytest.mark.parametrize(
    "flags, fault",
    [
        ({"local_steps": 1}, "--blocks_by_speed: no worker can do less than --local_steps=1; leave it out."),
        (
            {"sync_every_seconds": 2.5},
            "--blocks_by_speed: with --sync_every_seconds=2.5 all blocks take equally long; leave out either.",
        ),
        ({}, None),
    ],
)
def test_is_refused_where_it_would_do_nothing(flags, fault):
    for row in (ModelAverage, Bmuf, DelayedNesterov):
        assert row(blocks_by_speed=True, **flags).faults() == [fault] * (fault is not None)
        assert row(**flags).faults() == []


@pytest.mark.parametrize(
    "flags, fault",
    [
        ({"push_every": 1, "pull_every": 3}, "no worker can do less than --push_every=1; leave it out."),
        (
            {"push_every": 4, "pull_every": 6},
            "with --pull_every=6 a worker pulls between two pushes; give a multiple of --push_every=4.",
        ),
        ({"push_every": 4, "pull_every": 8}, None),
    ],
)
def test_downpour_refuses_it_where_it_would_do_nothing_or_pull_within_a_block(flags, fault):
    found = Downpour(blocks_by_speed=True, **flags).faults()
    assert found == ([f"--blocks_by_speed: {fault}"] if fault else []) and Downpour(**flags).faults() == []
