import numpy as np
import pytest
import tensorflow as tf

from tfnmt.models.recurrence import add_bias, multiply_by, product, recur

T, B, N, M = 4, 3, 2, 5


def numbers(*shape, seed=0):
    return tf.constant(np.random.default_rng((seed, *shape)).normal(size=shape))


def step(multiply, state, here, constants):
    """Uses everything: a shared weight, a weight for each sentence, two parts of a state, an output, a flag."""
    (h, c), (x, keep) = state, here
    h = tf.tanh(x + multiply(h * c, "shared") + constants["bias"]) * tf.cast(keep, h.dtype)
    looked_up = multiply(h[:, None], "per_sentence")[:, 0]
    return (h, c + tf.sin(looked_up[:, :N])), (looked_up,)


def arguments():
    initial = numbers(B, N), numbers(B, N, seed=1)
    inputs = numbers(T, B, N), tf.constant(np.arange(T * B).reshape(T, B, 1) % 5 > 0)
    weights = {"shared": numbers(N, N), "per_sentence": numbers(B, N, M)}
    return initial, inputs, weights, {"bias": numbers(N)}


def step_by_step(initial, inputs, weights, constants, backwards):
    """The plain loop, differentiated as it stands."""
    state, rows = initial, {}
    for position in reversed(range(T)) if backwards else range(T):
        here = tf.nest.map_structure(lambda tensor, position=position: tensor[position], inputs)
        state, outputs = step(multiply_by(weights), state, here, constants)
        rows[position] = (*state, *outputs)
    return [tf.stack([rows[position][part] for position in range(T)]) for part in range(3)]


def in_one_loop(initial, inputs, weights, constants, backwards):
    states, outputs = recur(step, initial, inputs, weights, constants, outputs=1, backwards=backwards)
    return [*states, *outputs]


@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_values_and_gradients_equal_those_of_the_plain_loop(backwards, in_graph):
    values = arguments()
    trained = [tensor for tensor in tf.nest.flatten(values) if tensor.dtype.is_floating]

    # Another factor for every element, so that no two gradients can be confused.
    factors = [numbers(T, B, columns, seed=7) for columns in (N, N, M)]

    def results_and_gradients(run):
        with tf.GradientTape() as tape:
            tape.watch(trained)
            results = run(*values, backwards)
            loss = tf.add_n([tf.reduce_sum(result * factor) for result, factor in zip(results, factors, strict=True)])
        return results, tape.gradient(loss, trained)

    def both():
        return [results_and_gradients(run) for run in (step_by_step, in_one_loop)]

    expected, found = tf.function(both)() if in_graph else both()
    for plain, fast in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-12, atol=1e-14)


def test_product_computes_in_the_dtype_of_the_weight():
    x, weight = tf.cast(numbers(2, 3, N), tf.float32), tf.cast(numbers(N, M), tf.float32)
    np.testing.assert_allclose(product(x, weight), np.einsum("abn,nm->abm", x, weight), rtol=1e-5, atol=1e-6)
    rounded = product(x, tf.cast(weight, tf.bfloat16))
    assert rounded.dtype == tf.float32
    np.testing.assert_allclose(rounded, product(x, weight), rtol=0.05, atol=0.05)


def test_gradient_of_a_bias_is_the_sum_of_all_rows():
    x, bias, upstream = numbers(2, 3, M), numbers(M), numbers(2, 3, M, seed=1)
    with tf.GradientTape() as tape:
        tape.watch([x, bias])
        loss = tf.reduce_sum(add_bias(x, bias) * upstream)
    x_gradient, bias_gradient = tape.gradient(loss, [x, bias])
    np.testing.assert_allclose(x_gradient, upstream)
    np.testing.assert_allclose(bias_gradient, np.sum(upstream, axis=(0, 1)))
