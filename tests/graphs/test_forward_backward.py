"""The forward-backward subgraph against differentiating by hand."""

import numpy as np
import tensorflow as tf

from graphs.forward_backward import forward_backward
from tests import toy


def test_gradient_matches_finite_differences():
    layout, batch = toy.layout(), toy.make_batches(1)[0]
    replica = layout.initialize(1, tf.float64)
    gradient, sums = forward_backward(toy.ToyModel().loss, layout, replica, batch, None)
    direction = tf.random.stateless_normal([layout.size], [0, 1], dtype=tf.float64)
    direction = layout.pack(layout.unpack(direction))

    def loss(scale):
        return toy.ToyModel().loss(layout.unpack(replica + scale * direction), batch).loss

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose(tf.reduce_sum(gradient * direction), slope, rtol=1e-7)
    assert sums.target_tokens == np.count_nonzero(batch.target_ids)


def test_padding_of_the_vector_has_no_gradient():
    layout, batch = toy.layout(), toy.make_batches(1)[0]
    gradient, _ = forward_backward(toy.ToyModel().loss, layout, layout.initialize(1, tf.float64), batch, None)
    np.testing.assert_array_equal(gradient, layout.pack(layout.unpack(gradient)))
    assert layout.size > layout.parameter_count


def test_a_parameter_that_the_loss_ignores_gets_zeros():
    layout, batch = toy.layout(), toy.make_batches(1)[0]

    def loss(views, batch, seed):
        return toy.ToyModel().loss({**views, "bias": tf.zeros_like(views["bias"])}, batch, seed)

    gradient, _ = forward_backward(loss, layout, layout.initialize(1, tf.float64), batch, None)
    assert not layout.unpack_array(gradient.numpy())["bias"].any()


def test_gathered_embedding_has_the_gradient_of_a_product():
    """I10: lookups give slices, one for each place of a token, which add up to what the dense product gives."""
    layout, batch = toy.layout(), toy.make_batches(1)[0]
    replica = layout.initialize(1, tf.float64)

    def loss_of(look_up):
        def loss(views, batch, seed):
            sums = toy.ToyModel().loss(views, batch, seed)  # which looks up in the same table, and multiplies by it
            return sums._replace(loss=sums.loss + tf.reduce_sum(look_up(views["embedding"], batch.target_ids) ** 2))

        return loss

    def product(table, ids):
        return tf.tensordot(tf.one_hot(ids, toy.VOCABULARY_SIZE, dtype=table.dtype), table, 1)

    sparse, _ = forward_backward(loss_of(tf.gather), layout, replica, batch, None)
    dense, _ = forward_backward(loss_of(product), layout, replica, batch, None)
    np.testing.assert_allclose(sparse, dense, rtol=1e-12)

    once, _ = forward_backward(loss_of(lambda table, ids: table), layout, replica, batch, None)
    assert np.abs(once - dense).max() > 1e-2  # the negative control: every token counted once
