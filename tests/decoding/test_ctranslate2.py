"""Exports for CTranslate2 translate as the run does, and one that does not is refused."""

import dataclasses
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.decoding import trained_transformer
from tfnmt.decoding import ctranslate2_format
from tfnmt.decoding.beam_search import length_limits
from tfnmt.decoding.ctranslate2_export import (
    CheckedExport,
    CheckText,
    DifferentError,
    refuse_what_cannot_be_exported,
)
from tfnmt.decoding.ctranslate2_format import QUANTIZATIONS, length_limit, positions_of, write
from tfnmt.decoding.ctranslate2_translator import CTranslate2Translator
from tfnmt.decoding.loading import TrainedSettings, load
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.errors import UserError
from tfnmt.models import layers
from tfnmt.models.recurrent import Recurrent, RecurrentSettings

PAIRS = trained_transformer.lines(60, seed=3)
LINES = [source for source, _ in PAIRS]
GREEDY = DecodingSettings(beam_size=1, longest_source_tokens=24)
TEXT = CheckText(("lines",), LINES, [target for _, target in PAIRS], "de")
SHAPE = trained_transformer.SHAPE


def trained(run):
    return load(TrainedSettings(run_directory=(str(run.path),)))


@pytest.fixture(name="pre", scope="module")
def _pre(tmp_path_factory):
    """Normalization before each layer, all tables tied."""
    return trained(trained_transformer.make_run(tmp_path_factory.mktemp("pre") / "corpus", SHAPE))


def exported(model, directory, quantization="float32", settings=GREEDY):
    directory.mkdir()
    vocabularies = (model.source_vocabulary, model.target_vocabulary)
    arrays = model.layouts[0].unpack_array(model.vectors[0])
    write(directory, model.models[0].settings, arrays, vocabularies, positions_of(settings), quantization)
    return directory


def translations(model, settings, lines=LINES):
    return model.translator(settings).translate(model.vectors, lines)


@pytest.fixture(name="post", scope="module")
def _post(tmp_path_factory):
    """Normalization behind each layer, all tables apart."""
    shape = dataclasses.replace(SHAPE, normalization="post", tied_embeddings="none")
    return trained(trained_transformer.make_run(tmp_path_factory.mktemp("post") / "corpus", shape, joint=False))


@pytest.mark.parametrize("shape", ["pre", "post"])
def test_an_export_translates_as_the_run_does(tmp_path, request, shape):
    model = request.getfixturevalue(shape)
    directory = exported(model, tmp_path / "exported")
    lines = [*LINES, "", "  ", "a man and a girl and two dogs run " * 9]
    expected, found = translations(model, GREEDY, lines), CTranslate2Translator(directory, GREEDY).translate(lines)
    assert [best.text for best, *_ in found] == [best.text for best, *_ in expected]
    assert [best.tokens for best, *_ in found] == [best.tokens for best, *_ in expected]
    assert len({best.text for best, *_ in found}) > len(LINES) / 2  # the translations are no trivial ones
    beam = dataclasses.replace(GREEDY, beam_size=4)
    expected, found = translations(model, beam, lines), CTranslate2Translator(directory, beam).translate(lines)
    same = [(ours, theirs) for (ours, *_), (theirs, *_) in zip(expected, found) if ours.tokens == theirs.tokens]
    assert len(same) >= 0.9 * len(lines)
    for ours, theirs in same:
        # The package leaves forbidden tokens out of the probabilities, which little training gives some; a sentence
        # that reached its limit lacks the score of its end.
        if len(ours.tokens) < 12:
            assert theirs.score == pytest.approx(ours.score, rel=0.1, abs=0.02)
            assert theirs.log_probability == pytest.approx(ours.log_probability, rel=0.1, abs=0.02)


def test_several_translations_of_a_sentence(pre, tmp_path):
    settings = dataclasses.replace(GREEDY, beam_size=4, nbest=3, length_penalty=1.0)
    found = CTranslate2Translator(exported(pre, tmp_path / "exported"), settings).translate(LINES)
    for hypotheses in found:
        assert len({each.text for each in hypotheses}) == len(hypotheses) <= 3
        assert sorted(hypotheses, key=lambda each: -each.score) == hypotheses
    assert sum(map(len, found)) > 2.5 * len(LINES)
    best = [ours[0].text == theirs[0].text for ours, theirs in zip(translations(pre, settings), found)]
    assert sum(best) >= 0.9 * len(LINES)


def test_neither_batches_nor_threads_change_translations(pre, tmp_path):
    directory = exported(pre, tmp_path / "exported")
    told = []
    first = CTranslate2Translator(directory, GREEDY, 1).translate(LINES, lambda *numbers: told.append(numbers))
    assert sum(sentences for sentences, _ in told) == len(LINES)
    assert sum(tokens for _, tokens in told) == sum(len(best.tokens) for best, *_ in first)
    small = dataclasses.replace(GREEDY, decoding_batch_sentences=3, concurrent_batches=2)
    for ours, theirs in zip(first, CTranslate2Translator(directory, small, 2).translate(LINES)):
        assert ours[0].text == theirs[0].text


def test_limits_are_those_of_the_search():
    settings = DecodingSettings(max_length_factor=1.7, max_length_constant=3)
    ids = tf.sequence_mask(tf.range(1, 60), 60, tf.int32)
    assert [length_limit(length, settings) for length in range(1, 60)] == length_limits(ids, settings).numpy().tolist()


