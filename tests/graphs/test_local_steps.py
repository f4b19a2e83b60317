"""The local update against Adam's equations in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from graphs.local_steps import REPLICA, LocalUpdate, Replica, clipped_mean, move_replica
from tfnmt.optimizers.optimizers import OptimizerSettings, Sgd, build_optimizer

RATES = (0.1, 0.2, 0.3, 0.4)
"""By the steps of the worker, modulo four."""


def move(gradients, first_step, updates=0.0, steps=None):
    """The replica behind local updates on sums over two tokens each; the worker has done `first_step` steps before."""
    zeros = np.zeros(gradients.shape[1])
    slots = {"m": tf.Variable(zeros), "v": tf.Variable(zeros)}
    replica = Replica({REPLICA: tf.Variable(zeros)}, slots, tf.Variable(updates, dtype=tf.float64))
    adam = build_optimizer(OptimizerSettings(adam_epsilon=1e-3))

    @tf.function
    def step(gradient_sum, number):
        local = LocalUpdate(adam, tf.gather(tf.constant(RATES, tf.float64), number % 4), 0.0, steps)
        return move_replica(local, replica, gradient_sum, tf.constant(2.0, tf.float64), number)

    for number, gradient in enumerate(gradients, start=first_step):
        step(tf.constant(2 * gradient), tf.constant(number, tf.int64))
    return replica


def adam(gradients, first_step, updates=0):
    theta = m = v = np.zeros(gradients.shape[1])
    for number, gradient in enumerate(gradients):
        t, rate = updates + number + 1, RATES[(first_step + number) % 4]
        m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
        theta = theta - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.98**t)) + 1e-3)
    return theta


@pytest.fixture(name="gradients")
def _gradients():
    return np.random.default_rng(5).normal(size=(3, 8))


@pytest.mark.parametrize("first_step", [0, 501])
def test_fresh_slots_begin_like_adam(gradients, first_step):
    """Whatever the worker has done before; the learning rate goes by the worker's steps."""
    replica = move(gradients, first_step)
    np.testing.assert_allclose(replica.parameters, adam(gradients, first_step), rtol=1e-12)
    assert replica.updates.numpy() == 3


def test_slots_of_another_age_would_differ(gradients):
    """The negative control: with the correction of as many updates as the worker has steps."""
    aged = move(gradients, 501, updates=501.0)
    np.testing.assert_allclose(aged.parameters, adam(gradients, 501, updates=501), rtol=1e-12)
    assert np.abs(aged.parameters - adam(gradients, 501)).max() > 1e-2


def test_ends_by_the_steps_of_the_worker(gradients):
    replica = move(gradients, 501, steps=503)
    np.testing.assert_allclose(replica.parameters, adam(gradients[:2], 501), rtol=1e-12)
    assert replica.updates.numpy() == 2


def test_refused_gradient_is_no_update(gradients):
    spoiled = np.insert(gradients, 1, np.nan, axis=0)
    assert move(spoiled, 0).updates.numpy() == 3


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize(
    "gradient, tokens, step, told",
    [
        ([1.0, 2.0], 2, 2, (True, False, -1)),
        ([1.0, 2.0], 0, 2, (False, False, -1)),
        ([1.0, np.nan], 2, 2, (False, True, 1)),
        ([1.0, np.nan], 0, 2, (False, False, -1)),
        ([1.0, np.nan], 2, 3, (False, False, -1)),
    ],
)
def test_moves_by_finite_gradients_of_wanted_steps(gradient, tokens, step, told, steps):
    """And tells of it: wanted are steps with a token, up to the last of the local optimizer."""
    if steps is None and step == 3:
        told = (False, True, 1)
    replica = Replica({REPLICA: tf.Variable([5.0, 5.0])}, {}, tf.Variable(0.0, dtype=tf.float64))
    update = LocalUpdate(Sgd(), tf.constant(1.0), 0.0, steps)
    number = tf.constant(step, tf.int64)
    found = move_replica(update, replica, tf.constant(gradient), tf.constant(float(tokens)), number)
    assert tuple(each.numpy().item() for each in found) == told
    np.testing.assert_array_equal(replica.parameters, [4.5, 4.0] if told[0] else [5.0, 5.0])
    assert replica.updates.numpy() == told[0]


@pytest.mark.parametrize(
    "tokens, clip_norm, factor", [(1, 0, 1), (5, 0, 1 / 5), (5, 0.5, 1 / 10), (0, 0, 1), (0, 0.5, 1 / 10), (1, 9, 1)]
)
def test_mean_is_over_the_tokens_and_no_longer_than_the_clipping(tokens, clip_norm, factor):
    """Of a sum that is 5 long; without a token there is nothing to divide by."""
    found = clipped_mean(tf.constant([3.0, 4.0]), tf.constant(float(tokens)), clip_norm)
    np.testing.assert_allclose(found, [3 * factor, 4 * factor], rtol=1e-6)
