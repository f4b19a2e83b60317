"""The rows with a barrier against what they must equal, on the simulated engine, each with its negative control.

The numbers of the invariants are those of the algorithms' description: I3 to I6, I11 to I21, I23.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import (
    DIFFERENT,
    EXACT,
    SCHEDULE,
    distance,
    gradient_of,
    local,
    parameters,
    rounds,
    run,
    simulated,
)
from tfnmt.engines.schedule import PUSHED, STEPPED, Fault
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import (
    Bmuf,
    ModelAverage,
    Sync,
)
from tfnmt.strategies.averaging import BlockMomentum

BATCHES = toy.make_batches(48)


class TestSync:
    @pytest.mark.parametrize("optimizer, workers, servers", [("sgd", 2, 1), ("adam", 3, 2), ("adagrad", 4, 3)])
    def test_equals_the_joined_batch(self, optimizer, workers, servers):
        """I3, over any number of servers."""
        batches = BATCHES[: 3 * workers]
        together = simulated(Sync(), batches, workers=workers, servers=servers, optimizer=optimizer, schedule=SCHEDULE)
        alone = local(rounds(batches, workers), optimizer=optimizer, schedule=SCHEDULE)
        reports, expected = run(together, 3), run(alone, 3)
        assert distance(together, alone) < EXACT
        for report, one in zip(reports, expected):
            assert report.target_tokens == one.target_tokens
            assert report.loss == pytest.approx(one.loss, rel=EXACT)
            assert report.gradient_norm == pytest.approx(one.gradient_norm, rel=EXACT)

    def test_equals_the_joined_batch_where_it_is_clipped(self):
        together = simulated(Sync(), BATCHES, workers=3, servers=2, clip_norm=0.05)
        alone = local(rounds(BATCHES, 3), clip_norm=0.05)
        assert min(report.gradient_norm for report in run(together, 3)) > 0.05
        run(alone, 3)
        assert distance(together, alone) < EXACT

    def test_mean_of_means_would_differ(self):
        """The negative control: model averaging of one step weighs every worker the same."""
        together, alone = simulated(ModelAverage(local_steps=1), BATCHES, workers=3), local(rounds(BATCHES, 3))
        run(together, 1), run(alone, 1)
        assert distance(together, alone) > DIFFERENT

    def test_order_of_arrival_changes_no_bit(self):
        """I4: the servers take the pushes of a round in the order of the workers; I5: none is stale."""
        slow_first = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("0:3", "1:2"))
        one = simulated(Sync(), BATCHES, workers=4, dtype=tf.float32)
        other = simulated(Sync(), BATCHES, workers=4, dtype=tf.float32, costs=slow_first)
        for engine in (one, other):
            assert [push.staleness for report in run(engine, 5) for push in report.pushes] == [0] * 20
        assert [event.worker for event in one.trace[:12]] != [event.worker for event in other.trace[:12]]
        np.testing.assert_array_equal(parameters(one), parameters(other))

    def test_share_of_the_global_batch(self):
        """Each worker accumulates batches until it has its part of the tokens."""
        reports = run(simulated(Sync(), BATCHES, workers=2, global_batch_tokens=100), 2)
        assert all(push.target_tokens >= 50 for report in reports for push in report.pushes)


class TestModelAverage:
    @pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
    def test_one_step_of_a_linear_optimizer_equals_sync(self, optimizer):
        """I11, on batches of equal weight: their means have one mean."""
        batches = toy.make_batches(12, sentences=1, seed=3)
        batches = [_of_equal_length(batch) for batch in batches]
        averaged = simulated(ModelAverage(local_steps=1), batches, workers=3, optimizer=optimizer)
        together = simulated(Sync(), batches, workers=3, optimizer=optimizer)
        run(averaged, 4), run(together, 4)
        assert distance(averaged, together) < EXACT

    def test_one_step_of_adam_differs_from_sync(self):
        """I12, the negative control."""
        batches = [_of_equal_length(batch) for batch in toy.make_batches(12, sentences=1, seed=3)]
        averaged = simulated(ModelAverage(local_steps=1), batches, workers=3, optimizer="adam")
        together = simulated(Sync(), batches, workers=3, optimizer="adam")
        run(averaged, 4), run(together, 4)
        assert distance(averaged, together) > DIFFERENT

    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    def test_one_worker_equals_plain_training(self, optimizer):
        """I13: for any H, learning rate schedule included."""
        averaged = simulated(ModelAverage(local_steps=4), BATCHES, workers=1, optimizer=optimizer, schedule=SCHEDULE)
        alone = local(BATCHES, optimizer=optimizer, schedule=SCHEDULE)
        run(averaged, 3), run(alone, 12)
        assert distance(averaged, alone) < EXACT

    @pytest.mark.parametrize("workers, servers, slots", [(2, 1, "keep"), (2, 1, "average"), (3, 2, "average")])
    def test_equal_data_equals_plain_training(self, workers, servers, slots):
        """I14: workers that read the same do the same, and so do their optimizers."""
        repeated = [batch for batch in BATCHES[:8] for _ in range(workers)]
        row = ModelAverage(local_steps=4, local_slots=slots)
        averaged = simulated(row, repeated, workers=workers, servers=servers, optimizer="adam", schedule=SCHEDULE)
        alone = local(BATCHES[:8], optimizer="adam", schedule=SCHEDULE)
        run(averaged, 2), run(alone, 8)
        assert distance(averaged, alone) < EXACT

    def test_averaged_slots_follow_their_equations(self):
        """One step of Adam on each of three workers from one m, v and θ; then the means of the three."""
        adam = OptimizerSettings(adam_epsilon=1e-3)
        engine, kept = (
            simulated(ModelAverage(local_steps=1, local_slots=slots), BATCHES, workers=3, servers=2, optimizer=adam)
            for slots in ("average", "keep")
        )
        expected = np.stack([parameters(engine), *np.zeros([2, parameters(engine).size])])
        blocks = engine.blocks()
        for t in range(1, 5):
            next(blocks)
            moved = []
            for batch in BATCHES[3 * (t - 1) : 3 * t]:
                theta, m, v = expected
                gradient, tokens = gradient_of(theta, batch)
                mean = gradient / tokens
                m, v = 0.9 * m + 0.1 * mean, 0.98 * v + 0.02 * mean**2
                update = 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.98**t)) + 1e-3)
                moved.append([theta - update, m, v])
            expected = np.mean(moved, axis=0)
            vectors = engine.state().vectors
            for name, vector in zip(("parameters", "local_m", "local_v"), expected):
                np.testing.assert_allclose(vectors[name], vector, atol=EXACT, err_msg=name)
        run(kept, 4)
        assert distance(engine, kept) > DIFFERENT

    def test_averaged_slots_without_block_momentum_are_model_averaging(self):
        """What I17 says, of their means too."""
        averaged, filtered = (
            simulated(row, BATCHES, workers=3, optimizer="adam", dtype=tf.float32)
            for row in (
                ModelAverage(local_steps=2, local_slots="average"),
                Bmuf(local_steps=2, block_momentum=0.0, local_slots="average"),
            )
        )
        run(averaged, 4), run(filtered, 4)
        for name in ("parameters", "local_m", "local_v"):
            np.testing.assert_array_equal(filtered.state().vectors[name], averaged.state().vectors[name], err_msg=name)

    def test_mean_is_inside_the_hull_of_the_replicas(self):
        """I15: coordinate by coordinate."""
        averaged = simulated(ModelAverage(local_steps=3), BATCHES, workers=3, optimizer="adam")
        run(averaged, 1)
        replicas = np.stack([worker.replica.parameters.numpy() for worker in averaged.crew])
        mean = parameters(averaged)
        assert np.all(mean <= replicas.max(axis=0) + EXACT)
        assert np.all(mean >= replicas.min(axis=0) - EXACT)
        np.testing.assert_allclose(mean, replicas.mean(axis=0), atol=EXACT)

    def test_bytes_fall_with_the_steps_of_a_block(self):
        """I16: two models a block, however many steps it has; Adam's averaged slots are as much again, twice."""
        for steps, slots, vectors in ((1, "keep", 1), (2, "keep", 1), (6, "keep", 1), (2, "average", 3)):
            row = ModelAverage(local_steps=steps, local_slots=slots)
            engine = simulated(row, BATCHES, workers=2, servers=2, optimizer="adam")
            (report,) = run(engine, 1)
            whole = vectors * parameters(engine).nbytes
            assert [(push.bytes_pulled, push.bytes_pushed) for push in report.pushes] == [(whole, whole)] * 2
            assert report.sentences == 2 * steps * 4

    def test_reset_forgets_the_local_slots(self):
        kept, reset = (
            simulated(ModelAverage(local_steps=2, local_slots=slots), BATCHES, workers=2, optimizer="momentum")
            for slots in ("keep", "reset")
        )
        run(kept, 1), run(reset, 1)
        assert distance(kept, reset) == 0
        run(kept, 1), run(reset, 1)
        assert distance(kept, reset) > DIFFERENT

    def test_slots_count_their_own_updates(self):
        """Behind a warm start, behind a reset and with a worker that was replaced: Adam's corrections read this."""
        fault = Fault(worker=1, block=6, kind=PUSHED)
        for slots, ages in (("keep", [13, 6]), ("reset", [3, 3]), ("average", [13, 13])):
            row = ModelAverage(local_steps=3, local_slots=slots)
            engine = simulated(
                row, BATCHES, workers=2, optimizer="adam", warm_start_updates=4, faults=[fault], dtype=tf.float32
            )
            run(engine, 7)
            assert [worker.step for worker in engine.crew] == [13, 13]
            assert [worker.replica.updates.numpy() for worker in engine.crew] == ages

    def test_reset_slots_begin_like_adam(self):
        """Every local update is then Adam's first, α g / (|g| + ε): so is no other but the first of kept ones."""
        row, epsilon = ModelAverage(local_steps=1, local_slots="reset"), 1e-3
        adam = OptimizerSettings(adam_epsilon=epsilon)
        engine, kept = (
            simulated(each, BATCHES, workers=1, optimizer=adam) for each in (row, ModelAverage(local_steps=1))
        )
        expected = parameters(engine)
        for batch, _ in zip(BATCHES, itertools.islice(engine.blocks(), 4)):
            gradient, tokens = gradient_of(expected, batch)
            mean = gradient / tokens
            expected = expected - 0.1 * mean / (np.abs(mean) + epsilon)
            np.testing.assert_allclose(parameters(engine), expected, atol=EXACT)
        run(kept, 4)
        assert distance(engine, kept) > DIFFERENT

    def test_slots_without_an_age_are_as_old_as_their_worker(self):
        """Checkpoints were written so once."""
        engines = [simulated(ModelAverage(local_steps=3), BATCHES, workers=2, optimizer="adam") for _ in range(2)]
        run(engines[0], 2)
        state = engines[0].state()
        old = {name: vector for name, vector in state.vectors.items() if not name.endswith("updates")}
        assert len(old) == len(state.vectors) - 2
        engines[1].restore(dataclasses.replace(state, vectors=old))
        assert [worker.replica.updates.numpy() for worker in engines[1].crew] == [6, 6]

    def test_a_block_may_end_by_the_clock(self):
        """The slow worker does fewer steps, and the fast one need not wait for it; averaged slots are of mean age."""
        costs = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("1:3",))
        row = ModelAverage(local_steps=100, sync_every_seconds=5.5, local_slots="average")
        engine = simulated(row, BATCHES, workers=2, costs=costs, optimizer="adam")
        run(engine, 1)
        steps = [sum(event.worker == worker and event.kind == STEPPED for event in engine.trace) for worker in (0, 1)]
        assert steps == [6, 2]
        assert engine.state().counters["local_updates"] == 4

    def test_reports_the_learning_rate_of_its_workers(self):
        """That of their last local step, three behind each other, rather than of the averaging."""
        warmup = ScheduleSettings(learning_rate=0.1, schedule="constant", warmup_updates=12)
        engine = simulated(ModelAverage(local_steps=3), BATCHES, workers=2, schedule=warmup)
        rates = [report.learning_rate for report in run(engine, 5)]
        assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1], rel=EXACT)

    def test_moving_average_counts_steps_rather_than_averagings(self):
        """Behind a warm start too; as many steps one by one forget as much."""
        row = ModelAverage(local_steps=3)
        engine = simulated(row, BATCHES, workers=2, average_rate=0.2, warm_start_updates=2, dtype=tf.float64)
        expected, steps = parameters(engine), 0
        for report in itertools.islice(engine.blocks(), 5):
            taken = 1 if report.update <= 2 else 3
            kept = (1 - max(0.2, 1 - (steps + 1) / (steps + 10))) ** taken
            expected, steps = kept * expected + (1 - kept) * parameters(engine), steps + taken
            assert np.abs(engine.state().evaluated - expected).max() < EXACT


