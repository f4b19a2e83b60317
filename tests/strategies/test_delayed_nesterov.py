"""Asynchronous local SGD with delayed Nesterov momentum against its equations."""

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import DIFFERENT, EXACT, distance, run, simulated
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies.averaging import Bmuf
from tfnmt.strategies.delayed_nesterov import DelayedMomentum, DelayedNesterov

BATCHES = toy.make_batches(32)


@pytest.mark.parametrize("delay, share", [(1, 0.0), (3, 0.0), (3, 1 / 3), (4, 0.1)])
def test_update_follows_its_equations(delay, share):
    deltas = np.random.default_rng(2).normal(size=(9, 4))
    update = DelayedMomentum(0.7, 0.9, delay, share)
    theta = tf.Variable(np.zeros(4))
    slots = {name: tf.Variable(np.full(4, first)) for name, first in update.slots.items()}
    handles = {name: slot.handle for name, slot in slots.items()}
    expected, momentum, gathered = np.zeros(4), np.zeros(4), np.zeros(4)
    for number, delta in enumerate(deltas, start=1):
        update.apply(theta.handle, handles, tf.constant(delta), None, tf.constant(number - 1))
        gathered = gathered + delta
        weight = share
        if number % delay == 0:
            momentum, gathered = 0.9 * momentum + gathered / delay, np.zeros(4)
            weight = 1 - share * delay + share
        expected = expected + 0.7 * (weight * 0.9 * momentum + delta / delay)
        np.testing.assert_allclose(theta, expected, atol=EXACT)


@pytest.mark.parametrize("early, share", [(False, 0.0), (True, 1 / 3)])
def test_early_momentum_is_a_share_for_each_push_of_the_delay(early, share):
    row = DelayedNesterov(outer_learning_rate=0.7, outer_momentum=0.9, early_momentum=early)
    moved = []
    for update in (row.row(3, OptimizerSettings()).server_update, DelayedMomentum(0.7, 0.9, 3, share)):
        theta, slots = tf.Variable([0.0]), {name: tf.Variable([1.0]) for name in update.slots}
        handles = {name: slot.handle for name, slot in slots.items()}
        update.apply(theta.handle, handles, tf.constant([2.0]), None, tf.constant(0))
        moved.append(theta.numpy())
    np.testing.assert_array_equal(*moved)


def test_without_delay_it_is_nesterov_s_momentum():
    """d = 1, c = 0, one worker: BMUF of the same constants, in its Nesterov form, moves what workers pull alike."""
    row = DelayedNesterov(local_steps=2, outer_learning_rate=0.7, outer_momentum=0.6, momentum_delay=1)
    bmuf = Bmuf(local_steps=2, block_learning_rate=0.7, block_momentum=0.6)
    delayed, filtered = (simulated(each, BATCHES, workers=1, optimizer="adam") for each in (row, bmuf))
    run(delayed, 5), run(filtered, 5)
    assert distance(delayed, filtered) < EXACT


def test_momentum_waits_for_a_push_of_each_worker_by_default():
    default, same, other, early = (
        simulated(DelayedNesterov(local_steps=1, momentum_delay=delay, early_momentum=share), BATCHES, workers=3)
        for delay, share in ((None, False), (3, False), (1, False), (3, True))
    )
    for engine in (default, same, other, early):
        assert [len(report.pushes) for report in run(engine, 7)] == [1] * 7
    assert distance(default, same) == 0
    assert min(distance(default, other), distance(default, early)) > DIFFERENT
