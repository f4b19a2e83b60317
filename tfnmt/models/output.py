"""The output layer: projection onto the vocabulary, log-probabilities and the label-smoothed loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfnmt.batch import is_token, token_count
from tfnmt.models.base import LossSums
from tfnmt.models.layers import column_sums

CHUNK_ROWS = 1024
"""Most target positions whose logits exist at one time."""

SMALLEST_PROBABILITY = 1e-37


def logits(states: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    """Unnormalized log-probabilities [..., V] of the whole vocabulary for `states` [..., D].

    The kernel [V, D] has one row for each token, as an embedding has. The result is float32, or float64 if the
    states are.
    """
    rows = _logits(tf.reshape(states, [-1, kernel.shape[1]]), kernel, bias)
    return tf.reshape(rows, tf.concat([tf.shape(states)[:-1], [kernel.shape[0]]], axis=0))


def log_probabilities(states: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, target_ids: tf.Tensor) -> tf.Tensor:
    """Log-probability of each of `target_ids` [B, T] given `states` [B, T, D]: float32 [B, T], zero on padding."""
    scores = logits(states, kernel, bias)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(target_ids, scores)
    return tf.where(is_token(target_ids), -losses, tf.zeros_like(losses))


def loss_sums(
    states: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor | None,
    target_ids: tf.Tensor,
    label_smoothing: float,
) -> LossSums:
    """Label-smoothed cross entropy, summed over the tokens of the batch.

    The gradient is computed together with the loss, a few rows at a time, so that no array of all positions times
    the whole vocabulary ever exists. Only `loss` can be differentiated.

    The states [B, T, D] are what the decoder computed for each of the target ids [B, T]; the kernel is [V, D], the bias
    [V]. `label_smoothing` is the probability that is spread evenly over the vocabulary.
    """
    ids = tf.reshape(target_ids, [-1])
    if not tf.is_tensor(kernel):
        return _loss_sums_elsewhere(states, kernel, bias, ids, label_smoothing)
    trained = [kernel] if bias is None else [kernel, bias]

    @tf.custom_gradient
    def compute(states: tf.Tensor, kernel: tf.Tensor, *bias: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], Callable]:
        losses, gradients = _loss_and_gradients(states, kernel, bias[0] if bias else None, ids, label_smoothing)

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor]:
            return [tf.cast(upstream, part.dtype) * part for part in gradients[: 2 + len(bias)]]

        return losses, gradient

    loss, cross_entropy = compute(tf.reshape(states, [-1, kernel.shape[1]]), *trained)
    return LossSums(loss, cross_entropy, tf.cast(token_count(ids), loss.dtype))


def _loss_sums_elsewhere(
    states: tf.Tensor, kernel: Any, bias: tf.Tensor | None, ids: tf.Tensor, label_smoothing: float
) -> LossSums:
    """The same by a kernel of which other processes have rows; padding does not travel to them."""
    tokens = tf.where(is_token(ids))[:, 0]
    rows = tf.gather(tf.reshape(states, [-1, states.shape[-1]]), tokens)
    loss, cross_entropy = kernel.loss_sums(rows, bias, tf.gather(ids, tokens), label_smoothing, CHUNK_ROWS)
    return LossSums(loss, cross_entropy, tf.cast(tf.size(tokens), loss.dtype))


class _Sums(NamedTuple):
    """Sums over chunks of rows, at least in float32; the smoothing's share of the gradients is left out."""

    loss: tf.Tensor  # scalar
    cross_entropy: tf.Tensor  # scalar
    kernel_gradient: tf.Tensor  # [V, D]
    bias_gradient: tf.Tensor  # [V]