@pytest.fixture(name="checked", scope="module")
def _checked(pre):
    return CheckedExport(pre, GREEDY, TEXT, None)


def test_an_equal_export_is_left(checked, tmp_path):
    found = checked.write(tmp_path, "float32", 0.5)
    assert found.equal == len(LINES) and found.scores == found.exported_scores and found.scores.bleu > 5


def _later_positions(monkeypatch):
    """The table of positions that the package would make, as far as where it begins."""
    positions = layers.positions
    later = lambda first, *rest: positions(first + 1, *rest)  # noqa: E731
    monkeypatch.setattr(ctranslate2_format.layers, "positions", later)


def _exchanged_keys_and_values(monkeypatch):
    fill = ctranslate2_format._fill_dense

    def exchanged(spec, arrays, name, outputs=slice(None)):
        fill(spec, arrays, name, outputs)
        if name == "decoder/memory":
            spec.weight = np.roll(spec.weight, len(spec.weight) // 2, axis=0)

    monkeypatch.setattr(ctranslate2_format, "_fill_dense", exchanged)


@pytest.mark.parametrize("quantization", ["float32", "int8"])
@pytest.mark.parametrize("mistake", [_later_positions, _exchanged_keys_and_values])
def test_a_wrong_export_is_refused(checked, tmp_path, monkeypatch, mistake, quantization):
    """The negative controls: in int8, too, it is no matter of BLEU."""
    mistake(monkeypatch)
    with pytest.raises(DifferentError, match="Sentence") as error:
        checked.write(tmp_path, quantization, 100)
    place = int(str(error.value).split(",")[0].removeprefix("Sentence ")) - 1
    assert f"{LINES[place]!r}, becomes " in str(error.value) and " and, exported, " in str(error.value)


def test_arithmetic_of_training_is_no_difference(pre, tmp_path):
    """A run that computes in bfloat16 is compared in float32, as its export computes."""
    settings = dataclasses.replace(pre.models[0].settings, precision="bfloat16")
    model = type(pre.models[0])(settings, pre.source_vocabulary.size, pre.target_vocabulary.size)
    found = CheckedExport(pre._replace(models=[model]), GREEDY, TEXT, None).write(tmp_path, "float32", 0.5)
    assert found.equal == len(LINES)


@pytest.mark.parametrize("quantization", QUANTIZATIONS[1:])
def test_quantized_exports_are_smaller(pre, checked, tmp_path, quantization):
    before = pre.vectors[0].copy()
    (tmp_path / "small").mkdir()
    found = checked.write(tmp_path / "small", quantization, 5)
    np.testing.assert_array_equal(pre.vectors[0], before)
    assert found.equal > 0.7 * len(LINES)
    exact = (exported(pre, tmp_path / "exact") / "model.bin").stat().st_size
    share = (tmp_path / "small" / "model.bin").stat().st_size / exact
    # A kernel of 32 columns has a scale for each row, and there are the names.
    assert share < {"float16": 0.6, "bfloat16": 0.6, "int16": 0.7}.get(quantization, 0.55)


def test_a_quantized_export_that_costs_too_much_is_refused(checked, tmp_path, monkeypatch):
    def write_badly(*arguments):
        if arguments[-1] == "int8":
            _later_positions(monkeypatch)
        write(*arguments)

    monkeypatch.setattr("tfnmt.decoding.ctranslate2_export.write", write_badly)
    with pytest.raises(
        DifferentError, match=r"--quantization=int8 costs more BLEU than --largest_bleu_loss=0.5: .*"
    ) as error:
        checked.write(tmp_path, "int8", 0.5)
    assert "Sentence" in str(error.value)


def test_what_has_no_such_format(pre):
    refuse_what_cannot_be_exported(pre)
    settings = RecurrentSettings(width=8, encoder_layers=1, decoder_layers=1)
    recurrent = Recurrent(settings, pre.source_vocabulary.size, pre.target_vocabulary.size)
    with pytest.raises(UserError, match=r"no Transformer.*--format=savedmodel"):
        refuse_what_cannot_be_exported(pre._replace(models=[recurrent]))
    with pytest.raises(UserError, match="tfnmt-average"):
        refuse_what_cannot_be_exported(pre._replace(models=pre.models * 2, names=["one", "two"]))


def test_a_missing_package(pre, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(UserError, match=r"install it with .*set_up --tests"):
        refuse_what_cannot_be_exported(pre)


def test_folders_that_cannot_be_used(pre, tmp_path):
    with pytest.raises(UserError, match=r"found no model.bin; tfnmt-export --format=ctranslate2"):
        CTranslate2Translator(tmp_path, GREEDY)
    directory = exported(pre, tmp_path / "exported")
    longer = dataclasses.replace(GREEDY, longest_source_tokens=25)
    with pytest.raises(UserError, match=r"--longest_source_tokens=25: .* may have 60 tokens, and .* for 58"):
        CTranslate2Translator(directory, longer)
    (directory / "model.bin").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be loaded"):
        CTranslate2Translator(directory, GREEDY)
    (directory / "config.json").write_text("{}")
    with pytest.raises(UserError, match="another program"):
        CTranslate2Translator(directory, GREEDY)
