"""Every strategy against what it must equal, on the simulated engine; each equality with its negative control.

The numbers of the invariants are those of the algorithms' description: I3 to I6 and I11 to I41.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import (
    SCHEDULE,
    distance,
    local,
    parameters,
    rounds,
    run,
    simulated,
)
from tests.engines.rows import ROWS
from tfnmt.engines.simulated import ABSORBED, PULLED, PUSHED, STEPPED, Fault
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.optimizers.block_momentum import BlockMomentum
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import (
    Async,
    Bmuf,
    DelayedAsync,
    Downpour,
    ModelAverage,
    SummedAsync,
    Sync,
)

BATCHES = toy.make_batches(48)
EXACT = 1e-12
DIFFERENT = 1e-6


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
        """I4: the servers take the pushes of a round in the order of the workers."""
        slow_first = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("0:3", "1:2"))
        one = simulated(Sync(), BATCHES, workers=4, dtype=tf.float32)
        other = simulated(Sync(), BATCHES, workers=4, dtype=tf.float32, costs=slow_first)
        run(one, 5), run(other, 5)
        assert [event.worker for event in one.trace[:12]] != [event.worker for event in other.trace[:12]]
        np.testing.assert_array_equal(parameters(one), parameters(other))

    def test_everybody_pulls_one_version(self):
        """I5: no push is stale."""
        reports = run(simulated(Sync(), BATCHES, workers=3), 4)
        assert [push.staleness for report in reports for push in report.pushes] == [0] * 12

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

    def test_equal_data_equals_plain_training(self):
        """I14: workers that read the same do the same."""
        doubled = [batch for batch in BATCHES[:8] for _ in range(2)]
        averaged, alone = (
            simulated(ModelAverage(local_steps=4), doubled, workers=2, optimizer="adam"),
            local(BATCHES[:8], optimizer="adam"),
        )
        run(averaged, 2), run(alone, 8)
        assert distance(averaged, alone) < EXACT

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
        """I16: two models a block, however many steps it has."""
        for steps in (1, 2, 6):
            engine = simulated(ModelAverage(local_steps=steps), BATCHES, workers=2)
            (report,) = run(engine, 1)
            whole = parameters(engine).nbytes
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

    def test_a_block_may_end_by_the_clock(self):
        """The slow worker does fewer steps, and the fast one need not wait for it."""
        costs = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("1:3",))
        engine = simulated(
            ModelAverage(local_steps=100, sync_every_seconds=5.5), BATCHES, workers=2, costs=costs, optimizer="adam"
        )
        run(engine, 1)
        steps = [sum(event.worker == worker and event.kind == STEPPED for event in engine.trace) for worker in (0, 1)]
        assert steps == [6, 2]


class TestBmuf:
    def test_without_momentum_it_is_model_averaging(self):
        """I17: bit for bit, in both forms (I23)."""
        averaged = simulated(ModelAverage(local_steps=3), BATCHES, workers=2, optimizer="adam", dtype=tf.float32)
        run(averaged, 4)
        for nesterov in (False, True):
            row = Bmuf(local_steps=3, block_momentum=0.0, block_nesterov=nesterov)
            filtered = simulated(row, BATCHES, workers=2, optimizer="adam", dtype=tf.float32)
            run(filtered, 4)
            np.testing.assert_array_equal(parameters(filtered), parameters(averaged))

    def test_with_momentum_it_is_not(self):
        """The negative control."""
        averaged = simulated(ModelAverage(local_steps=3), BATCHES, workers=2)
        filtered = simulated(Bmuf(local_steps=3, block_momentum=0.3), BATCHES, workers=2)
        run(averaged, 2), run(filtered, 2)
        assert distance(averaged, filtered) > DIFFERENT

    def test_of_one_step_of_sgd_is_sync(self):
        """I18, on batches of equal weight."""
        batches = [_of_equal_length(batch) for batch in toy.make_batches(12, sentences=1, seed=3)]
        filtered = simulated(Bmuf(local_steps=1, block_momentum=0.0), batches, workers=3)
        together = simulated(Sync(), batches, workers=3)
        run(filtered, 4), run(together, 4)
        assert distance(filtered, together) < EXACT

    def test_default_momentum_of_one_worker_is_none(self):
        """I19: 1 - 1/N is zero for one worker, which makes it plain training."""
        filtered, alone = (
            simulated(Bmuf(local_steps=2), BATCHES, workers=1, optimizer="adam"),
            local(BATCHES, optimizer="adam"),
        )
        run(filtered, 3), run(alone, 6)
        assert distance(filtered, alone) < EXACT

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

    def test_what_is_evaluated_is_not_what_is_pulled(self):
        engine = simulated(Bmuf(local_steps=2, block_momentum=0.5), BATCHES, workers=2)
        run(engine, 2)
        vectors = engine.state().vectors
        assert engine.state().counters["evaluated"] == "filtered"
        np.testing.assert_array_equal(engine.state().evaluated, vectors["filtered"])
        ahead = vectors["filtered"] + 0.5 * vectors["block_update"]
        np.testing.assert_allclose(vectors["parameters"], ahead, atol=EXACT)
        assert np.abs(vectors["parameters"] - vectors["filtered"]).max() > DIFFERENT


class TestDownpour:
    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
    def test_one_worker_that_pushes_and_pulls_always_is_plain_training(self, optimizer):
        """I24."""
        row = Downpour(push_every=1, pull_every=1)
        downpour, alone = (
            simulated(row, BATCHES, workers=1, optimizer=optimizer, schedule=SCHEDULE),
            local(BATCHES, optimizer=optimizer, schedule=SCHEDULE),
        )
        run(downpour, 6), run(alone, 6)
        assert distance(downpour, alone) < EXACT

    @pytest.mark.parametrize(
        "push_every, pull_every, equal", [(4, 4, True), (3, 6, True), (1, 4, True), (6, 3, False), (4, 1, False)]
    )
    def test_local_steps_equal_plain_training_where_pushes_divide_pulls(self, push_every, pull_every, equal):
        """I25, with its negative controls: the law of words makes a step of any batch α / law_tokens times its sum."""
        words = {"learning_rate_law": "words", "law_tokens": 20}
        row = Downpour(push_every=push_every, pull_every=pull_every, local_rate=1.0)
        downpour, alone = simulated(row, BATCHES, workers=1, **words), local(BATCHES, **words)
        run(downpour, 12 // push_every), run(alone, 12)
        assert bool(distance(downpour, alone) < EXACT) is equal

    def test_local_rate_matters(self):
        """The negative control: without local steps the gradients are taken at one place."""
        words = {"learning_rate_law": "words", "law_tokens": 20}
        downpour, alone = (
            simulated(Downpour(push_every=4, pull_every=4), BATCHES, workers=1, **words),
            local(BATCHES, **words),
        )
        run(downpour, 3), run(alone, 12)
        assert distance(downpour, alone) > DIFFERENT

    def test_bytes_follow_the_intervals(self):
        """Section 11: M for each pull and M for each push."""
        engine = simulated(Downpour(push_every=2, pull_every=6), BATCHES, workers=1)
        pushes = [push for report in run(engine, 3) for push in report.pushes]
        whole = parameters(engine).nbytes
        assert [push.bytes_pulled for push in pushes] == [whole, 0, 0]
        assert [push.bytes_pushed for push in pushes] == [whole] * 3


class TestAsync:
    def test_nothing_is_lost_or_doubled(self):
        """I27: with SGD of one rate for every token, the servers hold the sum of all gradients that were computed."""
        words = {"learning_rate_law": "words", "law_tokens": 1}
        rate = ScheduleSettings(learning_rate=1e-3, schedule="constant", warmup_updates=0)
        engine = simulated(Async(), BATCHES, workers=3, schedule=rate, costs=CostSettings(), **words)
        before, total = parameters(engine), 0.0
        blocks = engine.blocks()
        for number in range(1, 13):
            report = next(blocks)
            (push,) = report.pushes
            total = total + engine.crew[push.worker].replica.gathered.numpy()
            assert report.update == number
            np.testing.assert_allclose(parameters(engine), before - 1e-3 * total, atol=EXACT)

    @pytest.mark.parametrize("workers", [2, 4, 8])
    def test_staleness_of_equal_workers(self, workers):
        """I28: N - 1 for all but the first round."""
        reports = run(simulated(Async(), toy.make_batches(8 * workers), workers=workers), 5 * workers)
        staleness = [report.pushes[0].staleness for report in reports]
        assert staleness == [*range(workers), *[workers - 1] * (4 * workers)]

    def test_script_decides_the_order(self):
        """I26: a scripted order gives one result, bit for bit, and another order another."""
        one = [(0, PULLED), (1, PULLED), (1, ABSORBED), (0, ABSORBED), (1, ABSORBED)]
        other = [(0, PULLED), (1, PULLED), (0, ABSORBED), (1, ABSORBED), (1, ABSORBED)]
        results = []
        for script in (one, one, other):
            engine = simulated(Async(), BATCHES, workers=2, script=script, optimizer="adam", dtype=tf.float32)
            assert len(run(engine)) == 3
            results.append(parameters(engine))
        np.testing.assert_array_equal(results[0], results[1])
        assert not np.array_equal(results[0], results[2])

    def test_slack_bounds_the_staleness(self):
        costs = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("0:10",))
        engine = simulated(Async(slack=2), BATCHES, workers=2, costs=costs)
        run(engine, 9)
        blocks = [sum(event.worker == n and event.kind == ABSORBED for event in engine.trace) for n in (0, 1)]
        assert blocks[1] - blocks[0] <= 3
        free = simulated(Async(), BATCHES, workers=2, costs=costs)
        run(free, 9)
        blocks = [sum(event.worker == n and event.kind == ABSORBED for event in free.trace) for n in (0, 1)]
        assert blocks[1] - blocks[0] > 3


class TestDelayedAsync:
    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    def test_one_worker_equals_the_joined_batch(self, optimizer):
        """I30: τ gradients at one place are the gradient of τ batches."""
        delayed = simulated(DelayedAsync(delay=3, local_optimizer_steps=0), BATCHES, workers=1, optimizer=optimizer)
        alone = local(rounds(BATCHES, 3), optimizer=optimizer)
        run(delayed, 4), run(alone, 4)
        assert distance(delayed, alone) < EXACT

    def test_without_delay_it_is_asynchronous(self):
        """I31 and I33: neither the delay of one nor a local optimizer that a pull overwrites changes anything."""
        results = []
        for row in (
            Async(),
            Downpour(push_every=1, pull_every=1),
            DelayedAsync(delay=1, local_optimizer_steps=0),
            DelayedAsync(delay=1, local_optimizer_steps=100),
        ):
            engine = simulated(row, BATCHES, workers=3, optimizer="adam", costs=CostSettings())
            run(engine, 10)
            results.append(parameters(engine))
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])

    def test_local_optimizer_changes_something_when_there_is_a_delay(self):
        """The negative control of I33."""
        with_, without = (
            simulated(DelayedAsync(delay=2, local_optimizer_steps=steps), BATCHES, workers=2, optimizer="adam")
            for steps in (100, 0)
        )
        run(with_, 6), run(without, 6)
        assert distance(with_, without) > DIFFERENT

    def test_local_sgd_follows_plain_sgd(self):
        """I34 is I25 with the delay for both intervals."""
        words = {"learning_rate_law": "words", "law_tokens": 20}
        delayed = simulated(Downpour(push_every=3, pull_every=3, local_rate=1.0), BATCHES, workers=1, **words)
        alone = local(BATCHES, **words)
        run(delayed, 4), run(alone, 12)
        assert distance(delayed, alone) < EXACT

    def test_local_optimizer_ends(self):
        """I35: once its steps are over, its slots stand still and matter no more."""
        engine = simulated(DelayedAsync(delay=2, local_optimizer_steps=4), BATCHES, workers=1, optimizer="adam")
        run(engine, 2)
        before = {name: vector for name, vector in engine.state().vectors.items() if name.startswith("worker")}
        run(engine, 3)
        after = engine.state().vectors
        assert before
        for name, vector in before.items():
            np.testing.assert_array_equal(after[name], vector)

    def test_pushes_are_rarer(self):
        """I36: one push for τ batches."""
        reports = run(simulated(DelayedAsync(delay=4), BATCHES, workers=2), 5)
        assert [report.sentences for report in reports] == [16] * 5


class TestSummedAsync:
    def test_of_one_push_is_asynchronous(self):
        """I37."""
        summed = simulated(SummedAsync(summed_pushes=1), BATCHES, workers=3, optimizer="adam", costs=CostSettings())
        free = simulated(Async(), BATCHES, workers=3, optimizer="adam", costs=CostSettings())
        run(summed, 10), run(free, 10)
        assert distance(summed, free) == 0

    @pytest.mark.parametrize("servers", [1, 2])
    def test_of_as_many_pushes_as_workers_is_sync_when_each_pushes_once(self, servers):
        """I38: every worker pulls the same version and pushes once for the next."""
        rounds_ = [[(worker, PULLED) for worker in range(3)] + [(worker, PUSHED) for worker in range(3)]] * 4
        script = [*itertools.chain.from_iterable(rounds_)]
        summed = simulated(SummedAsync(), BATCHES, workers=3, servers=servers, optimizer="adam", script=script)
        together = simulated(Sync(), BATCHES, workers=3, servers=servers, optimizer="adam")
        run(summed), run(together, 4)
        assert distance(summed, together) < EXACT

    @pytest.mark.parametrize("workers", [4, 8])
    def test_mean_staleness_of_equal_workers(self, workers):
        """I39: (N - 1) / K in round robin."""
        engine = simulated(SummedAsync(), toy.make_batches(12 * workers), workers=workers)
        pushes = [push for report in run(engine, 10)[2:] for push in report.pushes]
        assert np.mean([push.staleness for push in pushes]) == (workers - 1) / workers

    def test_updates_are_the_kth_part_of_the_pushes(self):
        """I40, and what is left is in the state that a checkpoint holds."""
        script = [(0, ABSORBED)] * 5
        engine = simulated(SummedAsync(summed_pushes=3), BATCHES, workers=1, script=script)
        assert len(run(engine)) == 1
        counters = engine.state().counters
        assert counters["arrived"] == 2
        assert counters["weight"] > 0
        assert np.abs(engine.state().vectors["received"]).max() > DIFFERENT

    def test_of_one_worker_is_a_delay(self):
        """I41: nothing moves inside a group, so a pull for each step brings nothing new."""
        summed = simulated(SummedAsync(summed_pushes=3), BATCHES, workers=1, optimizer="adam")
        delayed = simulated(DelayedAsync(delay=3, local_optimizer_steps=0), BATCHES, workers=1, optimizer="adam")
        run(summed, 4), run(delayed, 4)
        assert distance(summed, delayed) < EXACT


class TestWarmStart:
    def test_is_synchronous_until_it_ends(self):
        warm = simulated(Async(), BATCHES, workers=3, warm_start_updates=3, optimizer="adam")
        together = simulated(Sync(), BATCHES, workers=3, optimizer="adam")
        reports = run(warm, 3)
        run(together, 3)
        assert distance(warm, together) == 0
        assert [len(report.pushes) for report in reports] == [3, 3, 3]

    def test_the_strategy_follows(self):
        warm = simulated(Bmuf(local_steps=2, block_momentum=0.5), BATCHES, workers=2, warm_start_updates=2)
        reports = run(warm, 4)
        assert [report.sentences for report in reports] == [8, 8, 16, 16]
        assert [report.update for report in reports] == [1, 2, 3, 4]
        assert "filtered" in warm.state().vectors


class TestEveryRow:
    """What holds for every strategy: a new row joins the list."""

    @pytest.fixture(params=ROWS)
    def row(self, request):
        return ROWS[request.param]

    def test_same_seed_same_trace_and_same_bits(self, row):
        costs = CostSettings(jitter=0.5)
        one, other = (
            simulated(row, BATCHES, workers=3, servers=2, costs=costs, optimizer="adam", dtype=tf.float32)
            for _ in range(2)
        )
        reports = [[report._replace(data_wait_seconds=0) for report in run(each, 6)] for each in (one, other)]
        assert reports[0] == reports[1]
        assert one.trace == other.trace
        for name, vector in one.state().vectors.items():
            np.testing.assert_array_equal(vector, other.state().vectors[name], err_msg=name)

    def test_another_seed_makes_another_trace(self, row):
        """The negative control."""
        costs = CostSettings(jitter=0.5)
        one, other = (simulated(row, BATCHES, workers=3, costs=costs, seed=seed) for seed in (1, 2))
        run(one, 4), run(other, 4)
        assert one.trace != other.trace

    def test_servers_are_only_places(self, row):
        """Any number of parameter servers comes to the same."""
        engines = [simulated(row, BATCHES, workers=2, servers=servers, optimizer="adam") for servers in (1, 3)]
        for engine in engines:
            run(engine, 4)
        assert max(distance(engines[0], other) for other in engines[1:]) < EXACT

    def test_poisoned_gradient_never_reaches_the_servers(self, row):
        """I29 and I6: what is not finite is refused and named, and everything else goes on."""
        engine = simulated(row, BATCHES, workers=2, model=toy.PoisonedModel(place=4), optimizer="adam")
        reports = run(engine, 6)
        told = [push for report in reports for push in report.pushes if push.refused or push.skipped_steps]
        assert [push.worker for push in told] == [0]
        assert all(np.isfinite(vector).all() for vector in engine.state().vectors.values())

    def test_killed_worker_comes_back(self, row):
        """At-most-once: no payload is lost that the servers had, none is taken twice, and no batch is left out."""
        kinds = [PULLED, STEPPED, PUSHED, ABSORBED]
        faults = [Fault(worker=1, block=3, kind=kind, seconds=0.1) for kind in kinds]
        engine = simulated(row, BATCHES, workers=2, faults=faults, optimizer="adam")
        pushes = [push for report in run(engine, 24) for push in report.pushes]
        assert [event.kind for event in engine.trace].count("restarted") == len(kinds)
        assert all(push.refused is None for push in pushes)
        assert all(np.isfinite(vector).all() for vector in engine.state().vectors.values())
        assert sum(push.worker == 1 for push in pushes) >= 3

    def test_resumes_from_its_state(self, row):
        """I22: bit for bit behind a barrier; under the others the state is complete and training goes on."""
        through, first, second = (
            simulated(row, BATCHES, workers=2, optimizer="adam", schedule=SCHEDULE, average_rate=0.1, dtype=tf.float32)
            for _ in range(3)
        )
        run(through, 6)
        run(first, 3)
        second.restore(first.state())
        for name, vector in first.state().vectors.items():
            np.testing.assert_array_equal(second.state().vectors[name], vector, err_msg=name)
        assert second.state().counters == first.state().counters
        assert run(second, 3)[-1].update == 6
        if row.row(2, _adam()).has_barrier:
            for name, vector in through.state().vectors.items():
                np.testing.assert_array_equal(second.state().vectors[name], vector, err_msg=name)

    def test_resumes_on_other_numbers_of_workers_and_servers(self, row):
        first = simulated(row, BATCHES, workers=2, servers=1, optimizer="adam")
        run(first, 3)
        second = simulated(row, BATCHES, workers=3, servers=1, optimizer="adam")
        second.restore(first.state())
        assert run(second, 3)[-1].update == 6

    def test_stops_behind_what_has_begun(self, row):
        engine = simulated(row, BATCHES, workers=3, optimizer="adam", costs=CostSettings())
        updates = 0
        for report in engine.blocks():
            updates = report.update
            if updates == 2:
                engine.stop()
        assert updates >= 2
        assert engine.state().counters["version"] == updates


def _adam():
    from tfnmt.optimizers.optimizers import OptimizerSettings

    return OptimizerSettings()


def _of_equal_length(batch):
    """A batch of one target sentence, cut or filled up to four tokens."""
    targets = tf.concat([batch.target_ids[:, :-1], tf.fill([1, 4], 5)], axis=1)[:, :3]
    ends = tf.fill([1, 1], 3)
    return batch._replace(target_ids=tf.concat([targets, ends], axis=1))
