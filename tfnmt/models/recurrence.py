"""Recurrence over time whose weight gradients leave the loop.

Step t computes r_t = a_t W for each weight W. Differentiated as it stands, every step adds a_t' d_t, with
d_t = dL/dr_t, to an array of W's size. Here the backward loop keeps a_t and d_t, and all steps together give

    dL/dW = sum_t a_t' d_t = A' D,  A and D holding the rows of all steps,

in one large product behind the loop. Products are not computed again on the way back: the forward loop keeps
r_t, and the backward loop repeats only what lies between the products, which needs far less memory than
keeping it would.
"""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

Nest = Any
Multiply = Callable[[tf.Tensor, str], tf.Tensor]
"""(x [..., n], name of a weight [..., n, m]) -> their product [..., m] in x's dtype."""

Step = Callable[[Multiply, Nest, Nest, Mapping[str, tf.Tensor]], tuple[Nest, Nest]]
"""(multiply, state, inputs of this step, constants) -> (new state, outputs of this step)."""


def multiply_by(weights: Mapping[str, tf.Tensor]) -> Multiply:
    """The plain product, in the dtype of the weight."""
    return lambda x, name: tf.cast(tf.matmul(tf.cast(x, weights[name].dtype), weights[name]), x.dtype)


def recur(
    step: Step,
    initial: Nest,
    inputs: Nest,
    weights: Mapping[str, tf.Tensor],
    constants: Mapping[str, tf.Tensor],
    *,
    backwards: bool = False,
) -> tuple[Nest, Nest]:
    """Runs `step` once for each of T positions.

    Gradients flow to `initial`, `inputs`, `weights` and `constants`, and to nothing else that `step` captures.

    Args:
      step: what one position does; it must multiply with `weights` through its first argument, and with each once.
      initial: state before the first step: a non-empty nest of tensors.
      inputs: nest of tensors [T, ...], T at least 1.
      weights: matrices [n, m], or one for each sentence [B, n, m].
      constants: what else the steps read and train: biases, scales, attention keys.
      backwards: whether to run from the last position to the first.

    Returns:
      the states behind each position, and the outputs: nests like `step`'s, of tensors [T, ...].
    """
    arguments = (initial, inputs, dict(weights), dict(constants))

    @tf.custom_gradient
    def run(*flat: tf.Tensor):
        values = tf.nest.pack_sequence_as(arguments, flat)
        states, outputs, products = _forward(step, *values, backwards)

        def gradient(*flat_gradients: tf.Tensor) -> list[tf.Tensor]:
            gradients = tf.nest.pack_sequence_as((states, outputs), flat_gradients)
            before = _states_before(values[0], states, backwards)
            return tf.nest.flatten(_backward(step, before, *values, products, gradients, backwards))

        nests.append((states, outputs))
        return tf.nest.flatten((states, outputs)), gradient

    nests: list[Nest] = []
    flat_results = run(*tf.nest.flatten(arguments))
    return tf.nest.pack_sequence_as(nests[0], flat_results)


def _at(nest: Nest, position: tf.Tensor) -> Nest:
    """The slices of `nest`'s tensors [T, ...] at `position`; they share memory."""
    return tf.nest.map_structure(lambda tensor: tensor[position], nest)


def _states_before(initial: Nest, states: Nest, backwards: bool) -> Nest:
    """The state that each position's step started from: tensors [T, ...]."""

    def shift(first: tf.Tensor, rest: tf.Tensor) -> tf.Tensor:
        return tf.concat([rest[1:], first[None]] if backwards else [first[None], rest[:-1]], axis=0)

    return tf.nest.map_structure(shift, initial, states)


def _order(length: tf.Tensor, backwards: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """Number of the step -> position that it works on."""
    return (lambda index: length - 1 - index) if backwards else (lambda index: index)


class _Stacks:
    """Names and tensors that every step writes; known only once the first step has been traced."""

    def __init__(self, length: tf.Tensor):
        self._length = length

    def empty(self, example: Nest) -> Nest:
        """Arrays for nests like `example`."""
        return tf.nest.map_structure(
            lambda tensor: tf.TensorArray(tensor.dtype, self._length, element_shape=tensor.shape), example
        )

    @staticmethod
    def write(arrays: list[tf.TensorArray], position: tf.Tensor, values: Nest) -> list[tf.TensorArray]:
        return [array.write(position, value) for array, value in zip(arrays, tf.nest.flatten(values), strict=True)]