def _loss_and_gradients(
    states: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, ids: tf.Tensor, smoothing: float
) -> tuple[tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Loss and cross entropy, and the loss's gradients of states, kernel and bias.

    For one row h with reference y, z = K h + b, p = softmax(z) and smoothing e:

        loss = -log p_y + e (z_y - mean(z)),   dloss/dz = p - (1 - e) onehot(y) - e / V.

    The chunks leave out the last term. It is the same for the whole vocabulary, so that its products with K and h are
    sums over rows, which are taken here, once.
    """
    size, dtype = kernel.shape[0], _wide(kernel.dtype)
    counted = states * tf.cast(is_token(ids), states.dtype)[:, None]
    kernel_sum = column_sums(kernel)
    sums, states_gradient = _sum_chunks(counted, kernel, bias, ids, smoothing)
    even = tf.constant(smoothing / size, dtype)
    tokens = tf.cast(token_count(ids), dtype)
    summed_states = tf.cast(column_sums(counted), dtype)
    mean_scores = tf.reduce_sum(summed_states * tf.cast(kernel_sum, dtype))
    if bias is not None:
        mean_scores += tokens * tf.reduce_sum(tf.cast(bias, dtype))
    weights = tf.cast(is_token(ids), states.dtype)[:, None]
    gradients = (
        weights * (states_gradient - tf.cast(even, states.dtype) * kernel_sum),
        tf.cast(sums.kernel_gradient - even * summed_states, kernel.dtype),
        tf.cast(sums.bias_gradient - even * tokens, kernel.dtype),
    )
    return (sums.loss - even * mean_scores, sums.cross_entropy), gradients


def _sum_chunks(
    states: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, ids: tf.Tensor, smoothing: float
) -> tuple[_Sums, tf.Tensor]:
    """The sums over all rows of `states` [N, D], which are zero for padding, and the gradient of the states [N, D]."""
    rows, dtype = tf.shape(states)[0], _wide(kernel.dtype)
    chunks = (rows + CHUNK_ROWS - 1) // CHUNK_ROWS

    def add(chunk: tf.Tensor, sums: _Sums, states_gradients: tf.TensorArray):
        # Chunks of equal size: a last one of a few rows would cost nearly as much as a whole one.
        first, behind = rows * chunk // chunks, rows * (chunk + 1) // chunks
        part, states_gradient = _chunk(states[first:behind], kernel, bias, ids[first:behind], smoothing)
        sums = tf.nest.map_structure(lambda total, more: total + tf.cast(more, dtype), sums, part)
        return chunk + 1, sums, states_gradients.write(chunk, states_gradient)

    zero = tf.zeros([], dtype)
    nothing = _Sums(zero, zero, tf.zeros(kernel.shape, dtype), tf.zeros(kernel.shape[:1], dtype))
    arrays = tf.TensorArray(states.dtype, chunks, infer_shape=False, element_shape=[None, kernel.shape[1]])
    loop = (tf.constant(0), nothing, arrays)
    _, sums, states_gradients = tf.while_loop(lambda chunk, *_: chunk < chunks, add, loop, parallel_iterations=1)
    return sums, tf.ensure_shape(states_gradients.concat(), [None, kernel.shape[1]])


def _chunk(
    states: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, ids: tf.Tensor, smoothing: float
) -> tuple[_Sums, tf.Tensor]:
    """Sums and gradient of the states of a few rows; see `_loss_and_gradients`."""
    scores = _logits(states, kernel, bias)
    weights = tf.cast(is_token(ids), scores.dtype)
    places = tf.stack([tf.range(tf.size(ids)), ids], axis=1)
    reference_scores = tf.gather_nd(scores, places)
    probabilities = tf.nn.softmax(scores)
    # What float32 cannot hold counts as the smallest number that it can; the gradient stays exact.
    smallest = tf.constant(SMALLEST_PROBABILITY, scores.dtype)
    reference_probabilities = tf.gather_nd(probabilities, places)
    entropies = -tf.math.log(tf.maximum(reference_probabilities, smallest)) * weights
    taken = tf.fill(tf.shape(ids), tf.constant(1 - smoothing, scores.dtype))
    with tf.control_dependencies([reference_probabilities]):  # the last reader, so the array is changed in place
        score_gradient = tf.cast(tf.tensor_scatter_nd_sub(probabilities, places, taken), kernel.dtype)
    sums = _Sums(
        loss=tf.reduce_sum(entropies + smoothing * reference_scores * weights),
        cross_entropy=tf.reduce_sum(entropies),
        kernel_gradient=tf.matmul(score_gradient, states, transpose_a=True),
        bias_gradient=tf.zeros(kernel.shape[:1], kernel.dtype)
        if bias is None
        else tf.matmul(tf.cast(weights, kernel.dtype)[None], score_gradient)[0],
    )
    return sums, tf.matmul(score_gradient, kernel)


def _logits(states: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """Logits [N, V] of `states` [N, D]."""
    rows = tf.cast(tf.matmul(states, kernel, transpose_b=True), _wide(kernel.dtype))
    return rows if bias is None else tf.nn.bias_add(rows, tf.cast(bias, rows.dtype))


def _wide(dtype: tf.DType) -> tf.DType:
    """The type that sums and logarithms are computed in."""
    return tf.float64 if dtype == tf.float64 else tf.float32
