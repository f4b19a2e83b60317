"""What the tests of the rows leave open: invariants without a proof, and changes of a row that break the others.

The numbers of the invariants are those of the algorithms' description.
"""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import DIFFERENT, EXACT, distance, local, parameters, rounds, run, simulated
from tests.engines.kill_tasks import EXACT_SUM, CountingModel, make_batches, wrongly_counted
from tests.engines.rows import ROWS
from tfnmt.engines.schedule import ABSORBED, PULLED, PUSHED
from tfnmt.strategies import Async, Bmuf, DelayedAsync, Downpour, ModelAverage, SummedAsync, Sync

BATCHES = toy.make_batches(48)


def delayed(delay, local_batches=0):
    """Delayed updates, without a local optimizer where none is asked for."""
    return DelayedAsync(delay=delay, local_optimizer_batches=local_batches)


def in_turn(workers, rounds_):
    """A script by which all workers pull, and then all push."""
    return [(worker, kind) for kind in (PULLED, PUSHED) for worker in range(workers)] * rounds_


@functools.cache
def plain(updates, optimizer="adam", workers=1):
    """The parameters of plain training on the joined batches of so many workers."""
    engine = local(rounds(BATCHES, workers), optimizer=optimizer)
    run(engine, updates)
    return parameters(engine)


@pytest.mark.parametrize(
    "equal, other, updates, options, expected",
    [
        pytest.param(
            ModelAverage(local_steps=3),
            ModelAverage(local_steps=3, local_slots="reset"),
            4,
            {},
            {"updates": 12},
            id="I13: one worker that forgets its optimizer is not plain training",
        ),
        pytest.param(
            Bmuf(local_steps=3),
            Bmuf(local_steps=3, block_momentum=0.5),
            4,
            {},
            {"updates": 12},
            id="I19: nor is one whose servers carry momentum",
        ),
        pytest.param(
            Downpour(push_every=1, pull_every=1),
            Downpour(push_every=1, pull_every=2),
            12,
            {},
            {"updates": 12},
            id="I24: nor is one that pulls less often than it pushes",
        ),
        pytest.param(
            delayed(3),
            delayed(3, local_batches=100),
            4,
            {},
            {"updates": 4, "workers": 3},
            id="I30: gradients at places of a local optimizer are not those of the joined batch",
        ),
        pytest.param(
            Downpour(push_every=3, pull_every=3),
            Downpour(push_every=3, pull_every=3, local_rate=0.5),
            4,
            {"optimizer": "sgd"},
            {"updates": 12, "optimizer": "sgd"},
            id="I34: local steps of half the rate do not follow plain training",
        ),
        pytest.param(
            SummedAsync(),
            SummedAsync(summed_pushes=2),
            4,
            {"workers": 3, "script": in_turn(3, 4)},
            {"updates": 4, "workers": 3},
            id="I38: two of three pushes are not the joined batch",
        ),
        pytest.param(
            SummedAsync(summed_pushes=3),
            SummedAsync(summed_pushes=2),
            4,
            {},
            {"updates": 4, "workers": 3},
            id="I41: one worker's two pushes are not three",
        ),
    ],
)
def test_equality_with_plain_training_needs_its_row(equal, other, updates, options, expected):
    """The equality of each invariant, and its negative control: with one column changed it no longer holds."""
    found = []
    for row in (equal, other):
        engine = simulated(row, BATCHES, **{"workers": 1, "optimizer": "adam", **options})
        run(engine, updates)
        found.append(np.abs(parameters(engine) - plain(**expected)).max())
    assert found[0] < EXACT
    assert found[1] > DIFFERENT


def test_workers_that_read_different_data_are_not_one():
    """The negative control of I14."""
    averaged = simulated(ModelAverage(local_steps=3), BATCHES, workers=2, optimizer="adam")
    run(averaged, 4)
    assert np.abs(parameters(averaged) - plain(12)).max() > DIFFERENT


def test_one_step_of_bmuf_with_momentum_is_not_sync():
    """The negative control of I18; without momentum, batches of unequal weight are none either."""
    engines = [
        simulated(row, BATCHES, workers=3)
        for row in (Sync(), Bmuf(local_steps=1, block_momentum=0.0), Bmuf(local_steps=1, block_momentum=0.3))
    ]
    for engine in engines:
        run(engine, 2)
    assert min(distance(engines[0], other) for other in engines[1:]) > DIFFERENT


def test_summed_pushes_are_not_asynchronous():
    """The negative control of I37."""
    summed, free = (simulated(row, BATCHES, workers=2, optimizer="adam") for row in (SummedAsync(), Async()))
    run(summed, 3), run(free, 6)
    assert distance(summed, free) > DIFFERENT


