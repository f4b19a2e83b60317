"""Payloads in other numbers than the parameters': what arrives, and how many bytes it costs."""

import doctest
import math

import numpy as np
import pytest
import tensorflow as tf

import graphs.encodings
from graphs.encodings import ENCODINGS
from graphs.forward_backward import forward_backward
from tests import toy
from tests.engines.building import DIFFERENT, EXACT, distance, parameters, run, simulated
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.strategies import Async, Bmuf, ModelAverage, RingAllreduce, SummedAsync, Sync

BATCHES = toy.make_batches(24)


def in_16_bits(vector, weight):
    scale = 256 / max(weight, 1)
    return (vector * scale).astype(np.float16).astype(np.float64) / scale


@pytest.mark.parametrize("servers", [1, 2])
def test_servers_move_by_what_arrives(servers):
    engine = simulated(Async(), BATCHES, workers=1, servers=servers, encoding="float16")
    theta = parameters(engine)
    for batch, _ in zip(BATCHES, range(3)):
        views = tf.constant(theta[: toy.layout().size])
        gradient, sums = forward_backward(toy.ToyModel().loss, toy.layout(), views, batch, None)
        tokens = float(sums.target_tokens)
        moved = 0.1 * in_16_bits(gradient.numpy(), tokens) / tokens
        assert np.abs(moved - 0.1 * gradient.numpy() / tokens).max() > DIFFERENT / 100
        theta = theta - np.pad(moved, (0, theta.size - moved.size))
    run(engine, 3)
    np.testing.assert_allclose(parameters(engine), theta, atol=EXACT)


@pytest.mark.parametrize("row", [Sync(), SummedAsync(), ModelAverage(local_steps=2), Bmuf(local_steps=2)])
def test_bytes_fall_and_the_result_stays_near(row):
    half, dense = (simulated(row, BATCHES, workers=2, encoding=name) for name in ("float16", "none"))
    reports, expected = run(half, 3), run(dense, 3)
    for report, other in zip(reports, expected):
        for push, whole in zip(report.pushes, other.pushes):
            assert (push.bytes_pulled, 4 * push.bytes_pushed) == (whole.bytes_pulled, whole.bytes_pushed)
    assert 0 < distance(half, dense) < 1e-3


def test_what_16_bits_cannot_hold_is_refused():
    """The payload is not finite where it arrives: nothing is applied, and the parameter is named."""

    class Steep(toy.ToyModel):
        def loss(self, views, batch, seed=None):
            sums = super().loss(views, batch, seed)
            return sums._replace(loss=sums.loss + 1e6 * sums.target_tokens * tf.reduce_sum(views["bias"]))

    half, dense = (simulated(Async(), BATCHES, workers=1, model=Steep(), encoding=name) for name in ("float16", "none"))
    assert run(half, 1)[0].skipped == "the gradient of bias was not finite at step 1 of worker 0"
    assert run(dense, 1)[0].skipped is None


@pytest.mark.parametrize("weight, factor", [(8.0, 32.0), (1.0, 256.0), (0.5, 256.0), (0.0, 256.0)])
def test_16_bits_hold_the_mean_times_256(weight, factor):
    """Of a payload that weighs less than one, its own elements."""
    half, weight = ENCODINGS["float16"], tf.constant(weight, tf.float64)
    encoded = half.encode(tf.constant([1.0, 0.0]), weight)
    assert encoded.numpy().tolist() == [factor, 0.0]
    assert half.decode(encoded, weight, 2, tf.float32).numpy().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", [name for name, encoding in ENCODINGS.items() if encoding.adds_up])
def test_sums_of_what_was_encoded_with_one_weight_are_sums(name):
    encoding, weight = ENCODINGS[name], tf.constant(8.0, tf.float64)
    vectors = tf.constant(np.arange(6.0).reshape(2, 3))
    encoded = [encoding.encode(vector, weight) for vector in vectors]
    found = encoding.decode(tf.add_n(encoded), weight, 3, tf.float64)
    np.testing.assert_allclose(found, vectors[0] + vectors[1], rtol=1e-3)


