"""Every optimizer against its equations in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tfnmt.optimizers.optimizers import OptimizerSettings, build_optimizer
from tfnmt.settings import faults_of
from tfnmt.strategies import DelayedAsync

RATE = 0.05


def sgd(theta, gradients):
    for gradient in gradients:
        theta = theta - RATE * gradient
    return theta


def momentum(theta, gradients, nesterov=False):
    velocity = np.zeros_like(theta)
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient
        theta = theta - RATE * (gradient + 0.9 * velocity if nesterov else velocity)
    return theta


def adam(theta, gradients, decay=0.0):
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, gradient in enumerate(gradients, start=1):
        theta = theta - RATE * decay * theta
        m = 0.9 * m + 0.1 * gradient
        v = 0.98 * v + 0.02 * gradient**2
        theta = theta - RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.98**t)) + 1e-3)
    return theta


def adagrad(theta, gradients):
    squares = np.full_like(theta, 0.1)
    for gradient in gradients:
        squares = squares + gradient**2
        theta = theta - RATE * gradient / np.sqrt(squares)
    return theta


ORACLES = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": lambda theta, gradients: momentum(theta, gradients, nesterov=True),
    "adam": adam,
    "adamw": lambda theta, gradients: adam(theta, gradients, decay=0.01),
    "adagrad": adagrad,
}


def apply(name, theta, gradients):
    """What the optimizer makes of `theta` in one graph call for each gradient."""
    optimizer = build_optimizer(OptimizerSettings(optimizer=name, adam_epsilon=1e-3))
    variable = tf.Variable(theta)
    slots = {slot: tf.Variable(np.full_like(theta, first)) for slot, first in optimizer.slots.items()}

    @tf.function
    def step(gradient, version):
        handles = {slot: values.handle for slot, values in slots.items()}
        optimizer.apply(variable.handle, handles, gradient, tf.constant(RATE, gradient.dtype), version)

    for version, gradient in enumerate(gradients):
        step(tf.constant(gradient), tf.constant(version, tf.int64))
    return variable.numpy()


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_elements_without_a_gradient_stay_where_slots_are_zero(dtype):
    """As the vector's padding has them behind a resume; what is not finite there would make the vector's norm so."""
    optimizer, theta = build_optimizer(OptimizerSettings(optimizer="adagrad")), tf.Variable(tf.ones([2], dtype))
    slot = tf.Variable(tf.zeros([2], dtype))
    gradient, rate = tf.constant([0, 2], dtype), tf.constant(RATE, dtype)
    optimizer.apply(theta.handle, {"sum_of_squares": slot.handle}, gradient, rate, tf.constant(0, tf.int64))
    assert theta.numpy().tolist() == pytest.approx([1, 1 - RATE])


@pytest.mark.parametrize("dtype,tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", ORACLES)
def test_follows_its_equations(name, dtype, tolerance):
    random = np.random.default_rng(3)
    theta, gradients = random.normal(size=17).astype(dtype), random.normal(size=(5, 17)).astype(dtype)
    np.testing.assert_allclose(
        apply(name, theta, gradients), ORACLES[name](theta, gradients), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("name", ORACLES)
def test_padding_stays_zero(name):
    """A layout's padding has no gradient, and must never gain a value."""
    theta = np.array([1.0, 0.0])
    assert apply(name, theta, [np.array([1.0, 0.0])] * 3)[1] == 0


def test_a_wrong_constant_would_be_seen():
    theta, gradients = np.ones(3), np.random.default_rng(0).normal(size=(3, 3))
    assert np.abs(apply("adamw", theta, gradients) - adam(theta, gradients)).max() > 1e-4


def test_adam_s_decays_change_at_the_cool_down():
    """With the corrections of the new decays, as in the published code; and not before."""
    settings = OptimizerSettings(
        adam_epsilon=1e-3, adam_cooldown_updates=2, adam_cooldown_beta1=0.5, adam_cooldown_beta2=0.7
    )
    optimizer = build_optimizer(settings)
    random = np.random.default_rng(0)
    theta, gradients = random.normal(size=16), random.normal(size=(4, 16))
    variable, slots = tf.Variable(theta), {name: tf.Variable(np.zeros(16)) for name in optimizer.slots}
    m = v = np.zeros(16)
    for t, gradient in enumerate(gradients, start=1):
        handles = {name: slot.handle for name, slot in slots.items()}
        optimizer.apply(
            variable.handle, handles, tf.constant(gradient), tf.constant(RATE, tf.float64), tf.constant(t - 1)
        )
        beta1, beta2 = (0.9, 0.98) if t <= 2 else (0.5, 0.7)
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        theta = theta - RATE * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + 1e-3)
        np.testing.assert_allclose(variable.numpy(), theta, rtol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        OptimizerSettings(adam_beta1=1, adam_beta2=1, adam_cooldown_beta1=1, adam_cooldown_beta2=1),
        OptimizerSettings(adam_epsilon=0, adagrad_start=0),
        DelayedAsync(local_adam_beta1=1, local_adam_beta2=1),
    ],
)
def test_constants_that_divide_by_zero_are_refused(settings):
    changed = [name for name, value in vars(settings).items() if value != getattr(type(settings), name)]
    assert [fault.split("=")[0] for fault in faults_of(settings)] == [f"--{name}" for name in changed]
