"""Replicas that move by all of their own worker's gradient, on the simulated engine, against equations in NumPy."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from graphs.encodings import find_encoding
from tests import toy
from tests.engines.building import (
    CONSTANT,
    DIFFERENT,
    EXACT,
    SCHEDULE,
    distance,
    gradient_of,
    parameters,
    run,
    simulated,
)
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import RingAllreduce

BATCHES = toy.make_batches(48)
FRACTION, EVERY, UPDATES = 0.25, 3, 5
ADAM = OptimizerSettings(optimizer="adam", adam_epsilon=1e-3)
EXACTLY = {"optimizer": "adam", "schedule": SCHEDULE, "dtype": tf.float32, "average_rate": 0.1}


def with_local_gradient(workers, every=EVERY, batches=BATCHES, **options):
    sparse = {"encoding": "topk", "topk_fraction": FRACTION, "local_gradient_updates": every}
    return simulated(RingAllreduce(), batches, workers=workers, **{**sparse, **options})


def replicas(state, name="parameters"):
    """Those of all workers [N, size]."""
    return np.stack([vector for key, vector in sorted(state.vectors.items()) if key.endswith(f"_replica_{name}")])


def largest(vector):
    """The vector with zeros in place of all but its largest elements."""
    kept = np.argsort(-np.abs(vector))[: round(FRACTION * vector.size)]
    return np.where(np.isin(np.arange(vector.size), kept), vector, 0.0)


def reference(workers, rest=lambda g, q, kept: g - q):
    """The replicas [N, size] by the equations, with Adam; `rest` is what a worker adds to the sum of what was sent."""
    start = toy.layout().initialize(1, tf.float64).numpy()
    w, kept, m, v = np.tile(start, (workers, 1)), *np.zeros((3, workers, start.size))
    for t in range(1, UPDATES + 1):
        batches = BATCHES[(t - 1) * workers : t * workers]
        g, tokens = zip(*(gradient_of(theta, batch) for theta, batch in zip(w, batches)))
        g, before = np.stack(g), kept
        q = np.stack([largest(vector) for vector in g + kept])
        kept = g + kept - q
        mean = (q.sum(axis=0) + rest(g, q, before)) / sum(tokens)
        m, v = 0.9 * m + 0.1 * mean, 0.98 * v + 0.02 * mean**2
        w = w - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.98**t)) + 1e-3)
        w = np.tile(w.mean(axis=0), (workers, 1)) if t % EVERY == 0 else w
    return w


@pytest.mark.parametrize("workers", [2, 4])
def test_replicas_move_by_the_equations(workers):
    """Of several updates, with an averaging among them; and the mean of the replicas is what is saved as the model."""
    engine = with_local_gradient(workers, optimizer=ADAM, schedule=CONSTANT)
    run(engine, UPDATES)
    state, expected = engine.state(), reference(workers)
    np.testing.assert_allclose(replicas(state), expected, atol=EXACT)
    np.testing.assert_allclose(state.evaluated, expected.mean(axis=0), atol=EXACT)
    assert np.abs(expected[0] - expected[1]).max() > DIFFERENT
    others = {
        "twice what was sent": lambda g, q, kept: g,
        "also what was kept": lambda g, q, kept: g + kept - q,
        "nothing": lambda g, q, kept: 0.0 * g,
    }
    for name, rest in others.items():
        assert np.abs(replicas(state) - reference(workers, rest)).max() > DIFFERENT, name


def test_all_elements_are_synchronous_training():
    """Bit for bit; with a quarter of them neither that nor what dropping alone is, and with one worker whole again."""
    options = {"optimizer": "adam", "dtype": tf.float32}
    sync, single = (simulated(RingAllreduce(), BATCHES, workers=workers, **options) for workers in (2, 1))
    whole, quarter = (with_local_gradient(2, topk_fraction=fraction, **options) for fraction in (1.0, FRACTION))
    dropping, alone = with_local_gradient(2, every=0, **options), with_local_gradient(1, **options)
    for engine in (sync, single, whole, quarter, dropping, alone):
        run(engine, EVERY + 1)
    assert np.array_equal(parameters(whole), parameters(sync))
    assert min(distance(quarter, sync), distance(quarter, dropping), distance(alone, sync)) > DIFFERENT
    np.testing.assert_allclose(parameters(alone), parameters(single), atol=1e-5)


@pytest.fixture(name="through", scope="module")
def _through():
    """An engine in the middle between two averagings, behind a warm start; its blocks, and its state there."""
    engine = with_local_gradient(2, warm_start_updates=1, **EXACTLY)
    blocks = engine.blocks()
    list(itertools.islice(blocks, EVERY + 1))
    return engine, blocks, engine.state()


def test_resumes_bit_for_bit_between_two_averagings(through):
    """Slots and moving averages too; without their own replicas workers are in another run."""
    engine, blocks, state = through
    second, third = (with_local_gradient(2, warm_start_updates=1, **EXACTLY) for _ in range(2))
    assert np.abs(np.diff(replicas(state), axis=0)).max() > DIFFERENT
    second.restore(state)
    own = {name: vector for name, vector in state.vectors.items() if "_replica_" in name}
    third.restore(state.with_vectors({name: state.vectors[name.split("_replica_")[1]] for name in own}))
    for name, vector in second.state().vectors.items():
        np.testing.assert_array_equal(state.vectors[name], vector, err_msg=name)
    list(itertools.islice(blocks, 3)), run(second, 3), run(third, 3)
    whole = engine.state().vectors
    for name, vector in second.state().vectors.items():
        np.testing.assert_array_equal(whole[name], vector, err_msg=name)
    assert len(own) == 8
    assert distance(engine, third) > DIFFERENT


@pytest.mark.parametrize("workers, every", [(3, EVERY), (2, 0)])
def test_other_workers_and_another_row_begin_with_the_mean(through, workers, every):
    *_, state = through
    engine = with_local_gradient(workers, every=every, **EXACTLY)
    engine.restore(state)
    for name in ("parameters", "average", "m"):
        mean = replicas(state, name).mean(axis=0)
        np.testing.assert_allclose(state.vectors[name], mean, atol=1e-6)
        assert np.array_equal(engine.state().vectors[name], state.vectors[name])
    run(engine, 1)
    assert sum("_replica_parameters" in name for name in engine.state().vectors) == (workers if every else 0)


def test_a_payload_that_is_left_out_moves_no_replica():
    """Nor its own worker's, not finite or without a target token: by what the other has sent, both move."""
    batches = list(BATCHES)
    batches[1] = batches[1]._replace(target_ids=tf.zeros_like(batches[1].target_ids))
    engine = with_local_gradient(2, batches=batches, model=toy.PoisonedModel(place=3))
    blocks, after = engine.blocks(), replicas(engine.state())
    kept = 0.0
    for refused in (None, "the gradient of bias was not finite at step 2 of worker 1"):
        before, report = after, next(blocks)
        after = replicas(engine.state())
        assert [push.refused for push in report.pushes] == [None, refused]
        gradient, tokens = gradient_of(before[0], batches[2 * (report.update - 1)])
        sent = largest(gradient + kept)
        kept = gradient + kept - sent
        expected = before - 0.1 * np.stack([gradient, sent]) / tokens
        np.testing.assert_allclose(after, expected, atol=EXACT)


