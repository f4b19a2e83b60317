"""Endless training batches whose order is a pure function of the seed, and that can be taken up behind any batch.

    lines -> this worker's shard -> blocks, shuffled -> pools -> tokens -> filter -> sort by length -> batches, shuffled

A block is what is shuffled together (`shuffle_buffer` pairs), a pool what is sorted together (`pool_pairs` pairs, cut
from a shuffled block). The shuffles are stateless and keyed by (seed, shard, epoch, block or pool), so a batch is known
by its epoch, pool and place in the pool alone. That address travels in the batch. To go on behind it, the reader skips
epochs without reading them and pools without tokenizing them. Everything runs in the graph and captures nothing, so
a dataset can be built on, or sent to, any worker.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfnmt.batch import Batch
from tfnmt.data import batching, filters
from tfnmt.data.files import TextPair, is_gzip
from tfnmt.data.settings import DataSettings
from tfnmt.data.vocabulary import Vocabulary

START = (0, 0, -1)
"""The position before the first batch."""

_END_OF_EPOCH = -1
_BATCHES_AHEAD = 16


class Pool(NamedTuple):
    """Pairs sorted by length, and where they are cut into batches."""

    place: tf.Tensor  # int64 [2]: epoch and pool
    source_ids: tf.RaggedTensor  # int32 [B, None]
    target_ids: tf.RaggedTensor  # int32 [B, None]
    rows: tf.Tensor  # int64 [B]: place of each pair among the lines that the pool was given
    borders: tf.Tensor  # int32 [batches + 1]
    verdicts: tf.Tensor  # int32 [lines]: what became of each pair; see `filters.VERDICTS`


class IndexedBatch(NamedTuple):
    """A batch, and the line number (from 0) of each of its pairs."""

    batch: Batch
    indices: tf.Tensor  # int64 [B]


def training_batches(
    files: Sequence[TextPair],
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

    Args:
      files: the text; one pair of files is read after the other.
      source_vocabulary: cuts the source lines.
      target_vocabulary: cuts the target lines.
      settings: filters, budgets and buffers.
      seed: with `shard`, decides the order.
      position: int64 [3], the `Batch.position` of the last batch used; the first one comes right behind it.
      shard: which part of the lines; line n belongs to shard n modulo `shards`.
      shards: number of workers.

    Returns:
      A dataset of `Batch`. An epoch without any batch ends it with an `InvalidArgumentError` that says so.
    """
    shard, shards = (tf.cast(number, tf.int64) for number in (shard, shards))
    position = tf.cast(START if position is None else position, tf.int64)
    shard_seed = tf.random.experimental.stateless_fold_in(tf.cast([0, seed], tf.int64), shard)
    lines = _lines(files).shard(shards, shard)

    def epoch_of_lines(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.random.experimental.stateless_fold_in(shard_seed, epoch)
        first_pool = tf.where(epoch == position[0], position[1], 0)
        return _shuffled_pools(lines, settings, epoch, epoch_seed, first_pool).concatenate(_end_of_epoch(epoch))

    def batches_of_pool(pool: Pool) -> tf.data.Dataset:
        used = tf.where(tf.reduce_all(pool.place == position[:2]), position[2] + 1, 0)
        pool_seed = tf.random.experimental.stateless_fold_in(shard_seed + pool.place[0], pool.place[1])
        order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(pool.borders) - 1), pool_seed)
        places = tf.data.Dataset.range(tf.size(order, tf.int64)).skip(used)
        return places.map(lambda place: _batch(pool, place, order[place]))

    pools = tf.data.Dataset.range(position[0], tf.int64.max).flat_map(epoch_of_lines)
    pools = pools.map(
        lambda place, source, target: _pool(
            place, source, target, source_vocabulary, target_vocabulary, settings, training=True
        )
    )
    pools = _refuse_empty_epochs(pools, position, shard, shards).prefetch(1)
    return _with_options(pools.flat_map(batches_of_pool).prefetch(_BATCHES_AHEAD))


def pair_batches(
    files: Sequence[TextPair],
    source_vocabulary: Vocabulary,
    target_vocabulary: Vocabulary,
    settings: DataSettings,
) -> tf.data.Dataset:
    """Every pair once, none left out, for validation and forced scoring.

    Pairs of like length share a batch, so lines come out of order, within `pool_pairs` lines; `indices` restores it.

    Returns:
      A dataset of `IndexedBatch`.
    """
    pools = tf.data.Dataset.zip(tf.data.Dataset.counter(), _lines(files).batch(settings.pool_pairs))

    def pool_of_lines(number: tf.Tensor, lines: tuple[tf.Tensor, tf.Tensor]) -> Pool:
        place = tf.stack([0, number])
        return _pool(place, *lines, source_vocabulary, target_vocabulary, settings, training=False)

    def batches_of_pool(pool: Pool) -> tf.data.Dataset:
        places = tf.data.Dataset.range(tf.size(pool.borders, tf.int64) - 1)
        return places.map(lambda place: _indexed_batch(pool, place, settings.pool_pairs))

    return _with_options(pools.map(pool_of_lines).flat_map(batches_of_pool).prefetch(_BATCHES_AHEAD))


def corpus_pools(
    files: Sequence[TextPair],
    source_vocabulary: Vocabulary,
    target_vocabulary: Vocabulary,
    settings: DataSettings,
    limit: int,
) -> tf.data.Dataset:
    """The pools of the first `limit` lines, in the order of the files: what training would make of them."""
    lines = _lines(files).take(limit).batch(settings.pool_pairs)
    return _with_options(
        lines.map(
            lambda source, target: _pool(
                tf.zeros([2], tf.int64), source, target, source_vocabulary, target_vocabulary, settings, training=True
            )
        )
    )


