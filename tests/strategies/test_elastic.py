"""Elastic averaging against its equations."""

import itertools

import numpy as np

from tests import toy
from tests.engines.building import DIFFERENT, EXACT, SCHEDULE, distance, local, parameters, run, simulated
from tfnmt.strategies.averaging import ModelAverage
from tfnmt.strategies.elastic import Elastic

BATCHES = toy.make_batches(24)


def test_one_worker_of_full_force_changes_places_with_the_servers():
    """ρ = 1: θ is what plain training comes to, and the replica is where θ was."""
    engine, alone = simulated(Elastic(local_steps=3, elastic_force=1.0), BATCHES, workers=1), local(BATCHES)
    start = parameters(engine)
    run(engine, 1), run(alone, 3)
    assert distance(engine, alone) < EXACT
    np.testing.assert_allclose(engine.crew[0].replica.parameters, start, atol=EXACT)


def test_hardly_any_force_leaves_the_replicas_alone():
    """ρ → 0: as many independent runs as there are workers, while the servers stay where they are."""
    engine = simulated(Elastic(local_steps=2, elastic_force=1e-13, elastic_barrier=True), BATCHES, workers=2)
    start = parameters(engine)
    run(engine, 3)
    np.testing.assert_allclose(parameters(engine), start, atol=EXACT)
    for number, worker in enumerate(engine.crew):
        alone = local(BATCHES[number::2])
        run(alone, 6)
        np.testing.assert_allclose(worker.replica.parameters, parameters(alone), atol=1e-10)


def test_barrier_takes_all_differences_at_one_place():
    """w' = w - ρ (w - θ) is what a worker holds behind a meeting: from it, θ' = θ + Σ ρ / (1 - ρ) (w' - θ)."""
    engine = simulated(Elastic(local_steps=2, elastic_force=0.6, elastic_barrier=True), BATCHES, workers=3, servers=2)
    theta, force = parameters(engine), 0.6 / 3
    for _ in itertools.islice(engine.blocks(), 4):
        replicas = np.stack([worker.replica.parameters.numpy() for worker in engine.crew])
        theta = theta + force / (1 - force) * np.sum(replicas - theta, axis=0)
        np.testing.assert_allclose(parameters(engine), theta, atol=EXACT)
        assert np.abs(replicas - theta).min(axis=1).max() < np.abs(replicas - theta).max()


def test_replicas_are_not_replaced_by_their_mean():
    """The negative control."""
    engine = simulated(Elastic(local_steps=2, elastic_force=1.0, elastic_barrier=True), BATCHES, workers=2)
    averaged = simulated(ModelAverage(local_steps=2), BATCHES, workers=2)
    run(engine, 1), run(averaged, 1)
    assert distance(engine, averaged) < EXACT  # the first time, the sum of the halves is the mean
    run(engine, 1), run(averaged, 1)
    assert distance(engine, averaged) > DIFFERENT


def test_a_refused_step_changes_nothing_of_the_sum():
    """The worker whose only step was not finite is drawn all the same, and so are the servers: by both differences."""
    engine, sound = (
        simulated(Elastic(local_steps=1, elastic_barrier=True), BATCHES, workers=2, model=model)
        for model in (toy.PoisonedModel(place=5), None)
    )
    run(engine, 2), run(sound, 2)
    theta = parameters(engine)
    (report,) = run(engine, 1)
    assert report.skipped is None and [push.skipped_steps for push in report.pushes] == [0, 1]
    force = 0.9 / 2
    replicas = np.stack([worker.replica.parameters.numpy() for worker in engine.crew])
    expected = theta + force / (1 - force) * np.sum(replicas - theta, axis=0)
    np.testing.assert_allclose(parameters(engine), expected, atol=EXACT)


def test_both_forms_have_one_learning_rate():
    for law, rate in (("linear", 0.4), ("none", 0.1)):
        for barrier in (False, True):
            row = Elastic(local_steps=2, elastic_barrier=barrier)
            (report,) = run(simulated(row, BATCHES, workers=4, learning_rate_law=law), 1)
            assert abs(report.learning_rate - rate) < EXACT


def test_reports_say_the_rate_of_the_worker_that_pushed():
    """Of four workers, the first to push has done two steps, the mean of all is a half."""
    engine = simulated(Elastic(local_steps=2), BATCHES, workers=4, schedule=SCHEDULE)
    (report,) = run(engine, 1)
    assert abs(report.learning_rate - 0.1 * 2 / 3) < EXACT
