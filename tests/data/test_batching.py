"""Sorting and cutting, against a plain greedy loop."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfnmt.data import batching


def _lengths(seed: int, pairs: int, longest: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    target = random.integers(2, longest, pairs)
    source = np.clip(target + random.integers(-6, 7, pairs), 2, None)
    order = batching.length_order(*(tf.constant(side, tf.int32) for side in (source, target))).numpy()
    return source[order].astype(np.int32), target[order].astype(np.int32)


def _greedy(source: np.ndarray, target: np.ndarray, source_budget: int, target_budget: int) -> list[int]:
    """Adds pairs one by one while both budgets allow it."""
    borders, start = [0], 0
    for end in range(1, len(target) + 1):
        size = end - start
        too_many = size * max(source[start:end]) > source_budget or size * max(target[start:end]) > target_budget
        if size > 1 and too_many:
            borders.append(end - 1)
            start = end - 1
    return [*borders, len(target)] if len(target) else borders


@pytest.mark.parametrize("seed", range(8))
def test_cut_is_the_greedy_cut_up_to_the_last_border(seed):
    source, target = _lengths(seed, pairs=[0, 1, 2, 7, 60, 200, 500, 1000][seed])
    budgets = (300, 200) if seed % 2 else (150, 200)
    borders = batching.cut(source, target, *budgets).numpy().tolist()
    expected = _greedy(source, target, *budgets)
    assert len(borders) == len(expected)
    assert borders[:-2] == expected[:-2] and borders[-1] == expected[-1]
    assert all(start < end for start, end in itertools.pairwise(borders))


@pytest.mark.parametrize("seed", range(4))
def test_no_batch_exceeds_a_budget(seed):
    source, target = _lengths(seed, pairs=300)
    borders = batching.cut(source, target, 120, 160).numpy()
    for start, end in itertools.pairwise(borders):
        assert (end - start) * source[start:end].max() <= 120
        assert (end - start) * target[start:end].max() <= 160


def test_a_pair_beyond_the_budget_is_a_batch_of_its_own():
    lengths = tf.constant([50, 4, 4], tf.int32)
    assert batching.cut(lengths, lengths, 16, 16).numpy().tolist() == [0, 1, 3]


def test_the_last_two_batches_share_when_the_last_is_small():
    lengths = tf.fill([21], 4)
    assert batching.cut(lengths, lengths, 60, 40).numpy().tolist() == [0, 10, 15, 21]
    assert batching.cut(lengths[:16], lengths[:16], 60, 40).numpy().tolist() == [0, 10, 16]


def test_the_order_is_a_permutation_that_keeps_ties():
    source, target = tf.constant([3, 5, 3, 2, 5]), tf.constant([3, 4, 3, 2, 4])
    assert batching.length_order(source, target).numpy().tolist() == [1, 4, 0, 2, 3]


def test_a_seed_moves_a_few_pairs_and_decides_which():
    lengths = tf.constant(np.random.default_rng(0).integers(2, 30, 500), tf.int32)
    plain = batching.length_order(lengths, lengths).numpy()
    first, second = (batching.length_order(lengths, lengths, seed=tf.constant([0, seed])).numpy() for seed in (1, 2))
    assert sorted(first) == sorted(plain)
    assert (first != plain).any() and (first != second).any()
    np.testing.assert_array_equal(first, batching.length_order(lengths, lengths, seed=tf.constant([0, 1])).numpy())


def test_little_is_padding():
    source, target = _lengths(seed=0, pairs=3000)
    borders = batching.cut(source, target, 1500, 1000)
    positions = sum(int(batching.padded_positions(side, borders)) for side in (source, target))
    assert (source.sum() + target.sum()) / positions > 0.93


def test_padded_positions_are_those_of_the_padded_batches():
    lengths, borders = tf.constant([5, 3, 2, 2, 1]), tf.constant([0, 2, 5])
    assert int(batching.padded_positions(lengths, borders)) == 2 * 5 + 3 * 2
