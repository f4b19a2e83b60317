"""The reduce-average subgraph where a payload brings the workers' own slots behind its delta."""

import numpy as np
import pytest
import tensorflow as tf

from graphs.reduce_average import ServerVariables, goes_on, receive, update_from, update_from_received
from tfnmt.optimizers.optimizers import Momentum, Sgd
from tfnmt.strategies.averaging import AddMean, AddSum, BlockMomentum

DELTAS, SLOTS = ([1.0, 2.0, 3.0, 4.0], [3.0, 2.0, 1.0, 0.0]), ([0.5, 1.0, 2.0, 4.0], [1.5, 1.0, 0.0, 8.0])
RATE = tf.constant(0.0, tf.float64)
ONE = tf.constant(1.0, tf.float64)
OTHERS = {"clip_norm": 0.0, "average_weight": 0.0, "local_updates": 3.0, "steps": 2.0}


def server(quorum):
    """Two shards of two elements each."""
    made = ServerVariables(tf.zeros([4], tf.float64), [None, None], averaged=False)
    made.begin(AddMean(), quorum > 1, {"m": 0.25})
    return made


def payload(delta, slot):
    return [tf.Variable(part) for vector in (delta, slot) for part in np.split(np.array(vector), 2)]


def held(made):
    return {name: np.concatenate([part.numpy() for part in parts]) for name, parts in made.vectors().items()}


def update(made):
    return update_from_received(made, lambda *_: RATE, **OTHERS)


def test_slots_are_replaced_by_their_mean():
    made = server(quorum=2)
    np.testing.assert_array_equal(held(made)["local_m"], [0.25] * 4)
    for delta, slot in zip(DELTAS, SLOTS):
        taken, nonfinite_at, norm = receive(made, payload(delta, slot), ONE)
        assert (taken, nonfinite_at) == (True, -1)
        assert norm.numpy() == pytest.approx(np.linalg.norm([*delta, *slot]))
    found = update(made)
    assert (found.nonfinite_at, found.momentum_norm, made.version.numpy(), made.steps.numpy()) == (-1, 0, 1, 2)
    np.testing.assert_array_equal(held(made)["parameters"], [2.0] * 4)
    np.testing.assert_array_equal(held(made)["local_m"], [1.0, 1.0, 1.0, 6.0])
    assert made.local_updates.numpy() == 3.0
    assert found.norm == 4.0
    assert not np.any([held(made)[name] for name in ("received", "received_m")])


@pytest.mark.parametrize("spoiled", [(0, 3), (1, 2, 3), (3,), (2, 6), (6, 7)])
def test_of_many_elements_that_are_not_finite_the_first_is_named(spoiled):
    """In whichever shards and vectors they are."""
    delta, slot = np.split(np.where(np.isin(np.arange(8), spoiled), np.inf, 1.0), 2)
    assert receive(server(quorum=2), payload(delta, slot), ONE)[1] == spoiled[0]


@pytest.mark.parametrize("weight, spoiled, place", [(1.0, np.nan, 6), (0.0, 7.0, -1)])
def test_payload_that_does_not_count_leaves_no_trace(weight, spoiled, place):
    """Not finite in a slot alone, or of no weight."""
    made = server(quorum=2)
    pushed = payload(DELTAS[0], [1.0, 1.0, spoiled, 1.0])
    taken, nonfinite_at, _ = receive(made, pushed, tf.constant(weight, tf.float64))
    assert bool(taken) == np.isfinite(spoiled)
    assert nonfinite_at == place
    receive(made, payload(DELTAS[1], SLOTS[1]), ONE)
    update(made)
    np.testing.assert_array_equal(held(made)["parameters"], DELTAS[1])
    np.testing.assert_array_equal(held(made)["local_m"], SLOTS[1])


def test_payload_that_is_an_update_by_itself():
    made = server(quorum=1)
    assert made.received() == []
    empty = update_from(made, payload([0.0] * 4, [0.0] * 4), tf.constant(0.0, tf.float64), lambda *_: RATE, **OTHERS)
    assert (bool(empty.applied), empty.norm, empty.nonfinite_at, empty.momentum_norm) == (False, 0, -1, 0)
    refused = update_from(made, payload(DELTAS[0], [1.0, 1.0, 1.0, np.inf]), ONE, lambda *_: RATE, **OTHERS)
    assert not refused.applied
    assert refused.nonfinite_at == 7
    assert (made.version.numpy(), made.local_updates.numpy(), made.steps.numpy()) == (0, 0, 0)
    assert update_from(made, payload(DELTAS[0], SLOTS[0]), ONE, lambda *_: RATE, **OTHERS).applied
    np.testing.assert_array_equal(held(made)["local_m"], SLOTS[0])
    assert (made.version.numpy(), made.local_updates.numpy(), made.steps.numpy()) == (1, 3, 2)


@pytest.mark.parametrize("update, factor", [(AddMean(), 1.0), (AddMean(0.5), 0.5), (AddSum(), 4.0), (AddSum(0.5), 2.0)])
def test_servers_add_a_share_of_the_mean_or_of_the_sum(update, factor):
    made = ServerVariables(tf.zeros([2], tf.float64), [None], averaged=False)
    made.begin(update, False)
    weight = tf.constant(4.0, tf.float64)
    assert update_from(made, [tf.Variable(4 * np.array(DELTAS[0][:2]))], weight, lambda *_: RATE, **OTHERS).applied
    assert made.local_updates.numpy() == 0
    np.testing.assert_array_equal(made.shards[0].parameters, factor * np.array(DELTAS[0][:2]))


@pytest.mark.parametrize(
    "before, after, same",
    [
        (None, Sgd(), False),
        (Sgd(), Sgd(), True),
        (Sgd(), AddMean(), False),
        (Momentum(0.9), Momentum(0.5, nesterov=True), True),
        (BlockMomentum(1.0, 0.5, nesterov=True), BlockMomentum(1.0, 0.5, nesterov=False), False),
    ],
)
def test_optimizers_of_one_class_and_the_same_slots_go_on(before, after, same):
    assert goes_on(before, after) is same
    made = ServerVariables(tf.zeros([2], tf.float64), [None], averaged=False)
    if before:
        made.begin(before, False)
    made.updates.assign(7)
    made.begin(after, False)
    assert made.updates.numpy() == (7 if same else 0)
