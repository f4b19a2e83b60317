"""Parallel lines as datasets: in the order of the files, or shuffled block by block for one epoch."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tfnmt.data.files import TextPair, is_gzip
from tfnmt.data.settings import DataSettings

END_OF_EPOCH = -1
"""The number of the pool, without lines, that ends every epoch."""

_ROWS_SPLIT_TOGETHER = 1024
_MARK = "\ufeff"


def key(seed: tf.Tensor, *address: int | tf.Tensor) -> tf.Tensor:
    """The stateless seed [2] of what stands at `address` under `seed` [2]."""
    for number in address:
        seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(number, seed.dtype))
    return seed


def line_pairs(files: Sequence[TextPair]) -> tf.data.Dataset:
    """Pairs (source, target) of string scalars, file after file."""
    datasets = [_pairs_of(pair) for pair in files]
    lines = datasets[0]
    for more in datasets[1:]:
        lines = lines.concatenate(more)
    return lines


def block_begins(pool: int, settings: DataSettings) -> int:
    """The line of a shard with which the block of a pool begins."""
    return pool // _pools_per_block(settings) * settings.shuffle_buffer


def _pools_per_block(settings: DataSettings) -> int:
    return -(-settings.shuffle_buffer // settings.pool_pairs)


def shuffled_pools(
    lines_from: Callable[[tf.Tensor], tf.data.Dataset],
    settings: DataSettings,
    epoch: tf.Tensor,
    seed: tf.Tensor,
    first_pool: tf.Tensor,
) -> tf.data.Dataset:
    """The lines of one epoch in random order, from pool `first_pool` on.

    The lines come from a function of the first line's number. It, the epoch and the first pool are int64 scalars, the
    epoch's stateless seed is [2]. A pool without lines, number END_OF_EPOCH, comes last, so that an epoch without any
    pair is noticed.

    Returns:
      A dataset of (address int64 [2]: epoch and pool, source lines [B], target lines [B]).
    """
    pools_per_block = _pools_per_block(settings)
    first_block = first_pool // pools_per_block

    def pools_of_block(block: tf.Tensor, block_lines: tuple[tf.Tensor, tf.Tensor]) -> tf.data.Dataset:
        pairs = tf.size(block_lines[0], tf.int64)
        pools = -(-pairs // settings.pool_pairs)
        order = tf.random.experimental.stateless_shuffle(tf.range(pairs), key(seed, block))

        def pool_of_block(pool: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            mine = order[pairs * pool // pools : pairs * (pool + 1) // pools]
            address = tf.stack([epoch, block * pools_per_block + pool])
            return address, *(tf.gather(side, mine) for side in block_lines)

        used = tf.maximum(first_pool - block * pools_per_block, 0)
        return tf.data.Dataset.range(pools).skip(used).map(pool_of_block)

    blocks = lines_from(first_block * settings.shuffle_buffer).batch(settings.shuffle_buffer)
    nothing = tf.zeros([0], tf.string)
    end = tf.data.Dataset.from_tensors((tf.stack([epoch, END_OF_EPOCH]), nothing, nothing))
    return blocks.enumerate(first_block).flat_map(pools_of_block).concatenate(end)


def _pairs_of(pair: TextPair) -> tf.data.Dataset:
    sides = [_lines_of(path) for path in pair.paths]
    if pair.target is not None:
        return tf.data.Dataset.zip(*sides)
    return sides[0].batch(_ROWS_SPLIT_TOGETHER).map(columns).unbatch()


def _lines_of(path: str) -> tf.data.Dataset:
    """The lines of a file, without the byte order mark that it may begin with."""
    lines = tf.data.TextLineDataset(path, "GZIP" if is_gzip(path) else "")
    first = lines.take(1).map(lambda line: tf.strings.regex_replace(line, f"^{_MARK}", ""))
    return first.concatenate(lines.skip(1))


def columns(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first two columns of tab-separated `rows` [B]; a missing one is empty."""
    columns = tf.strings.split(rows, "\t").to_tensor("", shape=[None, 2])
    return columns[:, 0], columns[:, 1]
