"""The noise scale: its arithmetic, and what engines measure on a quadratic whose noise is known."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.engines.building import local, run, simulated
from tfnmt.batch import Batch, is_token
from tfnmt.engines.noise_scale import NoiseScale
from tfnmt.layout import Parameter
from tfnmt.models.base import LossSums
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import Async, DelayedAsync, ModelAverage, RingAllreduce, Single, SummedAsync, Sync

SIGNAL, NOISE = 3.0, 60.0  # |G|², S, of gradients that are made up
MEAN = 0.3  # of the points, in each direction
STILL = ScheduleSettings(learning_rate=1e-12, schedule="constant", warmup_updates=0)
TOKENS, WIDTH = 2000, 500  # of the vocabulary, and of the only parameter


def expected_update(*parts):
    """The expectations of what `NoiseScale.after` takes, for gradients of so many tokens."""
    tokens = float(sum(parts))
    squares = sum(part**2 * SIGNAL + part * NOISE for part in parts)
    return tokens, SIGNAL + NOISE / tokens, float(sum(part**2 for part in parts)), squares


class TestArithmetic:
    def test_unequal_gradients_tell_it_exactly(self):
        """Taken for gradients of equal size they would not."""
        noise = NoiseScale()
        for _ in range(20):
            for parts in ((1, 9), (7, 3, 5), (100, 1)):
                noise = noise.after(*expected_update(*parts))
        assert noise.tokens == pytest.approx(NOISE / SIGNAL, rel=1e-9)
        tokens, mean_square, _, squares = expected_update(1, 9)
        equal = NoiseScale().after(tokens, mean_square, 2 * 5.0**2, squares)
        assert equal.noise / equal.signal != pytest.approx(NOISE / SIGNAL, rel=0.1)

    def test_both_are_averaged_before_they_are_divided(self):
        """The mean of the ratios would be (1 + 100) / 2."""
        noise = NoiseScale()
        for _ in range(300):
            for signal, trace in ((1.0, 1.0), (0.1, 10.0)):
                parts = ((4.0, signal + trace / 4), (4.0, signal + trace / 4))
                squares = sum(tokens**2 * square for tokens, square in parts)
                noise = noise.after(8.0, signal + trace / 8, 2 * 4.0**2, squares)
        assert noise.tokens == pytest.approx(11 / 1.1, rel=0.02)

    def test_a_single_gradient_tells_nothing(self):
        assert NoiseScale().after(10.0, 2.0, 100.0, 200.0) == NoiseScale()

    def test_the_last_hundred_updates_count(self):
        noise = NoiseScale()
        for scale in [1.0] * 500 + [4.0] * 500:
            tokens, mean_square, squared_tokens, squares = expected_update(5, 5)
            more = 50.0 * (scale - 1)  # of S, for each gradient
            noise = noise.after(tokens, mean_square + more / tokens, squared_tokens, squares + 10 * more)
        assert noise.tokens == pytest.approx((NOISE + 150) / SIGNAL, rel=0.02)

    def test_nothing_is_told_while_the_signal_may_be_nothing(self):
        """Estimates of |G|² scatter around zero, or around something that stands out."""
        for mean, is_known in ((0.0, False), (0.2, False), (1.0, True)):
            noise = NoiseScale()
            for number in range(100):
                signal = mean + (-1) ** number
                noise = noise.after(8.0, signal + 1.0, 2 * 4.0**2, 2 * 4.0**2 * (signal + 2.0))
            assert (noise.tokens is not None) == is_known

    def test_nothing_is_told_at_first(self):
        noise, known = NoiseScale(), []
        for _ in range(12):
            noise = noise.after(*expected_update(5, 5))
            known.append(noise.tokens is not None)
        assert known == [False] * 9 + [True] * 3

    def test_batches_without_noise_need_no_size(self):
        noise = NoiseScale()
        for _ in range(20):
            noise = noise.after(10.0, 3.0, 50.0, 50.0 * 3.0 * (1 + 1e-15))
        assert noise.tokens == pytest.approx(0.0, abs=1e-9)
        assert noise.tokens >= 0


class Quadratic:
    """Each target token x pulls the parameters w to a point of its own: a loss |w - x|² / 2 has the gradient w - x."""

    parameters = (Parameter("w", (WIDTH,), lambda shape, seed: tf.zeros(shape)),)

    def __init__(self, spread=1.0):
        random = np.random.default_rng(7).normal(size=(TOKENS, WIDTH))
        self._points = MEAN + spread * (random - random.mean(axis=0))

    def loss(self, views, batch, seed=None):
        mask = tf.cast(is_token(batch.target_ids), tf.float64)
        points = tf.gather(self._points, tf.maximum(batch.target_ids - 1, 0))
        distances = tf.reduce_sum((views["w"] - points) ** 2, axis=-1) / 2
        total = tf.reduce_sum(mask * distances)
        return LossSums(total, total, tf.reduce_sum(mask))

    @property
    def noise_scale(self):
        return np.mean(np.sum((self._points - MEAN) ** 2, axis=1)) / np.sum(np.full(WIDTH, MEAN) ** 2)


def make_batches(count, repeat=1):
    """Batches of 5 to 40 independent tokens, each so many times."""
    random, batches = np.random.default_rng(3), []
    while len(batches) < count:
        ids = np.zeros((2, 20), np.int32)
        for row in ids:
            length = random.integers(3, 21)
            row[:length] = random.integers(1, TOKENS + 1, length)
        for _ in range(repeat):
            position = tf.constant([0, 0, len(batches)], tf.int64)
            batches.append(Batch(tf.constant(ids), tf.constant(ids), position))
    return batches


BATCHES = make_batches(160)
MEASURED = {
    "sync": (simulated, Sync(), {"workers": 3}),
    "shards": (simulated, Sync(), {"workers": 2, "servers": 3, "encoding": "float16"}),
    "sync of several batches": (simulated, RingAllreduce(), {"workers": 2, "global_batch_tokens": 100}),
    "summed": (simulated, SummedAsync(summed_pushes=2), {"workers": 3, "spread": 2.0}),
    "delayed": (simulated, DelayedAsync(delay=3, local_optimizer_batches=0), {"workers": 2}),
    "one worker": (local, Single(), {"global_batch_tokens": 80, "streams": 2, "servers": 2}),
}


def measure(engine, row, batches=BATCHES, updates=40, spread=1.0, **options):
    """The newest measurement, over the truth; None where there is none."""
    model = Quadratic(spread)
    order = {"batches": batches, "row": row}
    built = engine(**order, model=model, schedule=STILL, **options)
    found = run(built, updates)[-1].noise_scale_tokens
    return None if found is None else found / model.noise_scale


class TestQuadratic:
    @pytest.mark.parametrize("name", MEASURED)
    def test_is_measured_within_5_percent(self, name):
        engine, row, options = MEASURED[name]
        assert measure(engine, row, **options) == pytest.approx(1.0, rel=0.05)

    def test_gradients_that_know_of_each_other_hide_it(self):
        """The negative control: three workers that read the same have no noise between them."""
        assert measure(simulated, Sync(), make_batches(160, repeat=3), workers=3) == pytest.approx(0.0, abs=0.01)

    @pytest.mark.parametrize(
        "engine, row, options",
        [
            (simulated, ModelAverage(local_steps=1), {"workers": 2, "global_batch_tokens": 100}),
            (simulated, Async(), {"workers": 2}),
            (local, Single(), {}),
        ],
    )
    def test_is_none_without_several_gradients_in_an_update(self, engine, row, options):
        """Deltas of replicas are no gradients."""
        assert measure(engine, row, updates=12, **options) is None

    def test_goes_on_behind_a_checkpoint(self):
        def engine():
            return local(BATCHES, model=Quadratic(), schedule=STILL, global_batch_tokens=80)

        whole, half, rest = engine(), engine(), engine()
        expected = [report.noise_scale_tokens for report in run(whole, 24)][12:]
        run(half, 12)
        rest.restore(half.state())
        assert [report.noise_scale_tokens for report in run(rest, 12)] == expected
        assert not any(each is None or math.isnan(each) for each in expected)
