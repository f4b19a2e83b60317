"""The ring-allreduce subgraph between threads of this process."""

import numpy as np
import pytest
import tensorflow as tf

from graphs.encodings import DENSE, Half, Integers
from graphs.ring_allreduce import exchange_numbers, pack_sums, parameter_sums, ring_allgather, ring_allreduce
from tests import toy
from tests.graphs.threads import Threads

WEIGHTS = (2.0, 3.0, 5.0)
VECTORS = np.arange(24.0).reshape(3, 8) / 7


def scalar(number):
    return tf.constant(number, tf.float64)


def reduce(vectors, weights=WEIGHTS, encoding=DENSE, weighted=False):
    """Each rank's payload, of two variables, and its table, behind the reduction."""

    def work(transport, rank):
        payload = [tf.Variable(part) for part in np.split(vectors[rank], 2)]
        numbers = tf.constant([10.0 * rank], tf.float64)
        table = ring_allreduce(transport, payload, scalar(weights[rank]), numbers, encoding, weighted)
        return np.concatenate(payload), table.numpy()

    return Threads(len(vectors)).run(work)


def test_all_ranks_get_the_sum_and_everybody_s_numbers():
    for payload, table in reduce(VECTORS):
        np.testing.assert_allclose(payload, VECTORS.sum(axis=0), rtol=1e-15)
        squares = [np.sum(vector**2) for vector in VECTORS]
        expected = [[weight, -1, squares[rank], 10 * rank] for rank, weight in enumerate(WEIGHTS)]
        np.testing.assert_allclose(table, expected, rtol=1e-15)


@pytest.mark.parametrize("weights, shares", [((2.0, 3.0, 5.0), (1.0, 1.5, 2.5)), ((0.0, 4.0, 2.0), (0.0, 1.0, 0.5))])
def test_a_mean_is_summed_as_often_as_it_counts_beside_the_first(weights, shares):
    for payload, table in reduce(VECTORS, weights, weighted=True):
        np.testing.assert_allclose(payload, shares @ VECTORS, rtol=1e-15)
        assert table[:, 0].tolist() == list(shares)
        assert table[:, 3].tolist() == [0, 10, 20]


def test_means_that_count_alike_are_summed_bit_for_bit_as_without_weights():
    """Though 0.3 of a number and the third of it are not."""
    for (payload, _), (other, table) in zip(reduce(VECTORS), reduce(VECTORS, (0.3, 0.3, 0.3), weighted=True)):
        np.testing.assert_array_equal(payload, other)
        assert table[:, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("weights, shares", [((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)), ((2.0, 0.0, 5.0), (1.0, 0.0, 2.5))])
def test_gathered_means_count_as_summed_ones_do(weights, shares):
    """They were encoded with a weight of one."""
    vectors = np.sign(np.arange(24.0).reshape(3, 8) - 11.5)  # of which 8-bit integers lose nothing
    encoding = Integers(8)

    def work(transport, rank):
        payload = [tf.Variable(encoding.encode(tf.constant(vectors[rank]), scalar(1.0)))]
        total, numbers = tf.Variable(np.zeros(8)), tf.constant([10.0 * rank], tf.float64)
        arguments = (transport, payload, scalar(weights[rank]), numbers, [total], encoding, True)
        table = ring_allgather(*arguments)
        return total.numpy(), table.numpy()

    for total, table in Threads(3).run(work):
        np.testing.assert_allclose(total, shares @ vectors, rtol=1e-6)
        assert table[:, 0].tolist() == list(shares)


@pytest.mark.parametrize("bad, place", [(np.nan, 5), (-np.inf, 0)])
def test_a_payload_that_is_not_finite_is_left_out_and_named(bad, place):
    vectors = VECTORS.copy()
    vectors[1, place] = bad
    for payload, table in reduce(vectors):
        np.testing.assert_allclose(payload, VECTORS[0] + VECTORS[2], rtol=1e-15)
        assert table[:, [0, 1, 3]].tolist() == [[2, -1, 0], [0, place, 10], [5, -1, 20]]


def test_a_payload_without_weight_is_left_out():
    for payload, table in reduce(VECTORS, (2.0, 3.0, 0.0)):
        np.testing.assert_allclose(payload, VECTORS[0] + VECTORS[1], rtol=1e-15)
        assert table[:, 0].tolist() == [2, 3, 0]


def test_in_16_bits_a_sum_is_near_however_large_it_is():
    """Squares of such sums, and the sums themselves, would overflow: what travels is a mean."""
    scale = 1e6
    for payload, _ in reduce(scale * VECTORS, tuple(scale * weight for weight in WEIGHTS), encoding=Half()):
        error = np.abs(payload - scale * VECTORS.sum(axis=0)).max() / scale
        assert 0 < error < 1e-2


def sum_in_pieces(gradients):
    """Each rank's vector of sums and its table; their numbers are the ranks."""
    layout = toy.layout()

    def work(transport, rank):
        seen = tf.Variable([-1.0, 0.0], dtype=tf.float64)
        sums = pack_sums(transport, layout, 2, seen, gradients[rank])
        numbers = tf.constant([float(rank)], tf.float64)
        table = exchange_numbers(transport, [tf.Variable(sums)], scalar(WEIGHTS[rank]), numbers, seen)
        return sums.numpy(), table.numpy()

    return layout, Threads(len(gradients)).run(work)


def gradients_of(rank):
    shapes = {parameter.name: parameter.shape for parameter in toy.layout().parameters}
    random = np.random.default_rng(rank)
    return {name: tf.constant(random.normal(size=shape)) for name, shape in shapes.items()}


def test_pieces_make_the_whole_sum():
    gradients = [gradients_of(rank) for rank in range(2)]
    layout, found = sum_in_pieces(gradients)
    for sums, table in found:
        np.testing.assert_allclose(sums, layout.pack(gradients[0]) + layout.pack(gradients[1]), rtol=1e-15)
        squares = [np.sum(layout.pack(each).numpy() ** 2) for each in gradients]
        np.testing.assert_allclose(table, [[2, -1, squares[0], 0], [3, -1, squares[1], 1]], rtol=1e-14)


def test_with_pieces_one_bad_gradient_spoils_the_sum_and_is_named():
    gradients = [gradients_of(rank) for rank in range(2)]
    gradients[1]["bias"] *= np.nan
    layout, found = sum_in_pieces(gradients)
    for _, table in found:
        assert table[:, 0].tolist() == [0, 0]
        assert table[0, 1] == -1
        assert layout.name_at(int(table[1, 1])) == "bias"


def test_sums_of_parameters_tell_copies_apart():
    layout = toy.layout()
    vector = tf.Variable(layout.pack(gradients_of(0)))
    before = parameter_sums(layout, vector.read_value()).numpy()
    place = layout.offsets[1]
    vector[place].assign(np.nextafter(vector[place].numpy(), np.inf))
    differs = parameter_sums(layout, vector.read_value()).numpy() != before
    assert [parameter.name for parameter, each in zip(layout.parameters, differs) if each] == ["transform"]
