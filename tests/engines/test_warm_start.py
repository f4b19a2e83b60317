"""What goes on across a change of phase, and the clocks of rates, laws and averages, on the simulated engine."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import DIFFERENT, EXACT, SCHEDULE, distance, gradient_of, local, parameters, run, simulated
from tfnmt.engines.schedule import PULLED, PUSHED, Fault
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.strategies import (
    Async,
    Bmuf,
    DelayedAsync,
    Downpour,
    ModelAverage,
    SummedAsync,
    Sync,
    default_block_momentum,
)

BATCHES = toy.make_batches(64)
NEW_NUMBERS = ("steps", "updates", "local_updates", "phase_began")
"""What version 0.1 did not write."""


def in_turn(rounds, workers=3):
    """A script by which every worker pulls, and then every worker pushes: staleness 0."""
    one = [(worker, kind) for kind in (PULLED, PUSHED) for worker in range(workers)]
    return one * rounds


class TestOptimizerGoesOn:
    @pytest.mark.parametrize("row, same", [(SummedAsync(), True), (SummedAsync(summed_pushes=2), False)])
    def test_sync_and_then_summed_pushes_of_no_staleness_are_sync(self, row, same):
        """Bit for bit: Adam's moments and the count of its updates are those of one run; a smaller sum is not."""
        options = {"workers": 3, "servers": 2, "optimizer": "adam", "dtype": tf.float32}
        warm = simulated(row, BATCHES, warm_start_updates=3, script=in_turn(7), **options)
        together = simulated(Sync(), BATCHES, **options)
        run(warm), run(together, 7)
        found, expected = warm.state().vectors, together.state().vectors
        for name in ("parameters", "m", "v"):
            assert np.array_equal(found[name], expected[name]) is same, name

    @pytest.mark.parametrize("optimizer", ["momentum", "adam"])
    def test_one_worker_s_local_optimizer_is_the_one_of_the_warm_start(self, optimizer):
        options = {"optimizer": optimizer, "schedule": SCHEDULE}
        alone = local(BATCHES, **options)
        run(alone, 9)
        for slots, same in (("keep", True), ("average", True), ("reset", False)):
            row = ModelAverage(local_steps=2, local_slots=slots)
            warm = simulated(row, BATCHES, workers=1, warm_start_updates=3, **options)
            run(warm, 6)
            assert bool(distance(warm, alone) < EXACT) is same, slots

    def test_another_optimizer_begins_anew(self):
        """Block momentum has slots of its own; they are not Adam's."""
        engine = simulated(Bmuf(local_steps=2), BATCHES, workers=2, optimizer="momentum", warm_start_updates=2)
        run(engine, 3)
        state = engine.state()
        assert state.counters["updates"] == 1
        assert "velocity" not in state.vectors

    @pytest.mark.parametrize("slots, updates", [("keep", 3), ("average", 3), ("keep", 1)])
    def test_a_checkpoint_at_the_change_holds_what_is_handed_over(self, slots, updates):
        """One of the warm start goes on with it."""
        row = ModelAverage(local_steps=2, local_slots=slots)
        options = {"workers": 2, "optimizer": "adam", "warm_start_updates": 3, "dtype": tf.float32}
        through, second = (simulated(row, BATCHES, **options) for _ in range(2))
        blocks = through.blocks()
        list(itertools.islice(blocks, updates))
        second.restore(through.state())
        list(itertools.islice(blocks, 6 - updates)), run(second, 6 - updates)
        for name, vector in through.state().vectors.items():
            np.testing.assert_array_equal(second.state().vectors[name], vector, err_msg=name)

    @pytest.mark.parametrize(
        "slots, holders, updates",
        [("keep", ["worker_0", "worker_1"], 0), ("reset", [], 0), ("average", ["local"], 1)],
    )
    def test_slots_are_handed_to_whom_they_belong(self, slots, holders, updates):
        """To each worker, to nobody, or to the servers, from whom all pull them; Adagrad's do not begin with zero."""
        options = {"workers": 2, "optimizer": "adagrad"}
        row = ModelAverage(local_steps=2, local_slots=slots)
        warm, sync = simulated(row, BATCHES, warm_start_updates=1, **options), simulated(Sync(), BATCHES, **options)
        run(warm, 1), run(sync, 1)
        found, expected = warm.state(), sync.state().vectors["sum_of_squares"]
        handed = {f"{holder}_sum_of_squares" for holder in holders}
        others = {"sum_of_squares", "received_sum_of_squares"}
        assert {name for name in found.vectors if "squares" in name} - others == handed
        for name in handed:
            np.testing.assert_array_equal(found.vectors[name], expected)
        assert found.counters["local_updates"] == updates

    def test_a_worker_that_dies_before_its_first_push_begins_with_its_slots(self):
        """Though another has pushed, and so needs its own no more."""
        fault = Fault(worker=1, block=2, kind=PUSHED)
        row, options = ModelAverage(local_steps=2), {"workers": 2, "optimizer": "momentum", "warm_start_updates": 1}
        struck, sound = (simulated(row, BATCHES, faults=faults, **options) for faults in ([fault], []))
        run(struck, 2), run(sound, 2)
        assert [event.kind for event in struck.trace].count("restarted") == 1
        assert distance(struck, sound) == 0

    def test_a_checkpoint_without_the_new_numbers_is_read(self):
        first, second = (simulated(Sync(), BATCHES, workers=2, optimizer="adam") for _ in range(2))
        run(first, 3)
        state = first.state()
        old = {name: value for name, value in state.counters.items() if name not in NEW_NUMBERS}
        second.restore(dataclasses.replace(state, counters=old))
        assert second.state().counters == state.counters | {"phase_began": 0}
        run(first, 2), run(second, 2)
        assert distance(first, second) == 0


