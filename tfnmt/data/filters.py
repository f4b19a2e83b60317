"""Which sentence pairs are trained on, and why the others are not."""

import tensorflow as tf

from tfnmt.data.settings import DataSettings

VERDICTS = ("kept", "empty", "too long", "length ratio")
"""The first is for pairs that are kept; the others are reasons, in the order in which they are tried."""

KEPT = 0


def verdicts(source_lengths: tf.Tensor, target_lengths: tf.Tensor, settings: DataSettings) -> tf.Tensor:
    """The place of each pair in `VERDICTS`, int32 [B], by its tokens on either side, END included, int32 [B]."""
    shorter = tf.minimum(source_lengths, target_lengths)
    longer = tf.maximum(source_lengths, target_lengths)
    is_empty = shorter <= 1
    is_long = longer > settings.length_limit
    is_lopsided = tf.cast(longer, tf.float32) > settings.max_length_ratio * tf.cast(shorter, tf.float32)
    return tf.where(is_empty, 1, tf.where(is_long, 2, tf.where(is_lopsided, 3, KEPT)))
