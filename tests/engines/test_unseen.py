"""What else a row and its reports promise, where another number would look right: found by changing the code."""

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import EXACT, gradient_of, local, parameters, run, simulated
from tfnmt.batch import START
from tfnmt.engines.schedule import ABSORBED
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import Bmuf, DelayedAsync, Downpour, ModelAverage, Sync

BATCHES = toy.make_batches(12)
TWO_TOKENS = [batch._replace(target_ids=tf.constant([[5, 3]])) for batch in toy.make_batches(12, sentences=1)]


class SteepModel(toy.ToyModel):
    """The gradient of its first bias, summed over a batch, is `slope`."""

    def __init__(self, slope):
        super().__init__()
        self._slope = slope

    def loss(self, views, batch, seed=None):
        sums = super().loss(views, batch, seed)
        return sums._replace(loss=sums.loss + tf.cast(self._slope, sums.loss.dtype) * views["bias"][0])


class LostModel(toy.ToyModel):
    """Its loss, and with it every gradient, is not a number."""

    def loss(self, views, batch, seed=None):
        sums = super().loss(views, batch, seed)
        return sums._replace(loss=sums.loss * np.nan)


class TestWhatIsNotFiniteIsNamed:
    @pytest.mark.parametrize("servers", [1, 2])
    def test_the_first_of_many(self, servers):
        engine = local(BATCHES, model=LostModel(), servers=servers)
        assert run(engine, 1)[0].skipped == "the gradient of embedding was not finite at step 1 of worker 0"

    @pytest.mark.parametrize(
        "row, slope, step",
        [(None, 3e19, 1), (DelayedAsync(delay=2, local_optimizer_batches=4), 1.5e19, 2)],
        ids=["of a step", "of steps that were finite one by one"],
    )
    def test_a_norm_of_finite_elements(self, row, slope, step):
        """Float32 ends at 3.4e38, the square of 1.8e19."""
        engine = local(BATCHES, row, model=SteepModel(slope), dtype=tf.float32)
        (report,) = run(engine, 1)
        assert report.skipped == f"the gradient's norm was not finite at step {step} of worker 0"
        assert [push.skipped_steps for push in report.pushes] == [0]

    def test_a_slot_of_the_workers(self):
        """Each square of a mean gradient is finite, and their sum is not, whatever becomes of the parameters."""
        row = ModelAverage(local_steps=8, local_slots="average")
        engine = local(TWO_TOKENS, row, model=SteepModel(1.5e19), optimizer="adagrad", dtype=tf.float32)
        before = engine.state().vectors
        (report,) = run(engine, 1)
        assert report.skipped == "the local optimizer's state of bias was not finite at step 8 of worker 0"
        for name, vector in before.items():
            np.testing.assert_array_equal(engine.state().vectors[name], vector, err_msg=name)

    @pytest.mark.parametrize("options", [{}, {"script": [(0, ABSORBED)]}], ids=["as one graph", "one by one"])
    def test_a_block_without_a_single_step(self, options):
        """The replica has not moved: nothing to average, and numbers in the report all the same."""
        row = ModelAverage(local_steps=2)
        if options:
            (report,) = run(simulated(row, BATCHES, workers=1, model=LostModel(), **options))
        else:
            (report,) = run(local(BATCHES, row, model=LostModel()), 1)
        assert report.skipped == "the gradient of embedding was not finite at step 2 of worker 0"
        assert [push.skipped_steps for push in report.pushes] == [2]
        assert (report.update, report.gradient_norm, report.loss, report.target_tokens) == (0, 0.0, 0.0, 0)


def test_a_refused_step_counts_for_nothing():
    """Neither for the sums of the report nor for the age of averaged slots."""
    row, model = ModelAverage(local_steps=3, local_slots="average"), toy.PoisonedModel(place=1)
    engine = local(BATCHES, row, model=model, optimizer="momentum")
    reports, ages = [], []
    for report, _ in zip(engine.blocks(), range(2)):
        reports.append(report)
        ages.append(engine.state().counters["local_updates"])
    assert ages == [2, 5]
    counted = [BATCHES[place] for place in (0, 2)]
    assert reports[0].sentences == sum(len(batch.target_ids) for batch in counted)
    assert reports[0].target_tokens == sum(np.count_nonzero(batch.target_ids) for batch in counted)
    assert reports[0].cross_entropy == reports[0].loss > 0


@pytest.mark.parametrize("slots, updates", [("reset", 3), ("keep", 1), ("average", 1)])
def test_slots_begin_with_their_first_value(slots, updates):
    """Adagrad's is not zero: its first local update is α g / √(s₀ + g²), and where slots are reset every one."""
    adagrad = OptimizerSettings(optimizer="adagrad", adagrad_start=0.5)
    engine = simulated(ModelAverage(local_steps=1, local_slots=slots), BATCHES, workers=1, optimizer=adagrad)
    expected = parameters(engine)
    for batch, _ in zip(BATCHES[:updates], engine.blocks()):
        gradient, tokens = gradient_of(expected, batch)
        mean = gradient / tokens
        expected = expected - 0.1 * mean / np.sqrt(0.5 + mean**2)
        np.testing.assert_allclose(parameters(engine), expected, atol=EXACT)


@pytest.mark.parametrize("wanted, taken", [(3, 4), (4, 4), (5, 6)])
def test_a_step_ends_with_the_batch_that_fills_its_share(wanted, taken):
    """Of batches of two target tokens; it is one step, however many it takes."""
    engine = local(TWO_TOKENS, global_batch_tokens=wanted)
    (report,) = run(engine, 1)
    assert report.target_tokens == taken
    assert engine.state().counters["steps"] == 1


def test_a_delta_is_not_clipped_however_long():
    engine = local(BATCHES, ModelAverage(local_steps=2), model=SteepModel(1e4))
    start = parameters(engine)
    (report,) = run(engine, 1)
    assert report.gradient_norm > 10
    assert np.linalg.norm(parameters(engine) - start) == pytest.approx(report.gradient_norm)


@pytest.mark.parametrize(
    "row, names",
    [
        (ModelAverage(local_steps=2), {"m", "v", "updates"}),
        (ModelAverage(local_steps=2, local_slots="reset"), set()),
        (ModelAverage(local_steps=2, local_slots="average"), set()),
        (Bmuf(local_steps=2), {"m", "v", "updates"}),
        (DelayedAsync(local_optimizer_batches=4), {"m", "v", "updates"}),
        (DelayedAsync(local_optimizer_batches=0), set()),
        (Downpour(local_rate=1.0), set()),
        (Sync(), set()),
    ],
)
def test_a_checkpoint_holds_of_a_worker_what_outlives_a_pull(row, names):
    vectors = simulated(row, BATCHES, workers=2, optimizer="adam").state().vectors
    assert {name for name in vectors if name.startswith("worker")} == {
        f"worker_{number}_{name}" for number in range(2) for name in names
    }


@pytest.mark.parametrize("updates, epoch", [(0, 0), (2, 1)])
def test_other_numbers_of_workers_begin_the_next_epoch(updates, epoch):
    """Or the first, if nothing has been read."""
    positions = []

    def make_batches(position, worker, workers):
        positions.append(position)
        return toy.dataset(BATCHES)(None, worker, workers)

    first, second = (simulated(Sync(), make_batches, workers=workers) for workers in (2, 3))
    run(first, updates)
    positions.clear()
    second.restore(first.state())
    assert positions == [(epoch, *START[1:])] * 3