class TestClocks:
    def test_local_updates_between_pulls_have_the_rate_of_the_version_pulled(self):
        """Not of the worker's own steps, of which there are twice as many."""
        row = Downpour(push_every=2, pull_every=4, local_rate=1.0)
        engine = simulated(row, BATCHES, workers=1, schedule=dataclasses.replace(SCHEDULE, warmup_updates=100))
        run(engine, 2)
        replica = parameters(engine)
        run(engine, 1)
        for batch in BATCHES[4:6]:
            replica = replica - 0.1 * 3 / 100 * _mean_gradient(replica, batch)
        np.testing.assert_allclose(engine.crew[0].replica.parameters, replica, atol=EXACT)

    def test_workers_of_unequal_speed_share_a_clock(self):
        """The slow worker has done 2 steps for the 6 of the fast one; both go on at the mean."""
        costs = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("1:3",))
        row = ModelAverage(local_steps=100, sync_every_seconds=5.5)
        warmup = dataclasses.replace(SCHEDULE, warmup_updates=100)
        engine = simulated(row, BATCHES, workers=2, costs=costs, schedule=warmup)
        (first,) = run(engine, 1)
        assert engine.state().counters["steps"] == 4
        assert first.learning_rate == pytest.approx(0.1 * 4 / 100)
        replica = parameters(engine)
        run(engine, 1)
        for number, batch in enumerate(BATCHES[12:24:2]):
            replica = replica - 0.1 * (5 + number) / 100 * _mean_gradient(replica, batch)
        np.testing.assert_allclose(engine.crew[0].replica.parameters, replica, atol=EXACT)

    @pytest.mark.parametrize("workers, updates", [(1, 6), (2, 3)])
    def test_local_optimizer_s_batches_are_those_of_all_workers_behind_the_warm_start(self, workers, updates):
        row = DelayedAsync(delay=1, local_optimizer_batches=6)
        engine = simulated(row, BATCHES, workers=workers, optimizer="adam", warm_start_updates=5)
        run(engine, 5 + 8 * workers)
        assert [worker.replica.updates.numpy() for worker in engine.crew] == [updates] * workers

    def test_moving_average_of_free_rows_forgets_by_the_steps_of_all(self):
        """Two updates of one worker's step each forget as much as one of both."""
        engine = simulated(Async(), BATCHES, workers=2, average_rate=0.2)
        expected, clock = parameters(engine), 0.0
        for _ in itertools.islice(engine.blocks(), 6):
            kept = (1 - max(0.2, 1 - (clock + 1) / (clock + 10))) ** 0.5
            expected, clock = kept * expected + (1 - kept) * parameters(engine), clock + 0.5
            assert np.abs(engine.state().evaluated - expected).max() < EXACT


class TestLaws:
    @pytest.mark.parametrize("law, power", [("linear", 1.0), ("sqrt", 0.5)])
    def test_count_the_batches_that_were_read(self, law, power):
        """Not the payloads: each worker reads several for its share of the global batch."""
        engine = simulated(Sync(), BATCHES, workers=2, global_batch_tokens=100, learning_rate_law=law)
        for report in run(engine, 3):
            batches = report.sentences / 4
            assert batches > 2
            assert report.learning_rate == pytest.approx(0.1 * batches**power)

    def test_a_warm_start_may_have_its_own(self):
        engine = simulated(
            SummedAsync(), BATCHES, workers=2, warm_start_updates=2, learning_rate_law="linear", warm_start_law="none"
        )
        assert [report.learning_rate for report in run(engine, 4)] == pytest.approx([0.1, 0.1, 0.2, 0.2])

    def test_of_averaged_replicas_counts_everybody_s_batches(self):
        """Each local step is one of as many as there are workers."""
        linear, none = (
            simulated(ModelAverage(local_steps=1), BATCHES, workers=3, learning_rate_law=law, schedule=schedule)
            for law, schedule in (("linear", SCHEDULE), ("none", dataclasses.replace(SCHEDULE, learning_rate=0.3)))
        )
        run(linear, 3), run(none, 3)
        assert distance(linear, none) < EXACT

    @pytest.mark.parametrize(
        "optimizer, workers, momentum",
        [
            ("sgd", 4, 0.75),
            ("momentum", 8, 0.875),
            ("adam", 1, 0.0),
            ("adam", 3, 0.0),
            ("adam", 4, 0.2),
            ("adagrad", 15, 0.5),
            ("adamw", 16, 0.6),
        ],
    )
    def test_default_block_momentum_depends_on_the_local_optimizer(self, optimizer, workers, momentum):
        assert default_block_momentum(workers, optimizer) == momentum

    def test_default_block_momentum_is_that_of_the_row(self):
        default, same, other = (
            simulated(Bmuf(local_steps=1, block_momentum=given), BATCHES, workers=4, optimizer="adam")
            for given in (None, 0.2, 0.3)
        )
        run(default, 2), run(same, 2), run(other, 2)
        assert distance(default, same) == 0
        assert distance(default, other) > DIFFERENT


def _mean_gradient(replica, batch):
    gradient, tokens = gradient_of(replica, batch)
    return gradient / tokens
