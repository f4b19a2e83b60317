"""A rank's part of every vector, and whole vectors made of all parts."""

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tfnmt.engines.vocabulary_shards import VocabularyShard
from tfnmt.layout import Layout, Parameter


def zeros(shape, seed):
    return tf.zeros(shape)


PARAMETERS = [
    Parameter("first", (7,), zeros),
    Parameter("source", (5, 3), zeros, by_token=True),
    Parameter("between", (20,), zeros),
    Parameter("target", (11, 2), zeros, by_token=True),
    Parameter("last", (2, 2), zeros),
]
WHOLE = Layout(PARAMETERS)


def shards(ranks, layout=WHOLE):
    return [VocabularyShard(layout, rank, ranks, is_parallel=True) for rank in range(ranks)]


def vectors():
    """As a state has them, with an age."""
    random = np.random.default_rng(1)
    arrays = {each.name: random.normal(size=each.shape) for each in PARAMETERS}
    parameters = WHOLE.pack_arrays(arrays)
    return {"parameters": parameters, "m": -parameters, "updates": np.array(3)}


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_parts_make_up_the_whole(ranks):
    whole, parts = vectors(), shards(ranks)
    cut = [part.cut(whole) for part in parts]
    assert all(each["parameters"].shape == (part.layout.size,) for part, each in zip(parts, cut))
    rows = {name: found for part, each in zip(parts, cut) for name, found in part.rows(each).items()}
    for part, each in zip(parts, cut):
        joined = part.join(each, rows)
        assert joined.keys() == whole.keys()
        for name, vector in whole.items():
            np.testing.assert_array_equal(joined[name], vector)


def test_every_row_is_of_one_rank():
    assert sum(part.layout.parameter_count for part in shards(3)) == WHOLE.parameter_count + 2 * (7 + 20 + 4)


def test_one_rank_has_everything():
    """I43: nothing is sharded, so that training is the plain one bit for bit."""
    (alone,) = shards(1)
    whole = vectors()
    assert not alone.tables and alone.layout.size == WHOLE.size
    assert alone.cut(whole) == whole and alone.rows(whole) == {}
    assert alone.recipe("a recipe", None) == "a recipe"


def test_initial_values_are_those_of_the_whole():
    layout = Layout(toy.TableModel.parameters)
    whole = layout.unpack_array(layout.initialize(4, tf.float64).numpy())
    for part, (first, behind) in zip(shards(2, layout), [(0, 5), (5, 11)]):
        own = part.layout.unpack_array(part.layout.initialize(4, tf.float64).numpy())
        np.testing.assert_array_equal(own.pop("embedding"), whole["embedding"][first:behind])
        assert all((value == whole[name]).all() for name, value in own.items())


def test_elements_of_what_all_hold_have_names():
    """However many rows of the tables before them a rank has."""
    common = Layout([parameter for parameter in PARAMETERS if not parameter.by_token])
    for part in shards(2):
        names = [part.layout.name_at(part.place_of(element)) for element in range(common.size)]
        assert names == [common.name_at(element) for element in range(common.size)]
        assert part.place_of(-1) == -1
