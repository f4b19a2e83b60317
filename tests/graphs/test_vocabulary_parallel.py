"""Tables whose rows are on several ranks against whole ones, in float64 between threads of this process."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from graphs.vocabulary_parallel import ShardedTable, counting, shard_bounds
from tests.graphs.threads import Threads
from tfnmt.models import layers, output

V, D, SMOOTHING, MOST_ROWS = 11, 3, 0.1, 2
TOKENS = (5, 0, 3, 7)
"""Of each rank; chunks of two rows are of unequal size, and one rank has none."""
EXACT = 1e-12
RANDOM = np.random.default_rng(3)
TABLE, BIAS = RANDOM.normal(size=(V, D)), RANDOM.normal(size=V)
STATES = [RANDOM.normal(size=(count, D)) for count in TOKENS]
IDS = [np.array([(3 * place + 4 * rank) % (V - 1) + 1 for place in range(count)]) for rank, count in enumerate(TOKENS)]


def sharded(transport, rank, size, table=TABLE):
    bounds = shard_bounds(len(table), size)
    rows = tf.constant(table[bounds[rank] : bounds[rank + 1]])
    return ShardedTable(rows, bounds, rank, transport, itertools.count())


def losses_and_gradients(table, states, bias, ids, smoothing=SMOOTHING):
    """The model's own function on whatever table; gradients of states, table and bias."""
    states, bias = tf.constant(states), None if bias is None else tf.constant(bias)
    kernel = table.rows if isinstance(table, ShardedTable) else table
    with tf.GradientTape() as tape:
        watched = [states, kernel] + ([] if bias is None else [bias])
        tape.watch(watched)
        table = dataclasses.replace(table, rows=kernel) if isinstance(table, ShardedTable) else kernel
        sums = output.loss_sums(states, table, bias, tf.constant(ids, tf.int32), smoothing)
    gradients = tape.gradient(sums.loss, watched)
    return [np.asarray(tf.convert_to_tensor(part)) for part in (*sums, *gradients)]


def batch(rank, scale=1.0):
    """A rank's states and tokens, behind which there is padding."""
    return np.pad(scale * STATES[rank], [(0, 1), (0, 0)]), np.pad(IDS[rank], (0, 1))


def on_ranks(size, monkeypatch, bias=BIAS, scale=1.0, smoothing=SMOOTHING):
    """Each rank's sums and gradients."""
    monkeypatch.setattr(output, "CHUNK_ROWS", MOST_ROWS)

    def work(transport, rank):
        states, ids = batch(rank, scale)
        return losses_and_gradients(sharded(transport, rank, size), states, bias, ids, smoothing)

    return Threads(size).run(work)


def whole(size, bias=BIAS, smoothing=SMOOTHING):
    """The same of each rank's batch with the whole table."""
    batches = [batch(rank) for rank in range(size)]
    return [losses_and_gradients(tf.constant(TABLE), states, bias, ids, smoothing) for states, ids in batches]