def _lines(files: Sequence[TextPair]) -> tf.data.Dataset:
    """Pairs (source, target) of string scalars, file after file."""
    datasets = [_lines_of(pair) for pair in files]
    lines = datasets[0]
    for more in datasets[1:]:
        lines = lines.concatenate(more)
    return lines


def _lines_of(pair: TextPair) -> tf.data.Dataset:
    sides = [tf.data.TextLineDataset(path, "GZIP" if is_gzip(path) else "") for path in pair.paths]
    if pair.target is not None:
        return tf.data.Dataset.zip(*sides)
    return sides[0].batch(1024).map(_columns).unbatch()


def _columns(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first two columns of tab-separated `rows` [B]; a missing one is empty."""
    columns = tf.strings.split(rows, "\t").to_tensor("", shape=[None, 2])
    return columns[:, 0], columns[:, 1]


def _shuffled_pools(
    lines: tf.data.Dataset, settings: DataSettings, epoch: tf.Tensor, seed: tf.Tensor, first_pool: tf.Tensor
) -> tf.data.Dataset:
    """One epoch's (place int64 [2], source lines [B], target lines [B]) from `first_pool` on."""
    pools_per_block = -(-settings.shuffle_buffer // settings.pool_pairs)
    first_block = first_pool // pools_per_block

    def pools_of_block(block: tf.Tensor, block_lines: tuple[tf.Tensor, tf.Tensor]) -> tf.data.Dataset:
        pairs = tf.size(block_lines[0], tf.int64)
        pools = -(-pairs // settings.pool_pairs)
        order = tf.random.experimental.stateless_shuffle(
            tf.range(pairs), tf.random.experimental.stateless_fold_in(seed, block)
        )

        def pool_of_block(pool: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            mine = order[pairs * pool // pools : pairs * (pool + 1) // pools]
            place = tf.stack([epoch, block * pools_per_block + pool])
            return place, *(tf.gather(side, mine) for side in block_lines)

        used = tf.maximum(first_pool - block * pools_per_block, 0)
        return tf.data.Dataset.range(pools).skip(used).map(pool_of_block)

    blocks = lines.skip(first_block * settings.shuffle_buffer).batch(settings.shuffle_buffer)
    return blocks.enumerate(first_block).flat_map(pools_of_block)


def _end_of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
    """A pool without lines that marks the end of `epoch`, so that an epoch without any pair is noticed."""
    nothing = tf.zeros([0], tf.string)
    return tf.data.Dataset.from_tensors((tf.stack([epoch, _END_OF_EPOCH]), nothing, nothing))


def _refuse_empty_epochs(
    pools: tf.data.Dataset, position: tf.Tensor, shard: tf.Tensor, shards: tf.Tensor
) -> tf.data.Dataset:
    """Fails at the end of an epoch without any batch: the reader would look for one for ever."""
    message = "no sentence pair is left after filtering in this worker's shard of the training files; shard, shards:"

    def check(batches: tf.Tensor, pool: Pool) -> tuple[tf.Tensor, Pool]:
        batches += tf.size(pool.borders) - 1
        is_end = pool.place[1] == _END_OF_EPOCH
        tf.debugging.Assert(~is_end | (batches > 0), [message, shard, shards])
        return tf.where(is_end, 0, batches), pool

    # The epoch in which the reader resumes had a batch already, whether or not one is left of it.
    resumes = tf.cast(tf.reduce_any(position != START), tf.int32)
    return pools.scan(resumes, check)


def _pool(
    place: tf.Tensor,
    source_lines: tf.Tensor,
    target_lines: tf.Tensor,
    source_vocabulary: Vocabulary,
    target_vocabulary: Vocabulary,
    settings: DataSettings,
    training: bool,
) -> Pool:
    """Tokenizes lines [B], leaves pairs out (in training), sorts the rest by length and cuts them into batches."""
    sampling = (settings.subword_nbest, settings.subword_alpha) if training else (0,)
    source_ids = source_vocabulary.tokenize(source_lines, *sampling)
    target_ids = target_vocabulary.tokenize(target_lines, *sampling)
    lengths = [tf.cast(ids.row_lengths(), tf.int32) for ids in (source_ids, target_ids)]
    verdicts = filters.verdicts(*lengths, settings) if training else tf.zeros_like(lengths[0])
    kept = tf.squeeze(tf.where(verdicts == filters.KEPT), axis=1)
    rows = tf.gather(kept, batching.length_order(*(tf.gather(side, kept) for side in lengths)))
    sorted_lengths = [tf.gather(side, rows) for side in lengths]
    borders = batching.cut(*sorted_lengths, settings.source_budget, settings.batch_tokens)
    return Pool(place, tf.gather(source_ids, rows), tf.gather(target_ids, rows), rows, borders, verdicts)


def _batch(pool: Pool, place: tf.Tensor, index: tf.Tensor) -> Batch:
    """Batch `index` of `pool`, the `place`-th to come out."""
    start, end = pool.borders[index], pool.borders[index + 1]
    position = tf.concat([pool.place, [place]], axis=0)
    return Batch(pool.source_ids[start:end].to_tensor(), pool.target_ids[start:end].to_tensor(), position)


def _indexed_batch(pool: Pool, place: tf.Tensor, pool_pairs: int) -> IndexedBatch:
    rows = pool.rows[pool.borders[place] : pool.borders[place + 1]]
    return IndexedBatch(_batch(pool, place, place), pool.place[1] * pool_pairs + rows)


def _with_options(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Shards are cut here, by line; TensorFlow must not cut them once more.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
