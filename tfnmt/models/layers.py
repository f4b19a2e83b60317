"""Initial values, dense layers, layer normalization, embeddings and positions, as functions of named views."""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfnmt.layout import Initializer, Parameter
from tfnmt.models.base import Views

NORM_EPSILON = 1e-6


def zeros(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """Initializer of biases."""
    del seed
    return tf.zeros(shape)


def ones(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """Initializer of layer normalization's scale."""
    del seed
    return tf.ones(shape)


def normal(deviation: float) -> Initializer:
    """Initializer: normal values of standard deviation `deviation`."""
    return lambda shape, seed: tf.random.stateless_normal(shape, seed, stddev=deviation)


def glorot(blocks: int = 1) -> Initializer:
    """Initializer of a kernel [inputs, outputs] that is `blocks` kernels side by side: Glorot's uniform law for each."""

    def initialize(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        limit = math.sqrt(6 / (shape[0] + shape[1] // blocks))
        return tf.random.stateless_uniform(shape, seed, -limit, limit)

    return initialize


def dense_parameters(name: str, inputs: int, outputs: int, blocks: int = 1, bias: bool = True) -> list[Parameter]:
    """`name`/kernel [inputs, outputs], initialized as `blocks` kernels side by side, and `name`/bias [outputs]."""
    kernel = Parameter(f"{name}/kernel", (inputs, outputs), glorot(blocks))
    return [kernel, Parameter(f"{name}/bias", (outputs,), zeros)] if bias else [kernel]


def norm_parameters(name: str, width: int) -> list[Parameter]:
    """`name`/scale and `name`/offset [width]."""
    return [Parameter(f"{name}/scale", (width,), ones), Parameter(f"{name}/offset", (width,), zeros)]


def embedding_parameter(name: str, vocabulary_size: int, width: int) -> Parameter:
    """`name` [V, D], one row for each token."""
    return Parameter(name, (vocabulary_size, width), normal(width**-0.5))


def in_precision(views: Views, precision: str) -> Views:
    """The views in the dtype that the layers compute in: float64 and bfloat16 views are left as they are."""
    if precision == "float32":
        return views
    return {name: tf.cast(view, tf.bfloat16) if view.dtype == tf.float32 else view for name, view in views.items()}


def dense(
    views: Views, name: str, inputs: tf.Tensor, activation: Callable[[tf.Tensor], tf.Tensor] | None = None
) -> tf.Tensor:
    """`activation(inputs kernel + bias)`.

    Args:
      views: the parameters, those of `dense_parameters(name, ...)` among them.
      name: the layer.
      inputs: [..., inputs].
      activation: an elementwise function, or None.

    Returns:
      [..., outputs]
    """
    kernel = views[f"{name}/kernel"]
    outputs = tf.matmul(tf.reshape(inputs, [-1, kernel.shape[0]]), kernel)
    if f"{name}/bias" in views:
        outputs = tf.nn.bias_add(outputs, views[f"{name}/bias"])
    if activation is not None:
        outputs = activation(outputs)
    return tf.reshape(outputs, [*leading_dimensions(inputs), kernel.shape[1]])


def layer_norm(views: Views, name: str, inputs: tf.Tensor) -> tf.Tensor:
    """Each row of `inputs` [..., D] at mean 0 and variance 1, times a trained scale, plus a trained offset."""
    mean = tf.reduce_mean(inputs, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(inputs, mean), axis=-1, keepdims=True)
    normalized = (inputs - mean) * tf.math.rsqrt(variance + NORM_EPSILON)
    return normalized * views[f"{name}/scale"] + views[f"{name}/offset"]


def embed(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """The rows of `table` [V, D] for `ids` [...]: [..., D]. The gradient is a dense [V, D]."""

    @tf.custom_gradient
    def lookup(table: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            rows = tf.reshape(upstream, [-1, table.shape[1]])
            return tf.math.unsorted_segment_sum(rows, tf.reshape(ids, [-1]), table.shape[0])

        return tf.gather(table, ids), gradient

    return lookup(table)


def positions(first: int | tf.Tensor, count: int | tf.Tensor, width: int, dtype: tf.DType) -> tf.Tensor:
    """Sinusoidal position signals [count, width] of positions `first` to `first + count - 1`.

    Sines in the first half of the columns and cosines in the second, wavelengths from 2 pi to 20,000 pi.
    """
    rates = tf.exp(tf.range(width // 2, dtype=tf.float32) * (-math.log(10_000) / max(width // 2 - 1, 1)))
    angles = tf.cast(first + tf.range(count), tf.float32)[:, None] * rates
    signal = tf.concat([tf.sin(angles), tf.cos(angles)], axis=1)
    return tf.cast(tf.pad(signal, [[0, 0], [0, width % 2]]), dtype)


def leading_dimensions(inputs: tf.Tensor) -> Sequence[int | tf.Tensor]:
    """All dimensions of `inputs` but the last, static where they are known."""
    dynamic = tf.shape(inputs)
    return [dynamic[axis] if size is None else size for axis, size in enumerate(inputs.shape[:-1])]
