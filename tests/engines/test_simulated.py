"""What holds for every row on the simulated engine."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from graphs.staleness import Staleness
from tests import toy
from tests.engines.building import (
    CONTRACT,
    DIFFERENT,
    EXACT,
    SCHEDULE,
    distance,
    run,
    simulated,
)
from tests.engines.kill_tasks import EXACT_STEPS, EXACT_SUM, CountingModel, make_batches, wrongly_counted
from tests.engines.rows import ROWS
from tfnmt.engines.schedule import ABSORBED, PULLED, PUSHED, STEPPED, Fault
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.layout import Layout
from tfnmt.strategies import (
    Async,
    Bmuf,
    Downpour,
    Sync,
)

BATCHES = toy.make_batches(48)
MORE = toy.make_batches(96)
POISONED = 4
"""Number of the batch whose gradient is not finite: of three workers, the second reads it as its second."""


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
        """Though the state of one of them is taken on the way, which moves nothing.

        I29 and I6: a gradient that is not finite is refused and named, and everything else goes on. Stopped, training
        ends behind what has begun.
        """
        one, other = (_with_jitter(row, seed=1) for _ in range(2))
        blocks = other.blocks()
        reports = [run(one, 6), list(itertools.islice(blocks, 3))]
        other.state()
        reports[1] += itertools.islice(blocks, 3)
        first, second = ([report._replace(data_wait_seconds=0) for report in each] for each in reports)
        assert repr(first) == repr(second)  # in which a norm that is not a number equals itself
        assert one.trace == other.trace
        for name, vector in one.state().vectors.items():
            np.testing.assert_array_equal(vector, other.state().vectors[name], err_msg=name)
        other.stop()
        reports = [*first, *blocks]
        told = [push for report in reports for push in report.pushes if push.refused or push.skipped_steps]
        assert [push.worker for push in told] == [1]
        assert all(np.isfinite([report.loss, report.cross_entropy]).all() for report in reports if not report.skipped)
        state = other.state()
        assert all(np.isfinite(vector).all() for vector in state.vectors.values())
        assert state.counters["version"] == reports[-1].update

    def test_batches_of_a_step_are_its_joined_batch_on_any_number_of_servers(self, row):
        """I2 and I9 for every exchange."""
        joined = simulated(row, _joined(BATCHES, 2, 40), workers=2, servers=3, optimizer="adam")
        added = simulated(row, BATCHES, workers=2, optimizer="adam", global_batch_tokens=80)
        run(joined, 3), run(added, 3)
        assert distance(added, joined) < EXACT

    def test_killed_worker_comes_back(self, row):
        """At-most-once: no payload is lost that the servers had, none is taken twice, and no batch is left out.

        Plain SGD, which keeps nothing on a worker: behind a barrier, nothing shows of the kills, unless the row itself
        keeps something there; the servers of a free row that pushes gradients have counted each batch once.
        """
        faults = [Fault(worker=1, block=3, kind=kind, seconds=0.1) for kind in (PULLED, STEPPED, PUSHED, ABSORBED)]
        columns, of_mean = row.row(2, _adam()), isinstance(row, Downpour)
        options = {"workers": 2, "model": CountingModel(of_mean=of_mean), **(EXACT_STEPS if of_mean else EXACT_SUM)}
        engine = simulated(row, make_batches, faults=faults, **options)
        pushes = [push for report in run(engine, 24) for push in report.pushes]
        assert [event.kind for event in engine.trace].count("restarted") == len(faults)
        assert all(push.refused is None for push in pushes)
        assert sum(push.worker == 1 for push in pushes) >= 3
        if not columns.has_barrier:
            counts = not columns.exchange.trains_replicas and columns.staleness == Staleness()
            assert not counts or wrongly_counted(engine.state()) == []
            return
        if columns.exchange.saved:
            return
        undisturbed = simulated(row, make_batches, **options)
        run(undisturbed, 24)
        for name, vector in undisturbed.state().vectors.items():
            np.testing.assert_array_equal(engine.state().vectors[name], vector, err_msg=name)

    def test_resumes_from_its_state(self, row):
        """I22: bit for bit behind a barrier; under the others the state is complete and training goes on.

        Behind a warm start, with dropout, several batches in a step and a moving average.
        """
        options = {"workers": 2, "optimizer": "adam", "schedule": SCHEDULE, "dtype": tf.float32, **CONTRACT}
        through, second = (simulated(row, MORE, warm_start_updates=1, **options) for _ in range(2))
        blocks = through.blocks()
        list(itertools.islice(blocks, 3))
        state = through.state()
        second.restore(state)
        for name, vector in state.vectors.items():
            np.testing.assert_array_equal(second.state().vectors[name], vector, err_msg=name)
        assert second.state().counters == state.counters
        assert run(second, 3)[-1].update == 6
        if row.row(2, _adam()).has_barrier:
            list(itertools.islice(blocks, 3))
            for name, vector in through.state().vectors.items():
                np.testing.assert_array_equal(second.state().vectors[name], vector, err_msg=name)

    def test_resumes_on_other_numbers_of_workers_and_servers(self, row):
        """As a checkpoint carries the vectors: by the parameters' names, for the padding is another."""
        first = simulated(row, BATCHES, workers=2, servers=1, optimizer="adam")
        run(first, 3)
        second = simulated(row, BATCHES, workers=3, servers=3, optimizer="adam")
        one, three = (Layout(toy.ToyModel.parameters, shards) for shards in (1, 3))
        saved = first.state()
        vectors = {
            name: three.pack_arrays(one.unpack_array(vector)) if vector.ndim else vector
            for name, vector in saved.vectors.items()
        }
        second.restore(dataclasses.replace(saved, vectors=vectors))
        for name, vector in second.state().vectors.items():
            if name in vectors:
                np.testing.assert_array_equal(vector, vectors[name], err_msg=name)
        assert run(second, 3)[-1].update == 6


@pytest.mark.parametrize("row", ["sync", "model_average"])
def test_without_the_batches_of_a_step_or_with_dropout_it_is_another_one(row):
    """The negative controls, for a row that pushes gradients and one that pushes deltas."""
    added, single, dropped = (
        simulated(ROWS[row], BATCHES, workers=2, optimizer="adam", **settings)
        for settings in (
            {"global_batch_tokens": 80},
            {},
            {"global_batch_tokens": 80, "model": CONTRACT["model"]},
        )
    )
    for engine in (added, single, dropped):
        run(engine, 3)
    assert min(distance(added, single), distance(added, dropped)) > DIFFERENT


def test_another_seed_makes_another_trace():
    """The negative control of equal traces."""
    one, other = (_with_jitter(Sync(), seed=seed) for seed in (1, 2))
    run(one, 2), run(other, 2)
    assert one.trace != other.trace


def _with_jitter(row, seed):
    options = {"optimizer": "adam", "dtype": tf.float32, "model": toy.PoisonedModel(place=POISONED), "seed": seed}
    return simulated(row, BATCHES, workers=3, servers=2, costs=CostSettings(jitter=0.5), **options)


def _joined(batches, workers, tokens):
    """The batches of each step of each worker, joined: as many as hold so many target tokens."""
    steps = []
    for worker in range(workers):
        steps.append([[]])
        for batch in batches[worker::workers]:
            steps[-1][-1].append(batch)
            if sum(int(tf.math.count_nonzero(each.target_ids)) for each in steps[-1][-1]) >= tokens:
                steps[-1].append([])
    return [toy.join(step) for together in zip(*(each[:-1] for each in steps)) for step in together]


def _adam():
    from tfnmt.optimizers.optimizers import OptimizerSettings

    return OptimizerSettings()
