"""Training batches: complete, disjoint, shuffled anew each epoch, and resumed exactly behind any of them."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.data.text import generated_pairs, write_gzip_pair, write_pair, write_table
from tfnmt.batch import END_ID, PAD_ID, Batch
from tfnmt.data.pipeline import pair_batches, training_batches
from tfnmt.data.settings import DataSettings
from tfnmt.data.vocabulary import Vocabulary

PAIRS = generated_pairs(300)
SMALL = DataSettings(batch_positions=160, shuffle_buffer=128, pool_pairs=40)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three kinds of files with 300 pairs together."""
    directory = tmp_path_factory.mktemp("files")
    return (
        write_pair(directory, "first", PAIRS[:130]),
        write_gzip_pair(directory, "second", PAIRS[130:180]),
        write_table(directory, "third", PAIRS[180:]),
    )


def _take(files, vocabulary, settings=SMALL, *, epochs=1, seed=5, **place) -> list[Batch]:
    batches = training_batches(files, vocabulary, vocabulary, settings, seed=seed, **place).as_numpy_iterator()
    return list(itertools.takewhile(lambda batch: batch.position[0] < epochs, batches))


def _texts(batches: list[Batch], vocabulary: Vocabulary) -> list[tuple[str, str]]:
    pairs = []
    for batch in batches:
        sides = [vocabulary.detokenize(tf.constant(ids)).numpy() for ids in (batch.source_ids, batch.target_ids)]
        pairs += [tuple(text.decode() for text in pair) for pair in zip(*sides)]
    return pairs


def _assert_equal(batches: list[Batch], others: list[Batch]) -> None:
    assert len(batches) == len(others)
    for one, other in zip(batches, others):
        for field, other_field in zip(one, other):
            np.testing.assert_array_equal(field, other_field)


def test_an_epoch_has_every_pair_once(files, vocabulary):
    assert sorted(_texts(_take(files, vocabulary), vocabulary)) == sorted(PAIRS)


def test_batches_are_padded_and_within_their_budgets(files, vocabulary):
    for batch in _take(files, vocabulary):
        assert batch.source_ids.dtype == batch.target_ids.dtype == np.int32
        assert batch.target_ids.size <= SMALL.batch_positions and batch.source_ids.size <= SMALL.source_budget
        for ids in (batch.source_ids, batch.target_ids):
            ends = ids == END_ID
            assert (ends.sum(axis=1) == 1).all() and ends[:, -1].any()
            np.testing.assert_array_equal(np.cumsum(ends, axis=1) - ends, ids == PAD_ID)


def test_each_epoch_has_an_order_and_batches_of_its_own(files, vocabulary):
    batches = _take(files, vocabulary, epochs=2)
    epochs = [_texts([batch for batch in batches if batch.position[0] == epoch], vocabulary) for epoch in (0, 1)]
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])


def test_the_order_depends_on_the_seed_alone(files, vocabulary):
    tf.random.set_seed(1)
    first = _take(files, vocabulary)
    tf.random.set_seed(2)
    _assert_equal(first, _take(files, vocabulary))
    assert _texts(first, vocabulary) != _texts(_take(files, vocabulary, seed=6), vocabulary)


def test_shuffling_reaches_across_a_block(files, vocabulary):
    """Lines of all parts of a block come early, not only those from its beginning."""
    settings = DataSettings(batch_positions=160, shuffle_buffer=300, pool_pairs=30)
    numbers = [int(source.split()[0]) for source, _ in _texts(_take(files, vocabulary, settings), vocabulary)]
    assert np.mean(numbers[:30]) == pytest.approx(150, abs=60)


def test_shards_are_disjoint_and_complete(files, vocabulary, shards=3):
    parts = [_texts(_take(files, vocabulary, shard=shard, shards=shards), vocabulary) for shard in range(shards)]
    assert sorted(itertools.chain(*parts)) == sorted(PAIRS)
    assert max(collections.Counter(itertools.chain(*parts)).values()) == 1
    # The same reader without shards, twice, does overlap: the check above can fail.
    unsharded = _texts(_take(files, vocabulary), vocabulary)
    assert max(collections.Counter(parts[0] + unsharded).values()) == 2


@pytest.mark.parametrize("blocks", [{"shuffle_buffer": 24, "pool_pairs": 10}, {"shuffle_buffer": 30, "pool_pairs": 99}])
def test_resuming_behind_any_batch_gives_the_same_rest(tmp_path, vocabulary, blocks):
    """Through two epochs, across files, blocks, pools and the end of an epoch, bit for bit."""
    writers = (write_pair, write_gzip_pair, write_table)
    files = [write(tmp_path, str(place), PAIRS[place::10]) for place, write in enumerate(writers)]
    settings, place = DataSettings(batch_positions=160, **blocks), {"shard": 1, "shards": 2}
    batches = _take(files, vocabulary, settings, epochs=3, **place)

    @tf.function
    def resume(position):
        iterator = iter(training_batches(files, vocabulary, vocabulary, settings, seed=5, position=position, **place))
        return [next(iterator) for _ in range(3)]

    positions = [batch.position for batch in batches if batch.position[0] < 2]
    assert len({tuple(position) for position in positions}) == len(positions) > 8
    for used, position in enumerate(positions, start=1):
        resumed = [Batch(*(field.numpy() for field in batch)) for batch in resume(tf.constant(position))]
        _assert_equal(resumed, batches[used : used + 3])


