"""Recurrence over time whose weight gradients leave the loop.

Step t computes products r_t = a_t W. Differentiated as it stands, every step would add a_t' d_t, with d_t = dL/dr_t,
to an array of W's size. Here the backward loop keeps a_t and d_t, and all steps together give

    dL/dW = sum_t a_t' d_t = A' D,  where A and D hold the rows of all steps,

in one large product behind the loop. No product is computed a second time on the way back: the forward loop keeps
r_t, and the backward loop repeats only what lies between the products, which takes less memory than keeping it.
"""

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from tfnmt.models.base import Nest
from tfnmt.models.layers import column_sums, kernel_gradient, leading_dimensions

Tensors = tuple[tf.Tensor, ...]

Multiply = Callable[[tf.Tensor, str], tf.Tensor]
"""(x [..., n], name of a weight [..., n, m]) -> their product [..., m], of x's dtype."""

Step = Callable[[Multiply, Tensors, Nest, Mapping[str, tf.Tensor]], tuple[Tensors, Tensors]]
"""(multiply, state, inputs of this position, constants) -> (new state, outputs of this position)."""


def product(x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """The product of x [..., n] and `weight` [..., n, m], computed in the weight's dtype, returned in x's."""
    if weight.shape.rank > 2:
        return tf.cast(tf.matmul(tf.cast(x, weight.dtype), weight), x.dtype)
    rows = tf.reshape(tf.cast(x, weight.dtype), [-1, weight.shape[0]])
    return tf.reshape(tf.cast(_matrix_product(rows, weight), x.dtype), [*leading_dimensions(x), weight.shape[1]])


@tf.custom_gradient
def _matrix_product(x: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.matmul(upstream, weight, transpose_b=True), kernel_gradient(x, upstream)

    return tf.matmul(x, weight), gradient


@tf.custom_gradient
def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """x [..., m] plus `bias` [m]."""

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return upstream, column_sums(tf.reshape(upstream, [-1, bias.shape[0]]))

    return x + bias, gradient


def multiply_by(weights: Mapping[str, tf.Tensor]) -> Multiply:
    """The plain product with the weight of a name, for use outside of a recurrence."""
    return lambda x, name: product(x, weights[name])


def recur(
    step: Step,
    initial: Tensors,
    inputs: Nest,
    weights: Mapping[str, tf.Tensor],
    constants: Mapping[str, tf.Tensor],
    *,
    outputs: int = 0,
    backwards: bool = False,
) -> tuple[Tensors, Tensors]:
    """Runs `step` at each of T positions.

    Gradients flow to `initial`, `inputs`, `weights` and `constants`, and to nothing else that `step` reads.

    Args:
      step: what happens at one position. It uses each weight once, through `multiply`.
      initial: the state before the first step.
      inputs: nest of tensors [T, ...]; those that are no floating-point numbers get no gradient.
      weights: matrices [n, m], or one for each sentence [B, n, m].
      constants: what else is trained and the same at all positions: biases, scales, attention keys.
      outputs: number of tensors that `step` returns beside the state.
      backwards: whether to run from the last position to the first.

    Returns:
      the states behind every position and the outputs, tensors [T, ...].
    """
    arguments = (tuple(initial), inputs, dict(weights), dict(constants))

    @tf.custom_gradient
    def run(*flat: tf.Tensor):
        values = tf.nest.pack_sequence_as(arguments, flat)
        results, products = _forward(step, values, outputs, backwards)

        def gradient(*result_gradients: tf.Tensor) -> list[tf.Tensor]:
            gradients = _backward(step, values, results, products, result_gradients, backwards)
            return tf.nest.flatten(gradients)

        return results, gradient

    results = run(*tf.nest.flatten(arguments))
    return tuple(results[: len(initial)]), tuple(results[len(initial) :])


def _forward(step: Step, values: Nest, outputs: int, backwards: bool) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
    """States and outputs, and the products by weight: all [T, ...]."""
    initial, inputs, weights, constants = values
    length, position = _positions(inputs, backwards)
    names = sorted(weights)
    shapes: list[tf.TensorShape] = []

    def body(index: tf.Tensor, state: Tensors, arrays: list[tf.TensorArray]):
        products = {}

        def multiply(x: tf.Tensor, name: str) -> tf.Tensor:
            products[name] = product(x, weights[name])
            return products[name]

        here = position(index)
        new_state, new_outputs = step(multiply, state, _at(inputs, here), constants)
        written = [*new_state, *new_outputs, *(products[name] for name in names)]
        shapes[:] = [tensor.shape for tensor in written]
        return index + 1, new_state, _write(arrays, here, written)

    arrays = _arrays(len(initial) + outputs + len(names), length, initial[0].dtype)
    *_, arrays = tf.while_loop(lambda index, *_: index < length, body, (tf.constant(0), initial, arrays))
    stacked = _stack(arrays, shapes)
    results, products = stacked[: len(initial) + outputs], stacked[len(initial) + outputs :]
    return results, dict(zip(names, products, strict=True))


def _backward(
    step: Step,
    values: Nest,
    results: Sequence[tf.Tensor],
    products: Mapping[str, tf.Tensor],
    result_gradients: Sequence[tf.Tensor],
    backwards: bool,
) -> Nest:
    """Gradients of `values`, a nest of their structure."""
    initial, inputs, weights, constants = values
    length, position = _positions(inputs, backwards)
    before = _states_before(initial, results, backwards)
    # One transposition in front of the loop is far cheaper than one inside of each product.
    transposed = {name: tf.linalg.matrix_transpose(weight) for name, weight in weights.items()}
    names = sorted(weights)
    shapes: list[tf.TensorShape] = []

    def body(index: tf.Tensor, state_gradients: Tensors, sums: Nest, arrays: list[tf.TensorArray]):
        here = position(index)
        factors: dict[str, Tensors] = {}
        multiply = _replay(transposed, _at(products, here), factors)
        state, step_inputs, upstream = _at((before, inputs, tuple(result_gradients)), here)
        upstream = [*map(tf.add, upstream, state_gradients), *upstream[len(initial) :]]
        sources = (state, _trained(step_inputs), constants)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            new_state, outputs = step(multiply, state, step_inputs, constants)
        state_gradients, input_gradients, constant_gradients = tape.gradient(
            [*new_state, *outputs], sources, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        sums = tf.nest.map_structure(tf.add, sums, constant_gradients)
        written = [*input_gradients, *(factor for name in names for factor in factors[name])]
        shapes[:] = [tensor.shape for tensor in written]
        return index - 1, state_gradients, sums, _write(arrays, here, written)

    input_count = len(_trained(inputs))
    arrays = _arrays(input_count + 2 * len(names), length, initial[0].dtype)
    zeros = tf.nest.map_structure(tf.zeros_like, (initial, constants))
    start = (length - 1, *zeros, arrays)
    _, initial_gradients, sums, arrays = tf.while_loop(lambda index, *_: index >= 0, body, start)
    stacked = _stack(arrays, shapes)
    factors = zip(stacked[input_count::2], stacked[input_count + 1 :: 2], strict=True)
    weight_gradients = {name: _weight_gradient(weights[name], *pair) for name, pair in zip(names, factors, strict=True)}
    return initial_gradients, _with_untrained(inputs, stacked[:input_count]), weight_gradients, sums


def _replay(transposed: Mapping[str, tf.Tensor], products: Mapping[str, tf.Tensor], factors: dict) -> Multiply:
    """Gives back products computed before; their gradient passes to x at once, and to the weights through `factors`."""

    def multiply(x: tf.Tensor, name: str) -> tf.Tensor:
        @tf.custom_gradient
        def replay(x: tf.Tensor):
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                factors[name] = (x, upstream)
                return product(upstream, transposed[name])

            return tf.identity(products[name]), gradient

        return replay(x)

    return multiply


def _trained(inputs: Nest) -> Tensors:
    """The tensors that have gradients."""
    return tuple(tensor for tensor in tf.nest.flatten(inputs) if tensor.dtype.is_floating)


def _with_untrained(inputs: Nest, gradients: Sequence[tf.Tensor]) -> Nest:
    """The nest of `inputs` with `gradients` in the places of what has gradients, and None elsewhere."""
    remaining = iter(gradients)
    gradients_or_none = [next(remaining) if tensor.dtype.is_floating else None for tensor in tf.nest.flatten(inputs)]
    return tf.nest.pack_sequence_as(inputs, gradients_or_none)


def _weight_gradient(weight: tf.Tensor, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """A' D of the rows [T, ..., n] on the left and [T, ..., m] on the right, summed over all that W is shared by."""
    left, right = tf.cast(left, weight.dtype), tf.cast(right, weight.dtype)
    if weight.shape.rank == 2:
        return kernel_gradient(*(tf.reshape(x, [-1, n]) for x, n in zip((left, right), weight.shape, strict=True)))
    return tf.matmul(*map(_by_sentence, (left, right)), transpose_a=True)


def _by_sentence(rows: tf.Tensor) -> tf.Tensor:
    """[T, B, K, n] to [B, T K, n]."""
    length, batch, count, columns = tf.unstack(tf.shape(rows))
    return tf.reshape(tf.transpose(rows, [1, 0, 2, 3]), [batch, length * count, columns])


def _positions(inputs: Nest, backwards: bool) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """T, and the map from the number of a step to the position that it works on."""
    length = tf.shape(tf.nest.flatten(inputs)[0])[0]
    return length, (lambda index: length - 1 - index) if backwards else (lambda index: index)


def _states_before(initial: Tensors, states: Sequence[tf.Tensor], backwards: bool) -> Tensors:
    """The state that the step at each position started from, tensors [T, ...]."""
    if backwards:
        return tuple(tf.concat([state[1:], first[None]], axis=0) for first, state in zip(initial, states))
    return tuple(tf.concat([first[None], state[:-1]], axis=0) for first, state in zip(initial, states))


def _at(nest: Nest, position: tf.Tensor) -> Nest:
    """The rows of tensors [T, ...] at `position`."""
    return tf.nest.map_structure(lambda tensor: tensor[position], nest)


def _arrays(count: int, length: tf.Tensor, dtype: tf.DType) -> list[tf.TensorArray]:
    return [tf.TensorArray(dtype, length, infer_shape=False) for _ in range(count)]


def _write(arrays: list[tf.TensorArray], position: tf.Tensor, values: Sequence[tf.Tensor]) -> list[tf.TensorArray]:
    return [array.write(position, value) for array, value in zip(arrays, values, strict=True)]


def _stack(arrays: list[tf.TensorArray], shapes: Sequence[tf.TensorShape]) -> list[tf.Tensor]:
    """The arrays as tensors [T, ...]; `shapes` are the static ones of what was written."""
    stacked = [array.stack() for array in arrays]
    for tensor, shape in zip(stacked, shapes, strict=True):
        tensor.set_shape([None, *shape])
    return stacked
