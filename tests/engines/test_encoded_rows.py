"""Rows whose payloads are encoded, on the simulated engine: what arrives, what is kept, and what that costs."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from graphs.encodings import ENCODINGS, find_encoding
from tests import toy
from tests.engines.building import CONSTANT, DIFFERENT, EXACT, SCHEDULE, distance, parameters, run, simulated
from tests.engines.rows import ROWS, columns
from tfnmt.engines.schedule import PULLED, PUSHED, STEPPED, Fault
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.layout import Layout
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import Async, RingAllreduce, Sync

BATCHES = toy.make_batches(48)
LOSSY = [name for name, encoding in ENCODINGS.items() if encoding.keeps_rest]
ENCODED = [name for name in ENCODINGS if name != "none"]
PAIRS = [*zip(ROWS, itertools.cycle(ENCODED)), *itertools.product(["sync", "model_average"], ENCODED)]
"""Every row with some encoding, and every encoding with a row that pushes gradients and one that pushes deltas."""


FRACTION = 0.25


def encoded(row, name, workers=2, **options):
    """An engine whose payloads are encoded so."""
    return simulated(row, BATCHES, workers=workers, encoding=name, topk_fraction=FRACTION, **options)


def encoding_of(name):
    return find_encoding(name, FRACTION)


def residuals(state):
    return [vector for name, vector in sorted(state.vectors.items()) if name.endswith("_residual")]


@pytest.mark.parametrize("row, name", sorted(set(PAIRS)))
def test_resumes_behind_a_gradient_that_is_not_finite(row, name):
    """Bit for bit behind a barrier, what was not sent included.

    The gradient is named and poisons nothing, not what is kept either; its first element need not be one that is sent.
    """
    options = {"optimizer": "adam", "schedule": SCHEDULE, "dtype": tf.float32, "model": toy.PoisonedModel(place=2)}
    through, second = (encoded(ROWS[row], name, **options) for _ in range(2))
    blocks = through.blocks()
    reports = list(itertools.islice(blocks, 3))
    state = through.state()
    second.restore(state)
    assert len(residuals(state)) == (2 if name in LOSSY else 0)
    for vector, other in zip(residuals(second.state()), residuals(state)):
        np.testing.assert_array_equal(vector, other)
    reports += run(second, 2)
    assert reports[-1].update == 5 - sum(report.skipped is not None for report in reports)
    told = [push for report in reports for push in report.pushes if push.refused or push.skipped_steps]
    assert [push.worker for push in told] == [0]
    assert all("gradient of bias" in push.refused for push in told if push.refused)
    assert all(np.isfinite(vector).all() for vector in second.state().vectors.values())
    if not columns(row).has_barrier:
        return
    list(itertools.islice(blocks, 2))
    for vector, value in through.state().vectors.items():
        np.testing.assert_array_equal(second.state().vectors[vector], value, err_msg=vector)


@pytest.mark.parametrize("name", LOSSY)
def test_without_what_was_not_sent_it_is_another_run(name):
    """The negative control of an exact resume."""
    through, second = (encoded(Sync(), name) for _ in range(2))
    blocks = through.blocks()
    list(itertools.islice(blocks, 3))
    state = through.state()
    nothing = {vector: np.zeros_like(value) for vector, value in state.vectors.items() if vector.endswith("_residual")}
    second.restore(state.with_vectors(nothing))
    next(blocks), run(second, 1)
    assert distance(through, second) > DIFFERENT


@pytest.mark.parametrize("name", ENCODED)
def test_the_bytes_are_those_of_the_encoding(name):
    """Of the report, and of the transfer under the virtual clock; each server gets a part that is encoded by itself."""
    costs = CostSettings(jitter=0.0, network_latency_seconds=0.0, network_bytes_per_second=1.0)
    engine = encoded(Sync(), name, workers=1, servers=3, costs=costs)
    (report,) = run(engine, 1)
    size = Layout(toy.ToyModel.parameters, 3).size
    sent = 3 * encoding_of(name).bytes(size // 3, tf.float64)
    assert [(push.bytes_pulled, push.bytes_pushed) for push in report.pushes] == [(8 * size, sent)]
    stepped, pushed = (event.seconds for event in engine.trace if event.kind in (STEPPED, PUSHED))
    assert pushed - stepped == pytest.approx(sent)


@pytest.mark.parametrize("name", LOSSY)
def test_nothing_is_lost_or_doubled(name):
    """All gradients are what the servers have moved by and what the workers keep; without the latter, they are not."""
    words = {"learning_rate_law": "words", "law_tokens": 1}  # a rate for which a sum moves the servers by itself
    rate = ScheduleSettings(learning_rate=1e-3, schedule="constant", warmup_updates=0)
    engine = encoded(Sync(), name, workers=3, servers=2, schedule=rate, **words)
    before, total = parameters(engine), 0.0
    for _ in itertools.islice(engine.blocks(), 6):
        total = total + sum(worker.replica.vectors["gathered"].numpy() for worker in engine.crew)
    kept = sum(residuals(engine.state()))
    moved = (before - parameters(engine)) / 1e-3
    np.testing.assert_allclose(moved + kept, total, atol=1e-9)
    assert np.abs(moved - total).max() > 1e-3


@pytest.mark.parametrize("row", ["sync", "bmuf", "delayed_async"])
def test_all_largest_elements_are_all_elements(row):
    """Bit for bit; a quarter of them is not."""
    options = {"workers": 2, "servers": 2, "optimizer": "adam", "dtype": tf.float32}
    dense = simulated(ROWS[row], BATCHES, **options)
    whole, quarter = (
        simulated(ROWS[row], BATCHES, encoding="topk", topk_fraction=fraction, **options) for fraction in (1.0, 0.25)
    )
    run(dense, 4), run(whole, 4), run(quarter, 4)
    assert np.array_equal(parameters(whole), parameters(dense))
    assert not np.array_equal(parameters(quarter), parameters(dense))


@pytest.mark.parametrize("name", LOSSY)
def test_servers_move_by_what_arrives(name):
    """With what was kept added, by hand; of a worker without a target token nothing is kept, and nothing is lost."""
    batches = [
        batch._replace(target_ids=tf.zeros_like(batch.target_ids)) if number == 1 else batch
        for number, batch in enumerate(BATCHES)
    ]
    engine = simulated(Async(), batches, workers=1, encoding=name, topk_fraction=FRACTION, schedule=CONSTANT)
    encoding, kept, theta = encoding_of(name), 0.0, parameters(engine)
    for report in itertools.islice(engine.blocks(), 4):
        if report.target_tokens:
            whole = engine.crew[0].replica.vectors["gathered"].numpy() + kept
            sent = encoding.decode(encoding.encode(tf.constant(whole), 1.0), 1.0, whole.size, tf.float64).numpy()
            kept, theta = whole - sent, theta - 0.1 * sent / report.target_tokens
        np.testing.assert_allclose(parameters(engine), theta, atol=EXACT)
        np.testing.assert_allclose(residuals(engine.state())[0], kept, atol=EXACT)
    assert np.abs(kept).max() > DIFFERENT


def test_warm_start_may_travel_otherwise():
    """Dense: as without an encoding until it ends; the same: not so."""
    engines = [
        simulated(Sync(), BATCHES, workers=2, warm_start_updates=3, **each)
        for each in ({}, {"encoding": "int4", "warm_start_encoding": "none"}, {"encoding": "int4"})
    ]
    plain, warm, same = engines
    run(plain, 3), run(same, 3)
    blocks = warm.blocks()
    sent = [next(blocks).pushes[0].bytes_pushed for _ in range(3)]
    assert distance(plain, warm) == 0 < distance(plain, same)
    assert [*sent, next(blocks).pushes[0].bytes_pushed] == [8 * 80] * 3 + [4 + 80 // 2]


@pytest.mark.parametrize("name, adds_up", [("float16", True), ("int8", False), ("topk", False)])
def test_a_ring_gathers_what_it_cannot_add_up(name, adds_up):
    """2 (N - 1) / N of a payload are sent where it can, N - 1 payloads where it cannot; and that takes as long."""
    quick = CostSettings(jitter=0.0, seconds_per_token=0.0, network_latency_seconds=0.0, network_bytes_per_second=1.0)
    engine = encoded(RingAllreduce(), name, workers=4, costs=quick)
    (report,) = run(engine, 1)
    payload = encoding_of(name).bytes(parameters(engine).size, tf.float64)
    expected = 2 * payload * 3 // 4 if adds_up else 3 * payload
    assert {push.bytes_pushed for push in report.pushes} == {expected}
    assert report.seconds == pytest.approx(expected)


def test_the_noise_scale_is_not_told_of_payloads_that_are_not_gradients():
    engines = [encoded(Sync(), name) for name in ("none", "float16", "topk")]
    for engine in engines:
        run(engine, 3)
    assert [engine.state().counters["noise"]["updates"] for engine in engines] == [3, 3, 0]


def two_way(row, name, workers=2, **options):
    """An engine whose parameters travel to the workers as encoded changes."""
    return simulated(row, BATCHES, workers=workers, pull_encoding=name, topk_fraction=FRACTION, **options)


PULLED_ROWS = [name for name in ROWS if not columns(name).ring]
PULLS = [*zip(PULLED_ROWS, itertools.cycle(LOSSY)), *(("sync", name) for name in ENCODED)]


@pytest.mark.parametrize("row, name", sorted(set(PULLS)))
def test_pulls_resume_with_what_each_worker_knows(row, name):
    """Bit for bit behind a barrier; also where pushes are encoded."""
    options = {"encoding": "int8", "optimizer": "adam", "dtype": tf.float32}
    through, second = (two_way(ROWS[row], name, **options) for _ in range(2))
    blocks = through.blocks()
    list(itertools.islice(blocks, 3))
    state = through.state()
    second.restore(state)
    assert sum(vector.endswith("_known") for vector in state.vectors) == 2
    assert run(second, 2)[-1].update == 5
    if not columns(row).has_barrier:
        return
    list(itertools.islice(blocks, 2))
    for vector, value in through.state().vectors.items():
        np.testing.assert_array_equal(second.state().vectors[vector], value, err_msg=vector)


@pytest.mark.parametrize("name", ENCODED)
def test_pulls_add_up_to_the_parameters(name):
    """What a worker trains on is what the servers believe it to know; once they stand still, it comes to know all."""
    still = ScheduleSettings(learning_rate=0.0, schedule="constant", warmup_updates=0)
    moving, standing = (two_way(Sync(), name, servers=2, schedule=each) for each in (CONSTANT, still))
    run(moving, 4)
    theta, known = parameters(moving), moving.state().vectors["worker_1_known"]
    np.testing.assert_array_equal(moving.crew[1].replica.parameters, known)
    copies = moving._servers.server.copies[1]
    np.testing.assert_array_equal(np.concatenate([copy.numpy() for copy in copies]), known)
    away = np.abs(known - theta).max()
    assert away > DIFFERENT
    standing.restore(moving.state())
    run(standing, 12)
    np.testing.assert_array_equal(parameters(standing), theta)
    assert np.abs(standing.state().vectors["worker_1_known"] - theta).max() < away / 1000


@pytest.mark.parametrize("row", ["sync", "bmuf", "elastic", "delayed_async"])
def test_all_largest_changes_are_all_changes(row):
    """A quarter of them is not."""
    options = {"workers": 2, "servers": 2, "optimizer": "adam"}
    dense = simulated(ROWS[row], BATCHES, **options)
    whole, quarter = (
        simulated(ROWS[row], BATCHES, pull_encoding="topk", topk_fraction=fraction, **options)
        for fraction in (1.0, FRACTION)
    )
    run(dense, 4), run(whole, 4), run(quarter, 4)
    assert distance(whole, dense) < EXACT < distance(quarter, dense)


def test_pulls_cost_what_travels():
    """The first one is whole, and so is that of a worker who comes back; the others are encoded."""
    costs = CostSettings(jitter=0.0, network_latency_seconds=0.0, network_bytes_per_second=1.0)
    faults = [Fault(worker=0, block=3, kind=PULLED, seconds=0.1)]
    engine = two_way(Sync(), "int4", workers=1, servers=3, costs=costs, faults=faults)
    pulled = [report.pushes[0].bytes_pulled for report in run(engine, 4)]
    size = Layout(toy.ToyModel.parameters, 3).size
    change = 3 * encoding_of("int4").bytes(size // 3, tf.float64)
    assert pulled == [8 * size, change, 8 * size, change]
    (_, second, third, fourth, _), pushed = ([e.seconds for e in engine.trace if e.kind == k] for k in (PULLED, PUSHED))
    assert [second - pushed[0], fourth - third] == pytest.approx([change, 8 * size + 0.1])


@pytest.mark.parametrize("name", LOSSY)
def test_a_worker_that_comes_back_knows_what_the_servers_believe(name):
    faults = [Fault(worker=1, block=block, kind=kind, seconds=0.1) for block, kind in ((2, PULLED), (3, PUSHED))]
    engine = two_way(Sync(), name, servers=2, faults=faults)
    run(engine, 6)
    assert [event.kind for event in engine.trace].count("restarted") == 2
    copies = engine._servers.server.copies
    for worker, parts in zip(engine.crew, copies):
        np.testing.assert_array_equal(worker.replica.vectors["known"], np.concatenate([part.numpy() for part in parts]))


def test_a_change_that_does_not_fit_is_sent_later():
    """An infinite change would stay in what a worker knows for ever."""
    huge = ScheduleSettings(learning_rate=1e5, schedule="constant", warmup_updates=0)
    engine = two_way(Sync(), "float16", schedule=huge)
    run(engine, 2)
    assert np.abs(parameters(engine)).max() > 256
    assert np.isfinite(engine.state().vectors["worker_0_known"]).all()