class TestBmuf:
    def test_without_momentum_it_is_model_averaging(self):
        """I17: bit for bit, in both forms (I23); with momentum it is not."""
        averaged = simulated(ModelAverage(local_steps=3), BATCHES, workers=2, optimizer="adam", dtype=tf.float32)
        run(averaged, 4)
        for nesterov in (False, True):
            row = Bmuf(local_steps=3, block_momentum=0.0, block_nesterov=nesterov)
            filtered = simulated(row, BATCHES, workers=2, optimizer="adam", dtype=tf.float32)
            run(filtered, 4)
            np.testing.assert_array_equal(parameters(filtered), parameters(averaged))
        row = Bmuf(local_steps=3, block_momentum=0.3)
        other = simulated(row, BATCHES, workers=2, optimizer="adam", dtype=tf.float32)
        run(other, 4)
        assert distance(averaged, other) > DIFFERENT

    def test_of_one_step_of_sgd_is_sync(self):
        """I18, on batches of equal weight."""
        batches = [_of_equal_length(batch) for batch in toy.make_batches(12, sentences=1, seed=3)]
        filtered = simulated(Bmuf(local_steps=1, block_momentum=0.0), batches, workers=3)
        together = simulated(Sync(), batches, workers=3)
        run(filtered, 4), run(together, 4)
        assert distance(filtered, together) < EXACT

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_equals_sgd_with_momentum_on_the_pseudo_gradient(self, nesterov):
        """I20: v ← η v - ζ g, w ← w + v or w + η v - ζ g, with g the parameters minus the mean replica."""
        row = Bmuf(local_steps=2, block_learning_rate=0.7, block_momentum=0.6, block_nesterov=nesterov)
        engine = simulated(row, BATCHES, workers=2)
        blocks = engine.blocks()
        expected, velocity = parameters(engine), 0.0
        for _ in range(5):
            next(blocks)
            replicas = [worker.replica.parameters.numpy() for worker in engine.crew]
            gradient = expected - np.mean(replicas, axis=0)
            velocity = 0.6 * velocity - 0.7 * gradient
            expected = expected + (0.6 * velocity - 0.7 * gradient if nesterov else velocity)
            np.testing.assert_allclose(parameters(engine), expected, atol=EXACT)

    def test_constant_delta_comes_to_the_steady_state(self):
        """I21: the step approaches ζ / (1 - η) G."""
        update = BlockMomentum(0.7, 0.9, nesterov=True)
        handles = {name: tf.Variable([0.0], dtype=tf.float64) for name in ("parameters", *update.slots)}
        slots = {name: handles[name].handle for name in update.slots}
        delta, moved = tf.constant([1.0], tf.float64), []
        for version in range(200):
            before = handles["filtered"].numpy()
            update.apply(handles["parameters"].handle, slots, delta, 0.0, version)
            moved.append((handles["filtered"].numpy() - before)[0])
        limit = 0.7 / (1 - 0.9)
        assert all(abs(step - limit) <= limit * 0.9**n for n, step in enumerate(moved))

    def test_reports_the_norm_of_the_block_update(self):
        engine = simulated(Bmuf(local_steps=2, block_momentum=0.5), BATCHES, workers=2, servers=2)
        *_, last = run(engine, 3)
        assert last.momentum_norm == pytest.approx(np.linalg.norm(engine.state().vectors["block_update"]), rel=EXACT)
        assert last.momentum_norm != pytest.approx(last.gradient_norm, rel=DIFFERENT)
        averaged = simulated(ModelAverage(local_steps=2), BATCHES, workers=2)
        assert [report.momentum_norm for report in run(averaged, 1)] == [None]

    def test_what_is_evaluated_is_not_what_is_pulled(self):
        engine = simulated(Bmuf(local_steps=2, block_momentum=0.5), BATCHES, workers=2)
        run(engine, 2)
        vectors = engine.state().vectors
        assert engine.state().counters["evaluated"] == "filtered"
        np.testing.assert_array_equal(engine.state().evaluated, vectors["filtered"])
        ahead = vectors["filtered"] + 0.5 * vectors["block_update"]
        np.testing.assert_allclose(vectors["parameters"], ahead, atol=EXACT)
        assert np.abs(vectors["parameters"] - vectors["filtered"]).max() > DIFFERENT


def _of_equal_length(batch):
    """A batch of one target sentence, cut or filled up to four tokens."""
    targets = tf.concat([batch.target_ids[:, :-1], tf.fill([1, 4], 5)], axis=1)[:, :3]
    ends = tf.fill([1, 1], 3)
    return batch._replace(target_ids=tf.concat([targets, ends], axis=1))
