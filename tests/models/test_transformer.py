import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from graphs.forward_backward import forward_backward
from tests.models.contract import VOCABULARY_SIZE, ModelContract, make_batch, matrix_operations
from tfnmt.errors import UserError
from tfnmt.layout import Layout
from tfnmt.models import layers
from tfnmt.models.transformer import Transformer, TransformerSettings

SMALL = TransformerSettings(width=16, encoder_layers=2, decoder_layers=2, heads=2, feed_forward_width=24)


class TransformerContract(ModelContract):
    settings = SMALL

    def build(self, settings):
        return Transformer(settings, VOCABULARY_SIZE, VOCABULARY_SIZE)


class TestPreNorm(TransformerContract):
    def test_operations_are_those_of_the_products(self):
        settings = dataclasses.replace(SMALL, width=64, feed_forward_width=256)
        model = Transformer(settings, 500, 500)
        layout = Layout(model.parameters)
        source_length, target_length = 30, 20
        batch = make_batch([source_length], [target_length])
        vector = layout.initialize(1)
        counted = matrix_operations(lambda: forward_backward(model.loss, layout, vector, batch, None))
        expected = model.operations_per_pair(source_length, target_length)
        assert expected <= counted <= 1.1 * expected


class TestPostNorm(TransformerContract):
    settings = dataclasses.replace(SMALL, normalization="post", encoder_layers=1)


class TestSeparateEmbeddingsAndEveryDropout(TransformerContract):
    settings = dataclasses.replace(
        SMALL,
        tied_embeddings="none",
        encoder_layers=2,
        decoder_layers=1,
        attention_dropout=0.2,
        feed_forward_dropout=0.3,
    )


class TestTargetTied(TransformerContract):
    settings = dataclasses.replace(SMALL, tied_embeddings="target", encoder_layers=1, decoder_layers=1)


def test_encoder_layer_is_the_equation_of_the_paper():
    """One encoder layer after the equations of sections 3.1 to 3.4, against the keys that the decoder reads."""
    settings = dataclasses.replace(SMALL, normalization="post", encoder_layers=1, decoder_layers=1)
    model = Transformer(settings, VOCABULARY_SIZE, VOCABULARY_SIZE)
    layout = Layout(model.parameters)
    vector = layout.initialize(1).numpy().astype(np.float64)
    vector += 0.1 * np.random.default_rng(0).normal(size=layout.size)
    views, batch = layout.unpack_array(vector), make_batch([5])

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * views[f"{name}/scale"] + views[f"{name}/offset"]

    def dense(name, x):
        return x @ views[f"{name}/kernel"] + views[f"{name}/bias"]

    width, length = settings.width, 5
    rates = 10_000.0 ** (-np.arange(width // 2) / (width // 2 - 1))
    angles = np.arange(length)[:, None] * rates
    x = views["embedding"][batch.source_ids.numpy()[0]] * np.sqrt(width)
    x = x + np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    queries, keys, values = np.split(dense("encoder/0/self_attention/query_key_value", x), 3, axis=1)
    heads = []
    for columns in (slice(0, 8), slice(8, 16)):
        scores = np.exp(queries[:, columns] @ keys[:, columns].T / np.sqrt(8))
        heads.append(scores / scores.sum(1, keepdims=True) @ values[:, columns])
    x = norm("encoder/0/self_attention/norm", x + dense("encoder/0/self_attention/output", np.concatenate(heads, 1)))
    hidden = np.maximum(dense("encoder/0/feed_forward/hidden", x), 0)
    x = norm("encoder/0/feed_forward/norm", x + dense("encoder/0/feed_forward/output", hidden))
    expected_keys, expected_values = np.split(dense("decoder/memory", x), 2, axis=1)
    memory = model.encode(layout.unpack(tf.constant(vector)), batch.source_ids)
    np.testing.assert_allclose(memory.keys[0][0], expected_keys, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(memory.values[0][0], expected_values, rtol=1e-5, atol=1e-6)


def test_spare_columns_change_nothing(monkeypatch):
    model = Transformer(dataclasses.replace(SMALL, feed_forward_width=1024), VOCABULARY_SIZE, VOCABULARY_SIZE)
    layout = Layout(model.parameters)
    vector = tf.cast(layout.initialize(1), tf.float64)
    gradient, sums = forward_backward(model.loss, layout, vector, make_batch(), None)
    assert layers.spare_columns(1024) > 0
    monkeypatch.setattr(layers, "spare_columns", lambda width: 0)
    plain_gradient, plain_sums = forward_backward(model.loss, layout, vector, make_batch(), None)
    np.testing.assert_allclose(sums.loss, plain_sums.loss, rtol=1e-12)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-9, atol=1e-12)


def test_bad_settings_are_refused_together():
    settings = dataclasses.replace(SMALL, heads=3)
    with pytest.raises(UserError) as error:
        Transformer(settings, 10, 12)
    assert [fault.split("=")[0] for fault in error.value.faults] == ["--heads", "--tied_embeddings"]


@pytest.mark.parametrize(
    ("preset", "width", "feed_forward_width", "layers", "heads", "dropout"),
    [
        ("tiny", 64, 256, 2, 4, 0.1),
        ("small", 256, 1024, 3, 4, 0.1),
        ("base", 512, 2048, 6, 8, 0.1),
        ("big", 1024, 4096, 6, 16, 0.3),
    ],
)
def test_presets(preset, width, feed_forward_width, layers, heads, dropout):
    configs = pathlib.Path(__file__).parents[2] / "configs"
    lines = (configs / f"transformer_{preset}.flags").read_text().splitlines()
    flags = dict(line[2:].split("=") for line in lines if line.startswith("--"))
    assert flags == {
        "model": "transformer",
        "encoder_layers": str(layers),
        "decoder_layers": str(layers),
        "width": str(width),
        "feed_forward_width": str(feed_forward_width),
        "heads": str(heads),
        "dropout": str(dropout),
    }