def test_resuming_in_a_late_epoch_reads_no_earlier_one(files, vocabulary):
    (batch,) = training_batches(files, vocabulary, vocabulary, SMALL, seed=5, position=[10**12, 0, -1]).take(1)
    assert batch.position.numpy().tolist() == [10**12, 0, 0]


def test_pools_already_used_are_not_tokenized(files, vocabulary):
    class Counting(Vocabulary):
        lines = 0

        def tokenize(self, lines, nbest=0, alpha=1.0):
            def count(number):
                Counting.lines += int(number)
                return number

            with tf.control_dependencies([tf.py_function(count, [tf.size(lines)], tf.int32)]):
                return super().tokenize(tf.identity(lines), nbest, alpha)

    last = _take(files, vocabulary)[-1].position
    dataset = training_batches(files, Counting(vocabulary.path), vocabulary, SMALL, seed=5, position=last)
    next(iter(dataset))
    # What is tokenized: the rest of the epoch, which is one pool, and the first pools of the next one, ahead of time.
    assert 0 < Counting.lines <= 5 * SMALL.pool_pairs < len(PAIRS)


def test_it_can_be_built_inside_a_function_with_a_shard_known_there_only(files, vocabulary):
    @tf.function
    def first(shard, position):
        batches = training_batches(
            files, vocabulary, vocabulary, SMALL, seed=5, shard=shard, shards=tf.constant(2), position=position
        )
        return next(iter(batches))

    for shard in range(2):
        (expected,) = _take(files, vocabulary, shard=shard, shards=2)[:1]
        found = first(tf.constant(shard), tf.constant([0, 0, -1], tf.int64))
        _assert_equal([Batch(*(field.numpy() for field in found))], [expected])


@pytest.mark.parametrize("shard", [1, 2])
def test_a_shard_without_pairs_is_refused_instead_of_searched_for_ever(tmp_path, vocabulary, shard):
    """Shard 1 has an empty line alone, and shard 2 none."""
    files = [write_pair(tmp_path, "train", [("ba", "ab"), ("", "de")])]
    batches = training_batches(files, vocabulary, vocabulary, SMALL, seed=5, shard=shard, shards=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="No sentence pair of the training files is left"):
        next(iter(batches))


def test_resuming_behind_the_last_batch_of_an_epoch_is_no_empty_epoch(tmp_path, vocabulary):
    files = [write_pair(tmp_path, "train", [("ba", "ab")])]
    batches = training_batches(files, vocabulary, vocabulary, SMALL, seed=5, position=[0, 0, 0])
    positions = [batch.position.numpy().tolist() for batch in batches.take(2)]
    assert positions == [[1, 0, 0], [2, 0, 0]]


def test_filtered_pairs_do_not_come(tmp_path, vocabulary):
    pairs = [("ba", ""), (" ", "de"), ("ba " * 30, "ab " * 30), ("ba", "ba " * 20), ("ku", "uk")]
    files = [write_pair(tmp_path, "train", pairs)]
    settings = DataSettings(batch_positions=160, max_length=30, max_length_ratio=4.0)
    assert _texts(_take(files, vocabulary, settings), vocabulary) == [("ku", "uk")]


def test_subword_sampling_changes_pieces_and_not_text(files, vocabulary):
    settings = DataSettings(batch_positions=160, subword_nbest=-1, subword_alpha=0.1, max_length_ratio=100.0)
    sampled = _take(files, vocabulary, settings)
    assert sorted(_texts(sampled, vocabulary)) == sorted(PAIRS)
    assert sum((batch.target_ids != PAD_ID).sum() for batch in sampled) > sum(
        (batch.target_ids != PAD_ID).sum() for batch in _take(files, vocabulary)
    )


def test_most_positions_are_tokens(tmp_path, vocabulary):
    files = [write_pair(tmp_path, "train", generated_pairs(2000))]
    batches = _take(files, vocabulary, DataSettings(batch_positions=1024))
    ids = [side for batch in batches for side in (batch.source_ids, batch.target_ids)]
    assert sum((side != PAD_ID).sum() for side in ids) / sum(side.size for side in ids) > 0.9
    assert np.mean([batch.target_ids.size for batch in batches]) > 0.9 * 1024


def test_pair_batches_have_every_pair_once(tmp_path, vocabulary):
    pairs = [*PAIRS[:150], ("", ""), ("ba " * 100, "ab"), *PAIRS[150:]]
    files = [write_pair(tmp_path, "first", pairs[:151]), write_table(tmp_path, "second", pairs[151:])]
    batches = list(pair_batches(files, vocabulary, vocabulary, SMALL).as_numpy_iterator())
    assert sorted(_texts(batches, vocabulary)) == sorted((a.strip(), b.strip()) for a, b in pairs)