def encoded_bytes(name, size, value_bytes):
    """What travels for a vector: the formulas of the encodings, by hand."""
    by_hand = {
        "none": lambda: size * value_bytes,
        "float16": lambda: 2 * size,
        "bfloat16": lambda: 2 * size,
        "int8": lambda: even(size, 256) + 4 * math.ceil(size / 256),
        "int4": lambda: even(size, 256) // 2 + 4 * math.ceil(size / 256),
        "topk": lambda: (
            round(0.01 * even(size, 4096) / math.ceil(size / 4096)) * math.ceil(size / 4096) * (value_bytes + 2)
        ),
    }
    return by_hand[name]()


def even(size, most):
    """Numbers in as many chunks of even length as hold `size`."""
    chunks = math.ceil(size / most)
    return chunks * 2 * math.ceil(size / chunks / 2)


@pytest.mark.parametrize("size", [255, 4096, 5000])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("name", ENCODINGS)
def test_what_travels_and_what_is_kept_are_what_went_in(name, dtype, size):
    """Exactly, of numbers of every magnitude; and what travels has the bytes of the formula."""
    encoding, weight = ENCODINGS[name], tf.constant(3.0, tf.float64)
    random = np.random.default_rng(size)
    vector = tf.constant(random.normal(size=size) * 10.0 ** random.integers(-6, 1, size), dtype)
    encoded = encoding.encode(vector, weight)
    sent = encoding.decode(encoded, weight, size, dtype)
    assert encoded.shape[0] * encoded.dtype.size == encoding.bytes(size, dtype) == encoded_bytes(name, size, dtype.size)
    assert sent.dtype == dtype
    kept = vector - sent
    np.testing.assert_array_equal(sent + kept, vector)
    assert (np.abs(kept).max() > 0) == (name != "none")


@pytest.mark.parametrize("name, error", [("int8", 1 / 254), ("int4", 1 / 14)])
def test_integers_are_the_nearest(name, error):
    """Half a unit of the largest number of a chunk; other chunks do not matter."""
    vector = np.random.default_rng(1).normal(size=512) * np.repeat([1.0, 1000.0], 256)
    sent = ENCODINGS[name].decode(ENCODINGS[name].encode(tf.constant(vector), 1.0), 1.0, 512, tf.float64)
    for chunk, off in zip(np.split(vector, 2), np.split(np.abs(sent - vector), 2)):
        assert 0.9 * error < off.max() / np.abs(chunk).max() <= error * (1 + 1e-6)


def test_the_largest_elements_of_each_chunk_are_sent():
    vector = np.random.default_rng(1).normal(size=8192) * np.repeat([1.0, 1000.0], 4096)
    encoding = ENCODINGS["topk"]
    sent = encoding.decode(encoding.encode(tf.constant(vector), 1.0), 1.0, 8192, tf.float64).numpy()
    for chunk, found in zip(np.split(vector, 2), np.split(sent, 2)):
        least = np.sort(np.abs(chunk))[-41]
        np.testing.assert_array_equal(found, np.where(np.abs(chunk) >= least, chunk, 0.0))


@pytest.mark.parametrize("name", [name for name, encoding in ENCODINGS.items() if encoding.keeps_rest])
def test_infinities_arrive(name):
    encoded = ENCODINGS[name].encode(tf.fill([5000], tf.constant(np.inf, tf.float32)), 1.0)
    assert not np.isfinite(tf.nn.l2_loss(ENCODINGS[name].decode(encoded, 1.0, 5000, tf.float32)))


def test_examples():
    found = doctest.testmod(graphs.encodings)
    assert found.attempted and not found.failed


def test_a_push_of_16_bits_takes_a_quarter_of_the_time_of_64():
    """A pull travels as it is; a ring carries the payload alone."""
    costs = CostSettings(
        jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, network_latency_seconds=0.0, network_bytes_per_second=64.0
    )
    engine = simulated(Sync(), BATCHES, workers=1, encoding="float16", costs=costs)
    run(engine, 1)
    whole = parameters(engine).nbytes / 64
    assert [event.seconds for event in engine.trace[:3]] == pytest.approx([whole, whole + 1, whole + 1 + whole / 4])
    (report,) = run(simulated(RingAllreduce(), BATCHES, workers=2, encoding="float16", costs=costs), 1)
    assert [push.bytes_pushed for push in report.pushes] == [parameters(engine).nbytes // 4] * 2  # 2 M (N - 1) / N
