"""The output layer: projection onto the vocabulary, log-probabilities and the label-smoothed loss."""

import tensorflow as tf

from tfnmt.batch import is_token
from tfnmt.models.base import LossSums


def logits(states: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    """Unnormalized log-probabilities of the whole vocabulary, at least in float32.

    Args:
      states: [..., D].
      kernel: [V, D], one row for each token, as in an embedding.
      bias: [V] or None.

    Returns:
      [..., V], float32 (float64 if the states are)
    """
    rows = tf.matmul(tf.reshape(states, [-1, kernel.shape[1]]), kernel, transpose_b=True)
    rows = rows if bias is None else rows + bias
    rows = rows if rows.dtype == tf.float64 else tf.cast(rows, tf.float32)
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

    Args:
      states: [B, T, D], what the decoder computed for each target position.
      kernel: [V, D].
      bias: [V] or None.
      target_ids: int32 [B, T].
      label_smoothing: probability spread evenly over the vocabulary.
    """
    scores = tf.nn.log_softmax(logits(states, kernel, bias))
    weights = tf.cast(is_token(target_ids), scores.dtype)
    reference = tf.gather(scores, target_ids, batch_dims=2)
    evenly = tf.reduce_mean(scores, axis=-1)
    losses = -(1 - label_smoothing) * reference - label_smoothing * evenly
    return LossSums(
        loss=tf.reduce_sum(losses * weights),
        cross_entropy=-tf.reduce_sum(reference * weights),
        target_tokens=tf.reduce_sum(weights),
    )
