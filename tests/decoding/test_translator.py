"""Text in, text out."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.decoding.tiny_run import SOURCES, TARGETS
from tfnmt.batch import END_ID, Batch
from tfnmt.decoding.batching import cut_batches
from tfnmt.decoding.loading import TrainedSettings, load
from tfnmt.decoding.scoring import Scorer
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.decoding.translator import Translator
from tfnmt.errors import UserError

SETTINGS = DecodingSettings(beam_size=3, nbest=2)


@pytest.fixture(name="trained", scope="module")
def _trained(run):
    return load(TrainedSettings(run_directory=(str(run.path),)))


@pytest.fixture(name="translator", scope="module")
def _translator(trained):
    return trained.translator(SETTINGS)


def test_order_and_empty_lines(trained, translator):
    found = translator.translate(trained.vectors, SOURCES)
    assert len(found) == len(SOURCES)
    for line, hypotheses in zip(SOURCES, found):
        if not line.strip():
            assert [(best.text, best.tokens) for best in hypotheses] == [("", ())]
            continue
        assert len(hypotheses) == 2 and hypotheses[0].score >= hypotheses[1].score
        alone = translator.translate(trained.vectors, [line])[0]
        assert [each.tokens for each in alone] == [each.tokens for each in hypotheses]
        assert all(each.tokens[-1] == END_ID for each in hypotheses)
        text = translator._target_vocabulary.detokenize(tf.constant([hypotheses[0].tokens])).numpy()[0].decode()
        assert text == hypotheses[0].text
    assert translator.translate(trained.vectors, []) == []
    assert translator.translate(trained.vectors, ["", "   "]) == [[found[2][0]]] * 2


def test_same_hypotheses_at_any_batch_size(trained, monkeypatch):
    lines = [line + " and so on" * repeats for repeats in range(4) for line in SOURCES]
    translator, runs = trained.translator(SETTINGS), []
    for sentences, tokens in ((1, 4096), (3, 4096), (64, 4096), (64, 40)):
        settings = dataclasses.replace(SETTINGS, decoding_batch_sentences=sentences, decoding_batch_positions=tokens)
        monkeypatch.setattr(translator, "settings", settings)  # the graph, which is the same, is traced once
        runs.append(translator.translate(trained.vectors, lines))
    for other in runs[1:]:
        assert [[each.tokens for each in line] for line in other] == [
            [each.tokens for each in line] for line in runs[0]
        ]


def test_new_parameters_and_lengths_do_not_trace_again(trained, translator):
    lines = SOURCES[:2]

    def best(vector, lines):
        return [hypotheses[0].text for hypotheses in translator.translate([vector], lines)]

    before = best(trained.vectors[0], lines)
    changed = trained.vectors[0] * np.float32(1.7)
    assert best(changed, [*lines, "a much longer line than these " * 3])[:2] != before
    assert best(tf.constant(trained.vectors[0]), lines) == before
    assert translator.graph().experimental_get_tracing_count() == 1


@pytest.mark.parametrize("results", [4, 8])
def test_no_two_translations_of_a_line_have_the_same_text(trained, results):
    translator = trained.translator(dataclasses.replace(SETTINGS, beam_size=8, nbest=results))
    indifferent = trained.vectors[0] * 0.0  # All pieces are alike, the bare space too.
    for line, hypotheses in zip(SOURCES, translator.translate([indifferent], SOURCES)):
        if line.strip():
            assert len({each.text.strip() for each in hypotheses}) == len(hypotheses) == results
            assert [each.score for each in hypotheses] == sorted((each.score for each in hypotheses), reverse=True)


def _forced(trained, source, tokens):
    """The log-probability of `tokens`, END_ID included, as translation of `source`."""
    views = trained.layouts[0].unpack(tf.constant(trained.vectors[0]))
    source_ids = trained.source_vocabulary.tokenize(tf.constant([source])).to_tensor()
    batch = Batch(source_ids, tf.constant([tokens]), tf.zeros([3], tf.int64))
    return float(tf.reduce_sum(trained.models[0].log_probabilities(views, batch)))


def test_scores_are_forced_scores(trained, translator):
    for line, hypotheses in zip(SOURCES, translator.translate(trained.vectors, SOURCES)):
        for each in hypotheses if line.strip() else ():
            assert each.log_probability == pytest.approx(_forced(trained, line, each.tokens), rel=1e-4)
            assert each.score == pytest.approx(each.log_probability / ((5 + len(each.tokens)) / 6) ** 0.6, rel=1e-5)


def test_forced_scoring_of_lines(trained):
    scorer = Scorer(*trained[1:3], *trained[4:], batch_sentences=3, batch_positions=40)
    scores = scorer.score(trained.vectors, SOURCES, TARGETS)
    for score, source, target in zip(scores, SOURCES, TARGETS):
        tokens = trained.target_vocabulary.tokenize(tf.constant([target]))[0].numpy()
        assert score.tokens == len(tokens)
        assert score.log_probability == pytest.approx(_forced(trained, source, tokens), rel=1e-4)
        assert score.per_token == pytest.approx(score.log_probability / score.tokens)


def test_attention_covers_source_and_target(trained, translator):
    (best, *_), (nothing,) = translator.translate(trained.vectors, [SOURCES[0], ""], with_attention=True)
    source_length = len(trained.source_vocabulary.segment(SOURCES[0])) + 1
    assert best.attention.shape == (len(best.tokens), source_length)
    np.testing.assert_allclose(best.attention.sum(axis=1), 1, rtol=1e-4)
    assert nothing.attention is None


def test_ensemble_of_equals(trained, translator):
    alone = translator.translate(trained.vectors, SOURCES)
    vocabularies = trained.source_vocabulary, trained.target_vocabulary
    threefold = Translator(trained.models * 3, trained.layouts * 3, *vocabularies, SETTINGS)
    joined = threefold.translate(trained.vectors * 3, SOURCES)
    assert [line[0].text for line in joined] == [line[0].text for line in alone]
    assert [line[0].score for line in joined] == pytest.approx([line[0].score for line in alone], rel=1e-4)


def test_progress_counts_every_sentence_with_text(trained, translator):
    reports = []
    found = translator.translate(trained.vectors, SOURCES, report=lambda *report: reports.append(report))
    assert sum(sentences for sentences, _ in reports) == 4
    assert sum(tokens for _, tokens in reports) == sum(len(best.tokens) for best, *_ in found)


def test_long_sources_are_cut_with_a_warning(trained, caplog):
    settings = dataclasses.replace(SETTINGS, longest_source_tokens=4)
    with caplog.at_level("WARNING"):
        (best, *_), *_ = trained.translator(settings).translate(trained.vectors, [SOURCES[0]])
    assert "cut to 4 tokens" in caplog.text and len(best.tokens) <= 4 * 2 + 10


def test_parameters_that_are_no_numbers(trained, translator):
    with pytest.raises(UserError, match="no usable probabilities"):
        translator.translate([trained.vectors[0] * np.float32("nan")], SOURCES)


def test_more_results_than_beam(trained):
    with pytest.raises(UserError, match="--nbest=4"):
        trained.translator(dataclasses.replace(SETTINGS, nbest=4))


def test_batches_keep_to_their_limits():
    lengths = [3, 9, 2, 2, 30, 5, 5]
    batches = cut_batches(lengths, sentences=3, tokens=12)
    assert sorted(place for batch in batches for place in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= 12 for batch in batches)
    assert max(map(len, batches)) <= 3
