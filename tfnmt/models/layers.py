"""Initial values, dense layers, layer normalization, embeddings and positions, as functions of named views."""

import math
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from tfnmt.layout import Initializer, Parameter

Views = Mapping[str, tf.Tensor]
"""Parameter name -> tensor of its shape, as `Layout.unpack` gives them.

A table with a row for each token may be something else, of which other processes have rows. It then has a `dtype`,
`cast(dtype)`, `look_up(ids)` and `loss_sums(...)`, as `embed` and `output.loss_sums` call them.
"""

NORM_EPSILON = 1e-6


def zeros(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """Initializer of biases."""
    return tf.zeros(shape)


def ones(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """Initializer of layer normalization's scale."""
    return tf.ones(shape)


def normal(deviation: float) -> Initializer:
    """Initializer: normal values of standard deviation `deviation`."""
    return lambda shape, seed: tf.random.stateless_normal(shape, seed, stddev=deviation)


def glorot(blocks: int = 1) -> Initializer:
    """Initializer of a kernel [inputs, outputs] of `blocks` kernels side by side: Glorot's uniform law for each."""

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


def embedding_parameter(name: str, vocabulary_size: int, width: int, looked_up: bool = False) -> Parameter:
    """`name` [V, D], one row for each token; for `looked_up` see `Parameter`."""
    return Parameter(name, (vocabulary_size, width), normal(width**-0.5), by_token=True, looked_up=looked_up)


def in_precision(views: Views, precision: str) -> Views:
    """The views in the dtype that the layers compute in: float64 and bfloat16 views are left as they are."""
    if precision == "float32":
        return views
    return {name: _cast(view) if view.dtype == tf.float32 else view for name, view in views.items()}


def _cast(view: tf.Tensor) -> tf.Tensor:
    return tf.cast(view, tf.bfloat16) if tf.is_tensor(view) else view.cast(tf.bfloat16)


def dense(
    views: Views,
    name: str,
    inputs: tf.Tensor,
    *,
    norm: str | None = None,
    relu: bool = False,
    scale: float = 1.0,
    spare_outputs: int = 0,
) -> tf.Tensor:
    """`scale (inputs kernel + bias)`, or the positive part of it.

    Args:
      views: the parameters, those of `dense_parameters(name, ...)` among them.
      name: the layer.
      inputs: [..., inputs + spare columns of zeros].
      norm: the layer normalization whose scale and offset the inputs still need; see `fold_norm`.
      relu: whether negative outputs become zero.
      scale: a factor on kernel and bias, which costs less than one on the outputs.
      spare_outputs: number of columns of zeros behind the outputs; see `spare_columns`.

    Returns:
      [..., outputs + spare_outputs]
    """
    kernel, bias = views[f"{name}/kernel"], views[f"{name}/bias"]
    if norm is not None:
        kernel, bias = fold_norm(views, norm, kernel, bias)
    if scale != 1:
        kernel, bias = (part * tf.constant(scale, part.dtype) for part in (kernel, bias))
    spare_inputs = inputs.shape[-1] - kernel.shape[0]
    if spare_inputs or spare_outputs:
        kernel = tf.pad(kernel, [[0, spare_inputs], [0, spare_outputs]])
        bias = tf.pad(bias, [[0, spare_outputs]])
    outputs = affine(tf.reshape(inputs, [-1, kernel.shape[0]]), kernel, bias, relu)
    return tf.reshape(outputs, [*leading_dimensions(inputs), kernel.shape[1]])


def spare_columns(width: int) -> int:
    """Columns of zeros that make products with an array [N, width] faster.

    Where rows lie a multiple of 4096 bytes apart, every element of a column falls into the same few lines of the
    cache; on CPUs with AVX2 the products of the gradient then take up to twice their time.
    """
    return 16 if width % 1024 == 0 else 0


def affine(inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, relu: bool = False) -> tf.Tensor:
    """`inputs kernel + bias`, or its positive part: [N, outputs] for `inputs` [N, inputs]."""

    @tf.custom_gradient
    def compute(inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        outputs = tf.nn.bias_add(tf.matmul(inputs, kernel), bias)
        outputs = tf.nn.relu(outputs) if relu else outputs

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            if relu:
                upstream = tf.raw_ops.ReluGrad(gradients=upstream, features=outputs)
            input_gradient = tf.matmul(upstream, kernel, transpose_b=True)
            return input_gradient, kernel_gradient(inputs, upstream), column_sums(upstream)

        return outputs, gradient

    return compute(inputs, kernel, bias)


def kernel_gradient(inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """`inputs' upstream`: the gradient [I, O] of the kernel that took `inputs` [N, I] to outputs [N, O].

    The narrow side goes first: on CPUs without AVX-512 the product is up to 40% faster that way round, and the
    transposition of a kernel is cheap.
    """
    if inputs.shape[1] <= upstream.shape[1]:
        return tf.matmul(inputs, upstream, transpose_a=True)
    return tf.transpose(tf.matmul(upstream, inputs, transpose_a=True))


def column_sums(rows: tf.Tensor) -> tf.Tensor:
    """The sum of `rows` [N, O] as a product, [O]: faster than a reduction over the first dimension."""
    count, _ = tf.unstack(tf.shape(rows))
    return tf.squeeze(tf.matmul(tf.ones([1, count], rows.dtype), rows), 0)


def fold_norm(views: Views, name: str, kernel: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Kernel and bias that take normalized rows to what the layer gives behind the whole layer normalization.

    (x s + o) K + b = x (s K) + (o K + b): scale and offset touch the kernel, which is smaller than the states, and
    their gradients need no sum over the rows of a batch. The kernel is [D, outputs], the bias [outputs].
    """
    scale, offset = views[f"{name}/scale"], views[f"{name}/offset"]
    offset = tf.squeeze(tf.matmul(tf.expand_dims(offset, 0), kernel), 0)
    return tf.expand_dims(scale, 1) * kernel, bias + offset


def layer_norm(views: Views, name: str, inputs: tf.Tensor) -> tf.Tensor:
    """Each row of `inputs` [..., D] at mean 0 and variance 1, times a trained scale, plus a trained offset."""

    @tf.custom_gradient
    def compute(normalized: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            rows = [tf.reshape(part, [-1, inputs.shape[-1]]) for part in (upstream * normalized, upstream)]
            return upstream * scale, column_sums(rows[0]), column_sums(rows[1])

        return normalized * scale + offset, gradient

    return compute(normalize(inputs), views[f"{name}/scale"], views[f"{name}/offset"])


@tf.custom_gradient
def normalize(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Each row of `inputs` [..., D] at mean 0 and variance 1."""
    centered = inputs - _row_mean(inputs)
    inverse = tf.math.rsqrt(_row_mean(tf.square(centered)) + tf.constant(NORM_EPSILON, inputs.dtype))
    normalized = centered * inverse

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        """(g - mean(g) - n mean(g n)) / deviation: what changes mean or variance is taken back."""
        along = _row_mean(upstream * normalized)
        return (upstream - normalized * along - _row_mean(upstream)) * inverse

    return normalized, gradient


def _row_mean(inputs: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(inputs, axis=-1, keepdims=True)


def embed(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """The rows of `table` [V, D] for `ids` [...]: [..., D]. The gradient is a dense [V, D]."""
    if not tf.is_tensor(table):
        return table.look_up(ids)

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
    angles = tf.expand_dims(tf.cast(first + tf.range(count), tf.float32), 1) * rates
    signal = tf.concat([tf.sin(angles), tf.cos(angles)], axis=1)
    return tf.cast(tf.pad(signal, [[0, 0], [0, width % 2]]), dtype)


def leading_dimensions(inputs: tf.Tensor) -> Sequence[int | tf.Tensor]:
    """All dimensions of `inputs` but the last, static where they are known."""
    dynamic = tf.unstack(tf.shape(inputs))
    return [dynamic[axis] if size is None else size for axis, size in enumerate(inputs.shape[:-1])]
