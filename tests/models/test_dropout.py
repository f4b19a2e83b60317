import numpy as np
import pytest
import tensorflow as tf

from tfnmt.models.dropout import Dropout

SEED = tf.constant([1, 2])
ONES = tf.ones([64, 48])


def masks(seed=SEED, purpose=0, places=1, rate=0.3):
    dropout = Dropout(rate, seed, purpose)
    return [dropout(ONES).numpy() for _ in range(places)]


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
def test_share_and_expectation(rate):
    kept = Dropout(rate, SEED)(tf.ones([400, 500])).numpy()
    assert abs(np.mean(kept == 0) - rate) < 0.005
    assert abs(kept.mean() - 1) < 0.02
    assert len(np.unique(kept)) == 2


def test_seed_purpose_and_place_decide_the_mask():
    first, second = masks(places=2)
    np.testing.assert_array_equal(first, masks()[0])
    others = [second, masks(purpose=1)[0], masks(tf.constant([1, 3]))[0], masks(tf.constant([2, 2]))[0]]
    for other in others:
        both_dropped = np.mean((first == 0) & (other == 0))
        assert abs(both_dropped - 0.09) < 0.02  # as of independent masks


def test_same_in_a_graph():
    np.testing.assert_array_equal(tf.function(lambda: Dropout(0.3, SEED)(ONES))(), masks()[0])


@pytest.mark.parametrize("dropout", [Dropout(0.0, SEED), Dropout(0.5, None)], ids=["no_rate", "no_seed"])
def test_nothing_is_dropped(dropout):
    assert not dropout.active and dropout.scale == 1
    assert dropout(ONES) is ONES
    np.testing.assert_array_equal(dropout.add(ONES, ONES), 2 * ONES)


def test_end_of_a_residual_branch():
    residual = tf.random.stateless_normal(ONES.shape, [5, 6])
    dropout = Dropout(0.3, SEED)
    branch = tf.random.stateless_normal(ONES.shape, [7, 8])
    with tf.GradientTape() as tape:
        tape.watch([residual, branch])
        total = dropout.add(residual, dropout.scale * branch)
    mask = masks()[0]
    np.testing.assert_allclose(total, residual + mask * branch, rtol=1e-6)
    by_residual, by_branch = tape.gradient(total, [residual, branch])
    np.testing.assert_array_equal(by_residual, ONES)
    np.testing.assert_allclose(by_branch, mask, rtol=1e-6)
