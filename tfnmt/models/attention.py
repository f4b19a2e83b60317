"""Multi-head attention ("Attention Is All You Need", section 3.2)."""

import tensorflow as tf

from tfnmt.models.layers import leading_dimensions

MASKED = -1e9  # added to the score of a position that must not be read; finite, so that a row of them is no NaN


def padding_bias(is_token: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The bias of the scores that keeps padding from being read: [B, 1, 1, S] for `is_token` [B, S]."""
    return tf.where(is_token, tf.zeros([], dtype), tf.constant(MASKED, dtype))[:, None, None, :]


def causal_bias(length: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The bias of the scores that keeps a position from reading a later one: [T, T]."""
    places = tf.range(length)
    return tf.where(places[:, None] >= places[None, :], tf.zeros([], dtype), tf.constant(MASKED, dtype))


def split_heads(inputs: tf.Tensor, heads: int) -> tf.Tensor:
    """[B, T, H D'] to [B, H, T, D']."""
    shape = [*leading_dimensions(inputs), heads, inputs.shape[-1] // heads]
    return tf.transpose(tf.reshape(inputs, shape), [0, 2, 1, 3])


def join_heads(inputs: tf.Tensor) -> tf.Tensor:
    """[B, H, T, D'] to [B, T, H D']."""
    batch, _, length, _ = tf.unstack(tf.shape(inputs))
    width = inputs.shape[1] * inputs.shape[3]
    return tf.reshape(tf.transpose(inputs, [0, 2, 1, 3]), [batch, length, width])


def attend(queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, bias: tf.Tensor, dropout) -> tf.Tensor:
    """Scaled dot-product attention of every head: [B, H, T, D'] of queries [B, H, T, D'].

    Keys and values are [B, H, S, D']. The bias, which broadcasts to [B, H, T, S], is added to the scores; dropout is
    applied to the weights.
    """
    scale = tf.constant(queries.shape[-1] ** -0.5, queries.dtype)
    # Sentences are shorter than heads are wide, so the scores are the smallest array to scale.
    scores = tf.matmul(queries, keys, transpose_b=True) * scale
    return tf.matmul(dropout(tf.nn.softmax(scores + bias)), values)


def attend_once(
    queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, bias: tf.Tensor, heads: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Attention of a few queries [B, K, D], not split into heads, without any transposition.

    Every head's query becomes a row of its own that is zero outside of the head's columns; one product over the
    whole width then gives the scores of all heads. Keys and values are [B, S, D]. The bias, which broadcasts to
    [B, K, H, S], is added to the scores.

    Returns:
      [B, K, D], and the weights [B, K, H, S]
    """
    batch, count, width = tf.shape(queries)[0], queries.shape[1] or tf.shape(queries)[1], queries.shape[2]
    columns = tf.repeat(tf.eye(heads, dtype=queries.dtype), width // heads, axis=1)
    rows = queries[:, :, None, :] * (columns * tf.constant((width // heads) ** -0.5, queries.dtype))
    scores = tf.matmul(tf.reshape(rows, [batch, count * heads, width]), keys, transpose_b=True)
    weights = tf.nn.softmax(tf.reshape(scores, [batch, count, heads, tf.shape(keys)[1]]) + bias)
    read = tf.matmul(tf.reshape(weights, tf.shape(scores)), values)
    return tf.reduce_sum(tf.reshape(read, tf.shape(rows)) * columns, axis=2), weights
