"""The layout: packing, alignment, shards, names."""

import numpy as np
import pytest
import tensorflow as tf

from tfnmt.layout import ALIGNMENT, Layout, Parameter


def ones(shape, seed):
    return tf.ones(shape)


def parameters():
    return [
        Parameter("a", (3, 2), ones),
        Parameter("b", (), ones),
        Parameter("c", (16,), ones),
        Parameter("d", (5,), ones),
    ]


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_pack_and_unpack_are_inverse(shards):
    layout = Layout(parameters(), shards)
    arrays = {p.name: np.random.default_rng(0).normal(size=p.shape) for p in layout.parameters}
    vector = layout.pack({name: tf.constant(array) for name, array in arrays.items()}).numpy()
    np.testing.assert_array_equal(layout.pack_arrays(arrays), vector)
    assert vector.shape == (layout.size,)
    for name, array in arrays.items():
        np.testing.assert_array_equal(layout.unpack(tf.constant(vector))[name], array)
        np.testing.assert_array_equal(layout.unpack_array(vector)[name], array)
    assert np.count_nonzero(vector) == layout.parameter_count == 28


def test_views_of_whole_lines_are_no_copies():
    """Of 64 bytes each; the negative control is a piece that begins elsewhere."""
    layout = Layout([*parameters(), Parameter("e", (2, 3, ALIGNMENT), ones)])
    vector = tf.random.normal([layout.size])

    def is_view(array):
        return np.shares_memory(np.asarray(memoryview(array)), np.asarray(memoryview(vector)))

    views = tf.function(layout.unpack)(vector)
    assert is_view(views["c"]) and is_view(views["e"])
    assert not is_view(tf.split(vector, [ALIGNMENT + 1, -1])[1])


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_parameters_are_aligned_and_shards_equal(shards):
    layout = Layout(parameters(), shards)
    assert all(offset % ALIGNMENT == 0 for offset in layout.offsets)
    assert layout.size % (shards * ALIGNMENT) == 0
    assert layout.size - layout.offsets[-1] < shards * ALIGNMENT


@pytest.mark.parametrize("pieces, names", [(1, ["abcd"]), (2, ["ab", "cd"]), (9, ["a", "b", "c", "d"])])
def test_pieces_make_up_the_whole(pieces, names):
    layout = Layout(parameters())
    arrays = {p.name: tf.constant(np.random.default_rng(0).normal(size=p.shape)) for p in layout.parameters}
    parts = layout.split(pieces)
    assert ["".join(p.name for p in part.parameters) for part in parts] == names
    np.testing.assert_array_equal(np.concatenate([part.pack(arrays) for part in parts]), layout.pack(arrays))


def test_pieces_beside_parameters_that_stay_whole():
    """They are cut at the same places however large those are."""
    found = []
    for rows in (1, 1000):
        shapes = {"a": (20,), "table": (rows, 3), "b": (40,), "c": (20,)}
        layout = Layout([Parameter(name, shape, ones) for name, shape in shapes.items()])
        parts = layout.split(2, {"table"})
        assert sum(part.size for part in parts) == layout.size
        found.append(["".join(parameter.name for parameter in part.parameters) for part in parts])
    assert found == [["a", "table", "b", "c"]] * 2


def test_name_at_finds_the_owner():
    layout = Layout(parameters())
    names = [layout.name_at(index) for index in (0, 5, 16, 32, 47, 48, 52)]
    assert names == ["a", "a", "b", "c", "c", "d", "d"]


def test_one_name_twice_is_refused():
    with pytest.raises(ValueError, match="unique"):
        Layout([Parameter("a", (1,), ones), Parameter("a", (2,), ones)])


def test_initial_values_depend_on_seed_and_place_only():
    def normal(shape, seed):
        return tf.random.stateless_normal(shape, seed)

    two = [Parameter("a", (4,), normal), Parameter("b", (4,), normal)]
    vector = Layout(two).initialize(1)
    np.testing.assert_array_equal(vector, Layout(two, shards=1).initialize(1))
    assert not np.array_equal(vector, Layout(two).initialize(2))
    views = Layout(two).unpack(vector)
    assert not np.array_equal(views["a"], views["b"])
