"""Sentence pairs sorted by length and cut into batches with little padding."""

import tensorflow as tf


def length_order(source_lengths: tf.Tensor, target_lengths: tf.Tensor) -> tf.Tensor:
    """Sorts by target length, longest first, and within one target length by source length.

    The source lengths rise and fall in turn from one target length to the next, so that a batch across the border of
    two target lengths has sources of one length too. Equal pairs keep their order, so a shuffle before is kept.

    Args:
      source_lengths: int32 [B].
      target_lengths: int32 [B].

    Returns:
      int32 [B], the places of the pairs in the new order.
    """
    widest = tf.reduce_max(tf.concat([[0], source_lengths], axis=0)) + 1
    rising = tf.equal(target_lengths % 2, 0)
    minor = tf.where(rising, source_lengths, widest - source_lengths)
    major = tf.cast(-target_lengths, tf.int64) * tf.cast(widest + 1, tf.int64)
    return tf.argsort(major + tf.cast(minor, tf.int64), stable=True)


def cut(source_lengths: tf.Tensor, target_lengths: tf.Tensor, source_budget: int, target_budget: int) -> tf.Tensor:
    """Cuts pairs, sorted by `length_order`, into batches that stay within both budgets of positions.

    A pair that alone exceeds a budget is a batch of its own. When the last batch would be less than half full, the
    last two share their pairs, so that no update rests on a handful of sentences.

    Args:
      source_lengths: int32 [B].
      target_lengths: int32 [B], never rising.
      source_budget: source positions in a batch, padding included.
      target_budget: target positions in a batch, padding included.

    Returns:
      int32 [batches + 1]: batch i has the pairs from borders[i] to borders[i + 1].
    """
    pairs = tf.size(target_lengths)

    def next_border(start, borders):
        # The first target is the longest. Where the sources of as many pairs as fit by target are too many, so many
        # as fit at that source length are taken; among fewer pairs none is longer.
        by_target = target_budget // target_lengths[start]
        by_source = source_budget // tf.reduce_max(source_lengths[start : start + tf.maximum(by_target, 1)])
        end = tf.minimum(start + tf.maximum(tf.minimum(by_target, by_source), 1), pairs)
        return end, borders.write(borders.size(), end)

    borders = tf.TensorArray(tf.int32, size=1, dynamic_size=True, clear_after_read=False).write(0, 0)
    _, borders = tf.while_loop(lambda start, _: start < pairs, next_border, [tf.constant(0), borders])
    return _share_last(borders.stack(), source_lengths, target_lengths, source_budget, target_budget)


def padded_positions(lengths: tf.Tensor, borders: tf.Tensor) -> tf.Tensor:
    """Positions of all batches, padding included; int64 scalar.

    Args:
      lengths: int32 [B], sorted as the batches are.
      borders: int32 [batches + 1], from `cut`.
    """
    sizes = borders[1:] - borders[:-1]
    batch_of_pair = tf.repeat(tf.range(tf.size(sizes)), sizes)
    return tf.reduce_sum(tf.cast(tf.math.segment_max(lengths, batch_of_pair) * sizes, tf.int64))


def _share_last(
    borders: tf.Tensor, source_lengths: tf.Tensor, target_lengths: tf.Tensor, source_budget: int, target_budget: int
) -> tf.Tensor:
    def shared():
        first, border, end = borders[-3], borders[-2], borders[-1]
        middle = tf.minimum((first + end) // 2, border)
        is_short = 2 * (end - border) * target_lengths[border] < target_budget
        fits = ((end - middle) * target_lengths[middle] <= target_budget) & (
            (end - middle) * tf.reduce_max(source_lengths[middle:]) <= source_budget
        )
        return tf.concat([borders[:-2], [tf.where(is_short & fits, middle, border), end]], axis=0)

    return tf.cond(tf.size(borders) > 2, shared, lambda: borders)
