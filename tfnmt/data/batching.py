"""Sentence pairs sorted by length and cut into batches with little padding."""

import tensorflow as tf

LENGTHENED = 0.05
"""Share of the pairs that training sorts as if they were one token longer."""


def length_order(source_lengths: tf.Tensor, target_lengths: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
    """Sorts pairs so that neighbours are of like length on both sides.

    The longer side decides first, the longest pair in front. Pairs with one longer side follow by the difference of
    the two sides, which rises and falls in turn, so that neighbours across the border of two lengths are alike too.
    Against sorting by one side and then the other, this leaves a third to a half of the padding.

    Args:
      source_lengths: int32 [B].
      target_lengths: int32 [B].
      seed: stateless seed [2]; with it a few pairs move by one length, so that no two epochs have the same batches.

    Returns:
      int32 [B], the places of the pairs in the new order. Pairs of equal lengths keep their order.
    """
    longer = tf.maximum(source_lengths, target_lengths)
    if seed is not None:
        longer += tf.cast(tf.random.stateless_uniform(tf.shape(longer), seed) < LENGTHENED, tf.int32)
    difference = source_lengths - target_lengths
    minor = tf.where(tf.equal(longer % 2, 0), difference, -difference)
    spread = 2 * tf.reduce_max(tf.concat([[0], longer], axis=0)) + 1
    return tf.argsort(tf.cast(-longer, tf.int64) * tf.cast(spread, tf.int64) + tf.cast(minor, tf.int64), stable=True)


def cut(source_lengths: tf.Tensor, target_lengths: tf.Tensor, source_budget: int, target_budget: int) -> tf.Tensor:
    """Cuts sorted pairs into batches, each as large as both budgets of positions allow.

    A pair that alone exceeds a budget is a batch of its own. When the last batch would be less than half full, the
    last two share their pairs, so that no update rests on a handful of sentences.

    Args:
      source_lengths: int32 [B], in the order of `length_order`.
      target_lengths: int32 [B], in the order of `length_order`.
      source_budget: source positions in a batch, padding included.
      target_budget: target positions in a batch, padding included.

    Returns:
      int32 [batches + 1]: batch i has the pairs from borders[i] to borders[i + 1].
    """

    def fits(start, end):
        by_source = _positions(source_lengths, start, end) <= source_budget
        return by_source & (_positions(target_lengths, start, end) <= target_budget)

    def next_border(start, borders):
        most = tf.maximum(target_budget // target_lengths[start], 1)
        end = _last_that_fits(start, tf.minimum(start + most, pairs), fits)
        return end, borders.write(borders.size(), end)

    pairs = tf.size(target_lengths)
    borders = tf.TensorArray(tf.int32, size=1, dynamic_size=True, clear_after_read=False).write(0, 0)
    _, borders = tf.while_loop(lambda start, _: start < pairs, next_border, [tf.constant(0), borders])
    borders = borders.stack()

    def share_last():
        first, border, end = borders[-3], borders[-2], borders[-1]
        middle = tf.minimum((first + end) // 2, border)
        is_short = 2 * _positions(target_lengths, border, end) < target_budget
        return tf.concat([borders[:-2], [tf.where(is_short & fits(middle, end), middle, border), end]], axis=0)

    return tf.cond(tf.size(borders) > 2, share_last, lambda: borders)


def padded_positions(lengths: tf.Tensor, borders: tf.Tensor) -> tf.Tensor:
    """Positions of all batches, padding included; int64 scalar.

    Args:
      lengths: int32 [B], in the order of `length_order`.
      borders: int32 [batches + 1], from `cut`.
    """
    sizes = borders[1:] - borders[:-1]
    batch_of_pair = tf.repeat(tf.range(tf.size(sizes)), sizes)
    return tf.reduce_sum(tf.cast(tf.math.segment_max(lengths, batch_of_pair) * sizes, tf.int64))


def _positions(lengths: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    return (end - start) * tf.reduce_max(lengths[start:end])


def _last_that_fits(start: tf.Tensor, end: tf.Tensor, fits) -> tf.Tensor:
    """The largest border up to `end` for which `fits(start, border)`, at least start + 1: a search by halves."""

    def halve(low, high):
        middle = (low + high + 1) // 2
        middle_fits = fits(start, middle)
        return tf.where(middle_fits, middle, low), tf.where(middle_fits, high, middle - 1)

    return tf.while_loop(lambda low, high: low < high, halve, [start + 1, end])[0]
