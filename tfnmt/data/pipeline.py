"""Endless training batches whose order is a pure function of the seed, and that can be taken up behind any batch.

    lines -> this worker's shard -> blocks, shuffled -> pools -> tokens -> filter -> sort by length -> batches, shuffled

A block is what is shuffled together (`shuffle_buffer` pairs), a pool what is sorted together (at most `pool_pairs`
pairs of a shuffled block). The shuffles are stateless and keyed by seed, shard, epoch and block or pool, so a batch is
known by its epoch, pool and place in the pool alone. That address travels in the batch. To go on behind it, the reader
skips epochs without reading them and pools without tokenizing them. Everything runs in the graph and captures nothing,
so a dataset can be built on, or sent to, any worker.
"""

import functools
from collections.abc import Sequence

import tensorflow as tf

from tfnmt.batch import START
from tfnmt.data.files import TextPair
from tfnmt.data.lines import END_OF_EPOCH, key, line_pairs, shuffled_pools
from tfnmt.data.pools import Pool, PoolBuilder
from tfnmt.data.settings import DataSettings
from tfnmt.data.spool import SpooledPairs
from tfnmt.data.vocabulary import Vocabulary

_OF_LINES, _OF_LENGTHS, _OF_BATCHES = range(3)
"""The purposes of the streams of random numbers of an epoch."""

_BATCHES_AHEAD = 16


def training_batches(
    files: Sequence[TextPair] | SpooledPairs,
    source_vocabulary: Vocabulary,
    target_vocabulary: Vocabulary,
    settings: DataSettings,
    *,
    seed: int,
    position: tf.Tensor | Sequence[int] | None = None,
    shard: int | tf.Tensor = 0,
    shards: int | tf.Tensor = 1,
) -> tf.data.Dataset:
    """Batches without end: epoch after epoch over this shard of the lines, each in an order of its own.

    Line n belongs to shard n modulo `shards`, the number of workers; `seed` and `shard` decide the order. The first
    batch comes right behind the position, int64 [3], which is the `Batch.position` of the last batch used.

    Returns:
      A dataset of `Batch`. An epoch without any batch ends it with an `InvalidArgumentError` that says so.
    """
    shard, shards = (tf.cast(number, tf.int64) for number in (shard, shards))
    position = tf.cast(START if position is None else position, tf.int64)
    shard_seed = key(tf.cast([0, seed], tf.int64), shard)
    builder = PoolBuilder(source_vocabulary, target_vocabulary, settings)

    def lines_of_epoch(epoch: tf.Tensor, first: tf.Tensor) -> tf.data.Dataset:
        if isinstance(files, SpooledPairs):
            return files.shard(epoch, first, shard, shards)
        return line_pairs(files).shard(shards, shard).skip(first)

    def pools_of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        lines_from = functools.partial(lines_of_epoch, epoch)
        first_pool = tf.where(epoch == position[0], position[1], 0)
        return shuffled_pools(lines_from, settings, epoch, key(shard_seed, epoch, _OF_LINES), first_pool)

    def pool_of_lines(address: tf.Tensor, source_lines: tf.Tensor, target_lines: tf.Tensor) -> Pool:
        seed_of_pool = key(shard_seed, address[0], _OF_LENGTHS, address[1])
        return builder.for_training(address, source_lines, target_lines, seed_of_pool)

    def batches_of_pool(pool: Pool) -> tf.data.Dataset:
        used = tf.where(tf.reduce_all(pool.address == position[:2]), position[2] + 1, 0)
        order = tf.random.experimental.stateless_shuffle(
            tf.range(pool.batches), key(shard_seed, pool.address[0], _OF_BATCHES, pool.address[1])
        )
        turns = tf.data.Dataset.range(pool.batches).skip(used)
        return turns.map(lambda turn: pool.batch(order[turn], turn))

    # One pool is tokenized at a time: parallel calls of the tokenizer have been seen to lock each other out.
    pools = tf.data.Dataset.range(position[0], tf.int64.max).flat_map(pools_of_epoch).map(pool_of_lines)
    pools = _refuse_empty_epochs(pools, position, shard, shards).prefetch(1)
    return _with_options(pools.flat_map(batches_of_pool).prefetch(_BATCHES_AHEAD))


def pair_batches(
    files: Sequence[TextPair],
    source_vocabulary: Vocabulary,
    target_vocabulary: Vocabulary,
    settings: DataSettings,
) -> tf.data.Dataset:
    """Every pair once, none left out, for validation: a dataset of `Batch`.

    Pairs of like length share a batch, so lines come out of order, within `pool_pairs` lines.
    """
    builder = PoolBuilder(source_vocabulary, target_vocabulary, settings)

    def pool_of_lines(number: tf.Tensor, lines: tuple[tf.Tensor, tf.Tensor]) -> Pool:
        return builder.every_pair(tf.stack([0, number]), *lines)

    def batches_of_pool(pool: Pool) -> tf.data.Dataset:
        return tf.data.Dataset.range(pool.batches).map(lambda number: pool.batch(number, number))

    pools = line_pairs(files).batch(settings.pool_pairs).enumerate().map(pool_of_lines)
    return _with_options(pools.flat_map(batches_of_pool).prefetch(_BATCHES_AHEAD))


def _refuse_empty_epochs(
    pools: tf.data.Dataset, position: tf.Tensor, shard: tf.Tensor, shards: tf.Tensor
) -> tf.data.Dataset:
    """Fails at the end of an epoch without any batch: the reader would look for one for ever."""
    message = "No sentence pair of the training files is left after filtering in this worker's shard; shard, shards:"

    def check(batches: tf.Tensor, pool: Pool) -> tuple[tf.Tensor, Pool]:
        batches += pool.batches
        is_end = pool.address[1] == END_OF_EPOCH
        with tf.control_dependencies([tf.debugging.Assert(~is_end | (batches > 0), [message, shard, shards])]):
            return tf.where(is_end, tf.zeros_like(batches), batches), pool

    # The epoch in which the reader resumes had a batch already, whether or not one is left of it.
    resumes = tf.cast(tf.reduce_any(position != START), tf.int64)
    return pools.scan(resumes, check)


def _with_options(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # nothing to tune; its thread sleeps for up to a minute when an iterator goes
    # Shards are cut here, by line; TensorFlow must not cut them once more.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
