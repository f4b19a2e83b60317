"""A rank's part of every vector, and whole vectors made of all parts."""

import numpy as np
import pytest
import tensorflow as tf

from graphs.forward_backward import forward_backward
from tests import toy
from tests.graphs.threads import Threads
from tests.models.contract import VOCABULARY_SIZE, make_batch
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.vocabulary_shards import VocabularyShard
from tfnmt.layout import Layout, Parameter
from tfnmt.models.recurrent import Recurrent, RecurrentSettings
from tfnmt.models.transformer import Transformer, TransformerSettings


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
    return [VocabularyShard(layout, rank, ranks) for rank in range(ranks)]


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


LAYERS = {"encoder_layers": 1, "decoder_layers": 1}
MODELS = {
    **{
        f"transformer_{tied}": (
            Transformer,
            TransformerSettings(width=8, heads=2, feed_forward_width=12, tied_embeddings=tied, **LAYERS),
        )
        for tied in ("all", "target", "none")
    },
    "recurrent": (Recurrent, RecurrentSettings(width=6, embedding_width=4, attention_width=5, **LAYERS)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_s_loss_and_all_its_gradients_are_those_of_whole_tables(name):
    """I42, on three ranks with batches of unequal size and a vocabulary that three does not divide."""
    make, settings = MODELS[name]
    model = make(settings, VOCABULARY_SIZE, VOCABULARY_SIZE)
    layout = Layout(model.parameters)
    parts, whole = shards(3, layout), {"vector": layout.initialize(1, tf.float64).numpy()}
    batches = [make_batch(target_lengths=lengths, seed=lengths[0]) for lengths in ((5, 3, 7), (2, 9, 4), (8, 6, 1))]

    def gradients(loss, layout, vectors, batch):
        gradient, sums = forward_backward(loss, layout, tf.constant(vectors["vector"]), batch, None)
        return layout.unpack_array(gradient.numpy()), [float(each) for each in sums]

    def work(transport, rank):
        recipe = parts[rank].recipe(Recipe(model, layout, (), None, None, None), transport)
        return gradients(recipe.model.loss, recipe.layout, parts[rank].cut(whole), batches[rank])

    found = Threads(3).run(work)
    expected = [gradients(model.loss, layout, whole, batch) for batch in batches]
    np.testing.assert_allclose([sums for _, sums in found], [sums for _, sums in expected], rtol=1e-12)
    assert len(parts[0].tables) == {"transformer_none": 3, "transformer_target": 2, "recurrent": 1}.get(name, 1)
    for parameter in layout.parameters:
        own = [views[parameter.name] for views, _ in found]
        one = np.concatenate(own) if parameter.name in parts[0].tables else sum(own)
        other = sum(views[parameter.name] for views, _ in expected)
        assert np.abs(one - other).max() < 1e-12 * max(1, np.abs(other).max()), parameter.name