def assert_equal(found, expected):
    """Sums and the gradients of states on each rank; the gradients of the table and of the bias on all together."""
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one[:3], other[:3], rtol=EXACT)
        np.testing.assert_allclose(one[3], other[3], rtol=EXACT, atol=EXACT)
    rows, wanted_rows = np.concatenate([each[4] for each in found]), sum(each[4] for each in expected)
    np.testing.assert_allclose(rows, wanted_rows, rtol=EXACT, atol=EXACT)
    if len(found[0]) > 5:
        bias, wanted_bias = (sum(each[5] for each in side) for side in (found, expected))
        np.testing.assert_allclose(bias, wanted_bias, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_loss_and_gradients_are_those_of_the_whole_table(size, monkeypatch):
    """I42, I43: sizes that do not divide the vocabulary, ranks of unequal batches, references on every rank."""
    assert set(np.searchsorted(shard_bounds(V, size), IDS[0], side="right") - 1) == set(range(size))
    assert_equal(on_ranks(size, monkeypatch), whole(size))


def test_smoothing_over_a_part_of_the_vocabulary_would_be_seen(monkeypatch):
    """The negative control of I42: an error in the even share alone, as one rank's part for all would be."""
    found, none = on_ranks(2, monkeypatch), whole(2, smoothing=0.0)
    assert abs(found[0][0] - none[0][0]) > 1e-3
    with pytest.raises(AssertionError):
        assert_equal(found, none)


def test_without_bias_and_without_smoothing(monkeypatch):
    plain = {"bias": None, "smoothing": 0.0}
    assert_equal(on_ranks(3, monkeypatch, **plain), whole(3, **plain))


def test_more_ranks_than_rows():
    """A rank without any row adds nothing, and waits with the others."""
    table = TABLE[:3]

    def work(transport, rank):
        states, ids = batch(rank)
        return losses_and_gradients(sharded(transport, rank, 4, table), states, None, np.minimum(ids, 2))

    batches = [(states, np.minimum(ids, 2)) for states, ids in map(batch, range(4))]
    expected = [losses_and_gradients(tf.constant(table), states, None, ids) for states, ids in batches]
    assert_equal(Threads(4).run(work), expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_of_ten_thousand_stay_finite(sign, monkeypatch):
    """I45, in float32: the loss is what float64 says, however improbable the reference is."""
    scale = np.float32(sign * 1e4 / np.abs(STATES[0] @ TABLE.T).max())

    def work(transport, rank):
        states, ids = batch(rank, scale)
        table = sharded(transport, rank, 2, TABLE.astype(np.float32))
        return losses_and_gradients(table, states.astype(np.float32), None, ids)

    found = Threads(2).run(work)
    assert all(np.isfinite(part).all() for each in found for part in each)
    scores = scale * STATES[0] @ TABLE.T
    above = scores - scores.max(axis=1, keepdims=True)
    log_probabilities = above - np.log(np.exp(above).sum(axis=1, keepdims=True))
    expected = -log_probabilities[np.arange(TOKENS[0]), IDS[0]]
    assert expected.max() > 1000
    np.testing.assert_allclose(found[0][1], expected.sum(), rtol=1e-5)


SOURCE = [[[4, 9, 4, 0], [10, 5, 0, 0]], [[8, 0, 0, 0], [4, 4, 4, 9]], [[1, 2, 3, 10]] * 2]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_look_ups_and_their_gradients_are_those_of_the_whole_table(size):
    def look_up(table, ids):
        kernel = table.rows if isinstance(table, ShardedTable) else table
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            table = dataclasses.replace(table, rows=kernel) if isinstance(table, ShardedTable) else kernel
            found = layers.embed(table, tf.constant(ids))
            loss = tf.reduce_sum(found**3)
        return found.numpy(), tf.convert_to_tensor(tape.gradient(loss, kernel)).numpy()

    found = Threads(size).run(lambda transport, rank: look_up(sharded(transport, rank, size), SOURCE[rank]))
    expected = [look_up(tf.constant(TABLE), SOURCE[rank]) for rank in range(size)]
    for (rows, _), (wanted, _) in zip(found, expected):
        np.testing.assert_array_equal(rows, wanted)
    gradient, wanted = np.concatenate([each[1] for each in found]), sum(each[1] for each in expected)
    np.testing.assert_allclose(gradient, wanted, rtol=EXACT, atol=EXACT)


def test_in_bfloat16_rows_travel_in_16_bits():
    """The rows are those of the cast table, and the bytes half of float32's."""

    def work(transport, rank):
        found = []
        for dtype in (tf.float32, tf.bfloat16):
            moved = tf.Variable(0.0, dtype=tf.float64, trainable=False)
            table = sharded(counting(transport, rank, moved), rank, 2, TABLE.astype(np.float32)).cast(dtype)
            found += [table.look_up(tf.constant(SOURCE[rank])), moved.numpy()]
        return found

    for rank, (_, whole_bytes, rows, half_bytes) in enumerate(Threads(2).run(work)):
        np.testing.assert_array_equal(rows, tf.gather(tf.cast(TABLE, tf.bfloat16), SOURCE[rank]))
        assert half_bytes < whole_bytes


def test_bytes_are_those_of_the_formula(monkeypatch):
    """I46: (N - 1) / N of 2 D + 5 numbers for each token of all ranks, and what each look-up asks of others."""
    size, number = 3, 8
    monkeypatch.setattr(output, "CHUNK_ROWS", MOST_ROWS)

    def work(transport, rank):
        moved = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        table = sharded(counting(transport, rank, moved), rank, size)
        states, ids = batch(rank)
        losses_and_gradients(table, states, BIAS, ids)
        output_bytes = moved.numpy()
        kernel = table.rows
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            found = layers.embed(dataclasses.replace(table, rows=kernel), tf.constant(SOURCE[rank]))
        tape.gradient(found, kernel)
        return output_bytes, moved.numpy() - output_bytes

    found = Threads(size).run(work)
    tokens, share = sum(TOKENS[:size]), (size - 1) / size
    integers = 4 * size * (size - 1) + 4 * (size - 1) * tokens  # counts and tokens
    column_sums = size * 2 * share * (D + 1) * number
    expected = (size - 1) * tokens * (2 * D + 3 + 1) * number + integers + column_sums
    assert sum(each[0] for each in found) == pytest.approx(expected, rel=1e-12)
    bounds = shard_bounds(V, size)
    asked = 0
    for rank, ids in enumerate(SOURCE):
        owners = np.searchsorted(bounds, np.unique(ids), side="right") - 1
        asked += np.sum(owners != rank)
    assert sum(each[1] for each in found) == asked * (4 + 2 * D * number)