class TestSync:
    @pytest.mark.parametrize("row, same", [(Sync(), True), (Async(), False)])
    def test_everybody_pulls_the_same_bits(self, row, same):
        """I5: behind each round the replicas are the servers' parameters; not so where nobody waits."""
        last = [(0, PULLED), (1, PULLED), (2, PULLED)] if same else [(0, PULLED), (0, PUSHED), (1, PULLED), (2, PULLED)]
        engine = simulated(row, BATCHES, workers=3, servers=2, script=in_turn(3, 3) + last, dtype=tf.float32)
        before = parameters(engine)
        run(engine)
        replicas = [worker.replica.parameters.numpy() for worker in engine.crew]
        assert [np.array_equal(replica, parameters(engine)) for replica in replicas] == [same, True, True]
        assert np.abs(replicas[0] - before).max() > DIFFERENT

    @pytest.mark.parametrize("empty", [True, False])
    def test_worker_without_a_target_token_changes_nothing(self, empty):
        """I6: its part of the joined batch weighs nothing; one with tokens does."""
        batches = [
            batch._replace(target_ids=tf.zeros_like(batch.target_ids)) if empty and number % 2 else batch
            for number, batch in enumerate(BATCHES)
        ]
        together = simulated(Sync(), batches, workers=2, optimizer="adam")
        alone = local(BATCHES[::2], optimizer="adam")
        reports, expected = run(together, 3), run(alone, 3)
        assert bool(distance(together, alone) < EXACT) is empty
        assert ([each.target_tokens for each in reports] == [each.target_tokens for each in expected]) is empty


class TestBmuf:
    def test_nesterov_s_steps_are_taken_from_the_filtered_model(self):
        """I20's negative control: who takes them from where the workers began, as other systems do, goes further."""
        zeta, eta = 0.7, 0.6
        row = Bmuf(local_steps=2, block_learning_rate=zeta, block_momentum=eta)
        engine = simulated(row, BATCHES, workers=2)
        start, update, filtered = parameters(engine), 0.0, parameters(engine)
        for number, _ in zip(range(3), engine.blocks()):
            mean = np.mean([worker.replica.parameters.numpy() for worker in engine.crew], axis=0)
            update = eta * update + zeta * (mean - start)
            filtered = filtered + update
            elsewhere, start = start + (1 + eta) * update, filtered + eta * update
            np.testing.assert_allclose(parameters(engine), start, atol=EXACT)
            assert number == 0 or np.abs(parameters(engine) - elsewhere).max() > DIFFERENT


class TestDelayedAsync:
    @pytest.mark.parametrize("updates, matters", [(1, True), (4, False)])
    def test_slots_matter_as_long_as_the_local_optimizer_works(self, updates, matters):
        """I35: of two blocks; whatever they hold behind these, the parameters go the same way."""
        engine, disturbed = (simulated(ROWS["delayed_async"], BATCHES, workers=1, optimizer="adam") for _ in range(2))
        run(engine, updates)
        state = engine.state()
        slots = {name: vector + 1 for name, vector in state.vectors.items() if name in ("worker_0_m", "worker_0_v")}
        assert len(slots) == 2
        disturbed.restore(state.with_vectors(slots))
        run(engine, 2), run(disturbed, 2)
        assert bool(distance(engine, disturbed) > DIFFERENT) is matters
        assert matters or distance(engine, disturbed) == 0


class TestSummedAsync:
    @pytest.mark.parametrize("workers, summed", [(4, 2), (3, 4)])
    def test_mean_staleness_of_any_number_of_pushes(self, workers, summed):
        """I39: (N - 1) / K for workers of equal speed, whatever K is."""
        engine = simulated(SummedAsync(summed_pushes=summed), toy.make_batches(16 * workers), workers=workers)
        updates = 12 * workers // summed
        pushes = [push for report in run(engine, updates)[updates // 3 :] for push in report.pushes]
        assert np.mean([push.staleness for push in pushes]) == (workers - 1) / summed

    @pytest.mark.parametrize("summed, pushes", [(2, 5), (3, 8)])
    def test_servers_hold_every_gradient_once(self, summed, pushes):
        """I40: of the pushes each K-th makes an update; the moves and what is left are the sum of all gradients."""
        script = [(number % 2, ABSORBED) for number in range(pushes)]
        row, options = SummedAsync(summed_pushes=summed), {"model": CountingModel(), **EXACT_SUM}
        engine = simulated(row, make_batches, workers=2, script=script, **options)
        reports = run(engine)
        assert [report.update for report in reports] == [*range(1, pushes // summed + 1)]
        assert [len(report.pushes) for report in reports] == [summed] * (pushes // summed)
        state = engine.state()
        assert state.counters["arrived"] == pushes % summed
        assert wrongly_counted(state) == []
        moved = {name: vector for name, vector in state.vectors.items() if name != "received"}
        assert len(wrongly_counted(dataclasses.replace(state, vectors=moved))) == pushes % summed
