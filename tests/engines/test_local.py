"""The local engine against plain arithmetic: micro-batches, resume, what is not finite."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import SCHEDULE, local, parameters, run, simulated
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import DelayedAsync, Downpour, ModelAverage
from tfnmt.strategies.elastic import Elastic


def engine(batches, *, optimizer="adam", dropout=0.0, model=None, schedule=SCHEDULE, **options):
    model = model or toy.ToyModel(dropout)
    return local(batches, optimizer=optimizer, model=model, schedule=schedule, **options)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam", "adagrad"])
def test_accumulated_batches_equal_the_joined_batch(optimizer):
    """I2: with sums and one division, micro-batches change nothing."""
    small = toy.make_batches(6)
    joined = [toy.join(small[:3]), toy.join(small[3:])]
    tokens = [int(tf.math.count_nonzero(batch.target_ids)) for batch in joined]
    wanted = max(tokens[0] - 1, 1)
    split = engine(small, optimizer=optimizer, global_batch_tokens=wanted)
    whole = engine(joined, optimizer=optimizer)
    first_split, first_whole = run(split, 1)[0], run(whole, 1)[0]
    assert first_split.target_tokens == first_whole.target_tokens == tokens[0]
    assert first_split.loss == pytest.approx(first_whole.loss, rel=1e-12)
    np.testing.assert_allclose(parameters(split), parameters(whole), atol=1e-12)


def test_mean_of_means_would_differ():
    """The negative control: averaging the batches' own means weighs short batches more."""
    small = toy.make_batches(2, sentences=2)
    start = parameters(engine(small))
    means = []
    for batch in small:
        one = engine([batch], optimizer="sgd")
        run(one, 1)
        means.append(parameters(one))
    whole = engine([toy.join(small)], optimizer="sgd")
    run(whole, 1)
    assert np.abs(np.mean(means, axis=0) - parameters(whole)).max() > 1e-6 * np.abs(start).max()


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw", "adagrad"])
def test_resume_is_exact(optimizer):
    """I1: N + N updates equal 2N, bit for bit, dropout and moving average included."""
    batches = toy.make_batches(40)
    settings = {
        "optimizer": optimizer,
        "dropout": 0.3,
        "global_batch_tokens": 40,
        "average_rate": 0.01,
        "dtype": tf.float32,
    }
    through = engine(batches, **settings)
    reports = run(through, 8)
    first = engine(batches, **settings)
    run(first, 4)
    second = engine(batches, **settings, seed=1)
    second.restore(first.state())
    assert run(second, 4)[-1].loss == reports[-1].loss
    assert second.state().counters == through.state().counters
    assert second.state().vectors.keys() == through.state().vectors.keys()
    for name, vector in through.state().vectors.items():
        np.testing.assert_array_equal(second.state().vectors[name], vector, err_msg=name)


def test_resume_without_the_step_counter_would_differ():
    """The negative control: dropout is drawn anew from the step number."""
    batches = toy.make_batches(20)
    through, first, second = (engine(batches, dropout=0.3) for _ in range(3))
    run(through, 4)
    run(first, 2)
    state = first.state()
    forgotten = [{**state.counters["workers"][0], "step": 0}]
    second.restore(dataclasses.replace(state, counters={**state.counters, "workers": forgotten}))
    run(second, 2)
    assert not np.array_equal(parameters(second), parameters(through))


@pytest.mark.parametrize(
    "row",
    [
        Downpour(push_every=4, pull_every=2),
        Elastic(local_steps=2),
        ModelAverage(local_steps=2, local_slots="reset"),
        DelayedAsync(delay=3, delay_ramp_batches=2, local_optimizer_batches=3),
    ],
    ids=lambda row: type(row).__name__,
)
def test_a_block_as_one_graph_is_its_actions_one_by_one(row):
    """As the simulated engine runs them: with the same rates at the same clocks."""
    batches = toy.make_batches(20)
    whole = engine(batches, row=row)
    parts = simulated(row, batches, workers=1, optimizer="adam", schedule=SCHEDULE)
    for report, expected in zip(run(whole, 4), run(parts, 4)):
        assert report.learning_rate == pytest.approx(expected.learning_rate, rel=1e-12)
        assert report.loss == pytest.approx(expected.loss, rel=1e-12)
        (push,), (other,) = report.pushes, expected.pushes
        durations = {name: value for name, value in push._asdict().items() if name.endswith("seconds")}
        assert push == other._replace(**durations)
    one, other = whole.state(), parts.state()
    noise = one.counters["noise"]
    assert noise == pytest.approx(other.counters["noise"], rel=1e-12)
    assert one.counters.items() <= {**other.counters, "noise": noise}.items()
    for name, vector in one.vectors.items():
        np.testing.assert_allclose(other.vectors[name], vector, atol=1e-12, err_msg=name)


def test_nonfinite_update_is_skipped_and_named():
    batches = toy.make_batches(3)
    trained = engine(batches, model=toy.PoisonedModel(place=1))
    blocks = trained.blocks()
    next(blocks)
    before = trained.state().vectors
    skipped = next(blocks)
    assert skipped.skipped == "the gradient of bias was not finite at step 2 of worker 0"
    assert skipped.update == 1
    for name, vector in trained.state().vectors.items():
        np.testing.assert_array_equal(vector, before[name], err_msg=name)
    assert next(blocks).skipped is None


def test_clipping_bounds_the_gradient():
    batches = toy.make_batches(1)
    free, clipped = engine(batches, optimizer="sgd"), engine(batches, optimizer="sgd", clip_norm=0.01)
    start = parameters(free)
    norm = run(free, 1)[0].gradient_norm
    run(clipped, 1)
    assert norm > 0.01
    np.testing.assert_allclose(parameters(clipped) - start, (parameters(free) - start) * 0.01 / norm, atol=1e-14)


def test_average_follows_the_parameters():
    trained = engine(toy.make_batches(3), average_rate=0.5)
    expected = parameters(trained)
    for update, _ in enumerate(itertools.islice(trained.blocks(), 3)):
        weight = max(0.5, 1 - (update + 1) / (update + 10))
        expected = expected + weight * (parameters(trained) - expected)
        np.testing.assert_allclose(trained.state().evaluated, expected, atol=1e-14)


def test_plateau_scales_the_learning_rate():
    plateau = ScheduleSettings(learning_rate=0.1, schedule="plateau", warmup_updates=0)
    trained = engine(toy.make_batches(2), optimizer="sgd", schedule=plateau)
    blocks = trained.blocks()
    assert next(blocks).learning_rate == pytest.approx(0.1)
    trained.scale_learning_rate(0.5)
    assert next(blocks).learning_rate == pytest.approx(0.05)
