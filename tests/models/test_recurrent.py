import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from graphs.forward_backward import forward_backward
from tests.models.contract import VOCABULARY_SIZE, ModelContract, make_batch, matrix_operations
from tfnmt.errors import UserError
from tfnmt.layout import Layout
from tfnmt.models.additive_attention import KEYS, MEMORY, AdditiveAttention
from tfnmt.models.attention import padding_bias
from tfnmt.models.dropout import SentenceDropout
from tfnmt.models.recurrence import multiply_by
from tfnmt.models.recurrent import Recurrent, RecurrentSettings

SHALLOW = RecurrentSettings(width=8, embedding_width=6, attention_width=5, encoder_layers=1, decoder_layers=1)


class RecurrentContract(ModelContract):
    settings = SHALLOW

    def build(self, settings):
        return Recurrent(settings, VOCABULARY_SIZE, VOCABULARY_SIZE)


class TestShallow(RecurrentContract):
    def test_operations_are_those_of_the_products(self):
        settings = dataclasses.replace(SHALLOW, width=64, embedding_width=32, attention_width=32)
        model = Recurrent(settings, 500, 500)
        layout, batch = Layout(model.parameters), make_batch([30], [20])
        vector = layout.initialize(1)
        counted = matrix_operations(lambda: forward_backward(model.loss, layout, vector, batch, None))
        expected = model.operations_per_pair(30, 20)
        assert expected <= counted <= 1.1 * expected


class TestDeep(RecurrentContract):
    settings = dataclasses.replace(
        SHALLOW,
        width=16,  # the normalization of fewer states magnifies the rounding of bfloat16
        encoder_layers=2,
        decoder_layers=2,
        encoder_type="alternating",
        transition_depth=2,
        recurrent_normalization=True,
        tied_embeddings="target",
    )


class TestLongShortTermMemoryAndEveryDropout(RecurrentContract):
    settings = dataclasses.replace(
        SHALLOW,
        cell="lstm",
        encoder_layers=2,
        decoder_layers=2,
        tied_embeddings="none",
        state_dropout=0.2,
        word_dropout=0.2,
    )


def test_attention_is_the_equation_of_the_paper():
    attention = AdditiveAttention("attention", 4, 6, 5, normalized=False)
    layout = Layout(attention.parameters())
    views = layout.unpack_array(np.random.default_rng(0).normal(size=layout.size))
    memory, hidden = np.random.default_rng(1).normal(size=(2, 3, 6)), np.random.default_rng(2).normal(size=(4, 4))
    mask = np.array([[True, True, True], [True, False, False]])
    tensors = {name: tf.constant(view) for name, view in views.items()}
    tensors |= {MEMORY: tf.constant(memory)}
    tensors |= {KEYS: attention.keys(multiply_by(tensors), tensors, tensors[MEMORY])}
    bias = padding_bias(tf.constant(mask), tf.float64)[:, 0]
    contexts, weights = attention.read(multiply_by(tensors), tensors, tf.constant(hidden), bias)
    for row, query in enumerate(hidden):  # two queries for each of two sentences
        sentence = row // 2
        read = memory[sentence][mask[sentence]]
        keys = read @ views["attention/key/kernel"] + views["attention/key/bias"]
        energies = np.tanh(query @ views["attention/query/kernel"] + keys) @ views["attention/energy"]
        shares = np.exp(energies) / np.sum(np.exp(energies))
        np.testing.assert_allclose(weights[sentence, row % 2].numpy()[mask[sentence]], shares, rtol=1e-10)
        np.testing.assert_allclose(contexts[row], shares @ read, rtol=1e-10)


def test_dropout_takes_the_same_elements_at_all_positions_of_a_sentence():
    dropped = SentenceDropout(0.5, tf.constant([1, 2]))(tf.ones([4, 3, 50])).numpy()
    assert np.all(dropped == dropped[:1])
    assert set(np.unique(dropped)) == {0, 2}
    assert not np.array_equal(dropped[0, 0], dropped[0, 1])


def test_both_directions_of_the_encoder_reach_every_annotation():
    model = Recurrent(SHALLOW, VOCABULARY_SIZE, VOCABULARY_SIZE)
    views = Layout(model.parameters).unpack(Layout(model.parameters).initialize(1, tf.float64))
    ids = make_batch(source_lengths=(5,)).source_ids
    before = model.encode(views, ids).annotations.numpy()[0]
    changed = tf.tensor_scatter_nd_update(ids, [[0, 2]], [ids[0, 2] % (VOCABULARY_SIZE - 4) + 4])
    behind = model.encode(views, changed).annotations.numpy()[0]
    differs = np.any(before != behind, axis=-1)
    assert differs.all()
    forward, backward = (np.any((before != behind)[:, half], axis=-1) for half in (slice(0, 8), slice(8, 16)))
    np.testing.assert_array_equal(forward, [False, False, True, True, True])
    np.testing.assert_array_equal(backward, [True, True, True, False, False])


def test_faults_come_together_and_name_their_flags():
    settings = RecurrentSettings(cell="rnn", transition_depth=0, encoder_type="left", state_dropout=1.0)
    with pytest.raises(UserError) as error:
        Recurrent(settings, 20, 30)
    flags = [
        "--cell=rnn",
        "--transition_depth=0",
        "--encoder_type=left",
        "--state_dropout=1.0",
        "--tied_embeddings=all",
    ]
    assert all(flag in str(error.value) for flag in flags)
    assert len(error.value.faults) == len(flags)


@pytest.mark.parametrize("name", ["shallow", "deep"])
def test_presets_are_settings(name):
    lines = pathlib.Path(f"configs/recurrent_{name}.flags").read_text().splitlines()
    flags = [line.removeprefix("--").partition("=") for line in lines if line.startswith("--")]
    assert ("model", "=", "recurrent") in flags
    assert {flag for flag, *_ in flags} - {field.name for field in dataclasses.fields(RecurrentSettings)} == {"model"}
