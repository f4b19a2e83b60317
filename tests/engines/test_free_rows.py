"""The rows without a barrier against what they must equal, on the simulated engine, each with its negative control.

The numbers of the invariants are those of the algorithms' description: I24 to I41.
"""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import (
    CONTRACT,
    DIFFERENT,
    EXACT,
    SCHEDULE,
    distance,
    local,
    parameters,
    run,
    simulated,
)
from tfnmt.engines.schedule import ABSORBED, PULLED, PUSHED
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import (
    Async,
    DelayedAsync,
    Downpour,
    SummedAsync,
    Sync,
)

BATCHES = toy.make_batches(48)


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
        """I25, with its negative controls: a push of k steps moves the servers as k steps of SGD would."""
        row = Downpour(push_every=push_every, pull_every=pull_every)
        downpour, alone = simulated(row, BATCHES, workers=1, clip_norm=0.1), local(BATCHES, clip_norm=0.1)
        run(downpour, 12 // push_every), run(alone, 12)
        assert bool(distance(downpour, alone) < EXACT) is equal

    def test_local_rate_matters(self):
        """The negative control: without local steps the gradients are taken at one place."""
        downpour, alone = (
            simulated(Downpour(push_every=4, pull_every=4, local_rate=0.0), BATCHES, workers=1),
            local(BATCHES),
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
            total = total + engine.crew[push.worker].replica.vectors["gathered"].numpy()
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
        assert blocks[1] - blocks[0] <= 2
        free = simulated(Async(), BATCHES, workers=2, costs=costs)
        run(free, 9)
        blocks = [sum(event.worker == n and event.kind == ABSORBED for event in free.trace) for n in (0, 1)]
        assert blocks[1] - blocks[0] > 2


class TestDelayedAsync:
    def test_without_a_local_optimizer_it_gathers(self):
        """I32: the plain delay is asynchronous training on batches of three, in the same order of events."""
        joined = [toy.join(BATCHES[first : first + 9][worker::3]) for first in range(0, 45, 9) for worker in range(3)]
        events = [(worker, kind) for kind in (PULLED, ABSORBED) for worker in range(3)] * 2
        results = []
        for row, batches in (
            (Async(), joined),
            (DelayedAsync(delay=3, local_optimizer_batches=0), BATCHES),
            (DelayedAsync(delay=3, local_optimizer_batches=100), BATCHES),  # the negative controls
            (Downpour(push_every=3, pull_every=3, local_rate=0.0), BATCHES),
        ):
            engine = simulated(row, batches, workers=3, optimizer="adam", script=events)
            assert len(run(engine)) == 6
            results.append(parameters(engine))
        np.testing.assert_allclose(results[1], results[0], atol=EXACT)
        assert min(np.abs(other - results[0]).max() for other in results[2:]) > DIFFERENT

    def test_without_delay_it_is_asynchronous(self):
        """I31 and I33: neither the delay of one nor a local optimizer that a pull overwrites changes anything."""
        results = []
        for row in (
            Async(),
            Downpour(push_every=1, pull_every=1),
            DelayedAsync(delay=1, local_optimizer_batches=0),
            DelayedAsync(delay=1, local_optimizer_batches=100),
        ):
            engine = simulated(row, BATCHES, workers=3, optimizer="adam", costs=CostSettings())
            run(engine, 10)
            results.append(parameters(engine))
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])

    def test_local_optimizer_changes_something_when_there_is_a_delay(self):
        """The negative control of I33."""
        with_, without = (
            simulated(DelayedAsync(delay=2, local_optimizer_batches=steps), BATCHES, workers=2, optimizer="adam")
            for steps in (100, 0)
        )
        run(with_, 6), run(without, 6)
        assert distance(with_, without) > DIFFERENT

    def test_local_optimizer_ends(self):
        """I35: once its steps are over, its slots stand still and matter no more."""
        engine = simulated(DelayedAsync(delay=2, local_optimizer_batches=4), BATCHES, workers=1, optimizer="adam")
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

    def test_delay_grows_with_each_worker_s_own_steps_behind_the_warm_start(self):
        """Eight batches of two workers are four steps of each, for which the slow one takes longer."""
        costs = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("1:3",))
        row = DelayedAsync(delay=3, delay_ramp_batches=8)
        engine = simulated(row, BATCHES, workers=2, warm_start_updates=3, costs=costs)
        steps, absorb = [[], []], engine._servers.absorb
        engine._servers.absorb = lambda push, *how: (
            steps[push.worker].append(push.work.sums.steps) or absorb(push, *how)
        )
        run(engine, 3 + 9)
        assert steps == [[1, 1, 1, 1, 1, 2, 3, 3, 3], [1, 1, 1, 1, 1, 2]]

    @pytest.mark.parametrize("engine, behind", [(simulated, range(1, 7)), (local, [4])], ids=["simulated", "local"])
    def test_resume_within_the_ramp_is_exact(self, engine, behind):
        """Bit for bit, behind a warm start; the negative control is a ramp that has begun with the training."""
        options = {"optimizer": "adam", "dtype": tf.float32, "warm_start_updates": 2, **CONTRACT}
        options |= {"workers": 1} if engine is simulated else {}
        new = functools.partial(engine, row=DelayedAsync(delay=3, delay_ramp_batches=4), batches=BATCHES, **options)
        through, states, forgetful = new(), {}, new()
        for report in itertools.islice(through.blocks(), 7):
            states[report.update] = through.state()
        for update in behind:
            resumed = new()
            resumed.restore(states[update])
            run(resumed, 7 - update)
            found, expected = resumed.state(), states[7]
            assert found.counters == expected.counters
            for name, vector in expected.vectors.items():
                np.testing.assert_array_equal(found.vectors[name], vector, err_msg=name)
        forgetful.restore(dataclasses.replace(states[4], counters=states[4].counters | {"phase_began": 0}))
        run(forgetful, 3)
        assert distance(forgetful, through) > DIFFERENT


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

    def test_what_was_summed_is_part_of_the_next_update(self):
        """Resumed where every push makes an update."""
        three, one = (
            functools.partial(simulated, SummedAsync(summed_pushes=each), BATCHES, workers=1) for each in (3, 1)
        )
        through, first, second, later = three(), three(script=[(0, ABSORBED)] * 5), one(), one()
        reports = run(through, 2)
        run(first)
        second.restore(first.state())
        (report,) = run(second, 1)
        assert report.target_tokens == reports[1].target_tokens
        assert distance(through, second) < EXACT
        assert second.state().counters["weight"] == second.state().counters["arrived"] == 0
        run(later, 1)
        assert distance(through, later) > DIFFERENT