def test_an_averaging_makes_replicas_equal_and_costs_what_it_moves():
    """At every third update, under the virtual clock and in the reports: 2 M (N - 1) / N more than without it."""
    costs = CostSettings(jitter=0.0, network_latency_seconds=0.0, network_bytes_per_second=1.0)
    engine, plain = (with_local_gradient(2, every=every, costs=costs) for every in (EVERY, 0))
    reports, spread = [], []
    for report in itertools.islice(engine.blocks(), 2 * EVERY):
        reports.append(report)
        spread.append(np.abs(np.diff(replicas(engine.state()), axis=0)).max())
    averages = 2 * ([False] * (EVERY - 1) + [True])
    assert [each == 0.0 for each in spread] == averages
    size = toy.layout().size
    payload, averaging = find_encoding("topk", FRACTION).bytes(size, tf.float64), size * 8
    expected = [payload + averaging * each for each in averages]
    assert [[push.bytes_pushed for push in report.pushes] for report in reports] == [[each] * 2 for each in expected]
    pairs = list(zip(reports, run(plain, 2 * EVERY)))
    assert sum(each.seconds - other.seconds for each, other in pairs) == pytest.approx(2 * averaging)
    # A worker waits for the last averaging behind its last push.
    in_pushes = sum(each.pushes[0].push_seconds - other.pushes[0].push_seconds for each, other in pairs)
    assert in_pushes == pytest.approx(averaging)
