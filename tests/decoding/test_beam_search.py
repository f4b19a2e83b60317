"""Beam search against an exhaustive search, and against itself in other batches."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.decoding.scripted_model import ScriptedModel, exhaustive_search, log_probability
from tfnmt.batch import BEGIN_ID, END_ID, PAD_ID, UNKNOWN_ID
from tfnmt.decoding.beam_search import beam_search
from tfnmt.decoding.ensemble import Ensemble
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.layout import Layout

VOCABULARY_SIZE = 7  # the four special tokens and three words
FOUR_TOKENS = DecodingSettings(max_length_factor=0.0, max_length_constant=4)


@pytest.fixture(name="model", scope="module")
def _model():
    return ScriptedModel(VOCABULARY_SIZE)


@pytest.fixture(name="table", scope="module")
def _table(model):
    return Layout(model.parameters).initialize(seed=1).numpy().reshape(-1)[: 8 * 97 * 7].reshape(8, 97, 7)


def _sources(*lengths):
    """One sentence of each length; its first token, 1 to 7, is its place."""
    ids = np.zeros([len(lengths), max(lengths)], np.int32)
    for row, length in enumerate(lengths):
        ids[row, :length] = [row % 7 + 1] + [5] * (length - 2) + [END_ID]
    return tf.constant(ids)


def _search(model, table, source_ids, settings, **options):
    return tf.function(lambda: beam_search(model, {"table": tf.constant(table)}, source_ids, settings, **options))()


def _tokens(ids):
    return [int(token) for token in ids if token != PAD_ID]


PIECES = ["", "<unk>", "", "", "▁", "a", "▁a"]


def _text(tokens):
    return "".join(PIECES[token] for token in tokens).strip("▁")


@pytest.mark.parametrize(("beam_size", "results"), [(VOCABULARY_SIZE**3, 8), (6, 5)])
def test_translations_of_one_text_are_one(model, table, beam_size, results):
    """`▁a` and `▁`, `a` spell the same; `a` too at the beginning, whose space is dropped like one at the end."""
    settings = dataclasses.replace(FOUR_TOKENS, beam_size=beam_size, nbest=results)
    pieces = tf.constant(PIECES)
    found = _search(model, table, _sources(2, 3, 4), settings, pieces=pieces)
    repeats = _search(model, table, _sources(2, 3, 4), settings).ids.numpy()
    assert min(len({_text(_tokens(ids)) for ids in row}) for row in repeats) < results  # the negative control
    for row in range(3):
        texts = [_text(_tokens(ids)) for ids in found.ids[row].numpy()]
        assert len(set(texts)) == results and np.isfinite(found.scores[row]).all()
        best: dict[str, float] = {}
        for score, tokens in exhaustive_search(table, row + 1, limit=4, exponent=0.6):
            best.setdefault(_text(tokens), score)
        if results == 8:  # a beam that holds everything
            assert texts == list(best)[:8]
            np.testing.assert_allclose(found.scores[row], list(best.values())[:8], rtol=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 0.6, 2.0])
def test_a_beam_that_holds_everything_finds_the_best(model, table, exponent):
    settings = dataclasses.replace(FOUR_TOKENS, beam_size=VOCABULARY_SIZE**3, nbest=5, length_penalty=exponent)
    found = _search(model, table, _sources(2, 3, 4), settings)
    for row in range(3):
        expected = exhaustive_search(table, row + 1, limit=4, exponent=exponent)[:5]
        np.testing.assert_allclose(found.scores[row], [score for score, _ in expected], rtol=1e-5)
        assert [_tokens(ids) for ids in found.ids[row].numpy()] == [tokens for _, tokens in expected]


def test_greedy_search_can_miss_the_best(model, table):
    """The negative control of the test above: the table is such that a narrow beam does lose."""
    settings = dataclasses.replace(FOUR_TOKENS, beam_size=1, length_penalty=0.0)
    found = _search(model, table, _sources(2, 2, 2, 2, 2), settings).scores[:, 0].numpy()
    best = [exhaustive_search(table, row + 1, limit=4, exponent=0.0)[0][0] for row in range(5)]
    assert np.all(found <= np.array(best) + 1e-5)
    assert np.any(found < np.array(best) - 0.1)


def test_greedy_search_takes_the_likeliest_token_each_time(model, table):
    settings = DecodingSettings(beam_size=1, length_penalty=0.0)
    found = _search(model, table, _sources(2), settings)
    tokens, history, previous = [], 0, BEGIN_ID
    while len(tokens) < 2 * 2 + 10 - 1 and END_ID not in tokens:
        history = (31 * history + previous) % 97
        previous = 3 + int(np.argmax(table[1, history, 3:]))
        tokens.append(previous)
    assert _tokens(found.ids[0, 0].numpy()) == (tokens if END_ID in tokens else [*tokens, END_ID])


@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_scores_are_forced_scores_and_sorted(model, table, beam_size):
    settings = DecodingSettings(beam_size=beam_size, nbest=beam_size, length_penalty=0.6)
    found = _search(model, table, _sources(2, 5, 9), settings)
    assert np.all(np.diff(found.scores.numpy(), axis=1) <= 0)
    for row, hypothesis in np.ndindex(3, beam_size):
        tokens = _tokens(found.ids[row, hypothesis].numpy())
        expected = log_probability(table, row + 1, tokens) / ((5 + len(tokens)) / 6) ** 0.6
        np.testing.assert_allclose(found.scores[row, hypothesis], expected, rtol=1e-5)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_neighbours_and_padding_change_nothing(model, table, beam_size):
    settings = DecodingSettings(beam_size=beam_size, nbest=beam_size)
    source_ids = _sources(2, 9, 3, 12, 5, 2, 7)
    views, any_shape = {"table": tf.constant(table)}, [tf.TensorSpec([None, None], tf.int32)]
    search = tf.function(lambda ids: beam_search(model, views, ids, settings), input_signature=any_shape)
    together = search(source_ids)
    for row in range(7):
        length = int(tf.math.count_nonzero(source_ids[row]))
        alone = search(source_ids[row : row + 1, :length])
        np.testing.assert_allclose(together.scores[row], alone.scores[0], rtol=1e-6)
        for ids, expected in zip(together.ids[row].numpy(), alone.ids[0].numpy()):
            assert _tokens(ids) == _tokens(expected)


def test_every_translation_ends_within_its_limit(model, table):
    """Even a model that hates to end must, and never says padding, begin or unknown."""
    stubborn = table + np.array([50, 50, 50, -50, 0, 0, 0], np.float32)
    settings = DecodingSettings(beam_size=2, nbest=2, max_length_factor=1.5, max_length_constant=2)
    found = _search(model, stubborn, _sources(2, 8), settings)
    for row, limit in enumerate([5, 14]):
        for ids in found.ids[row].numpy():
            tokens = _tokens(ids)
            assert len(tokens) == limit and tokens.index(END_ID) == limit - 1
            assert not {BEGIN_ID, UNKNOWN_ID} & set(tokens)


def test_unknown_is_an_option(model, table):
    fond = table + np.array([0, 50, 0, 0, 0, 0, 0], np.float32)
    settings = dataclasses.replace(FOUR_TOKENS, beam_size=2, allow_unknown=True)
    assert _tokens(_search(model, fond, _sources(2), settings).ids[0, 0].numpy())[:2] == [UNKNOWN_ID] * 2


def test_equal_candidates_are_taken_in_order_of_their_ids(model):
    settings = dataclasses.replace(FOUR_TOKENS, beam_size=3, nbest=3, length_penalty=0.0)
    flat = np.zeros([8, 97, 7], np.float32)
    runs = [_search(model, flat, _sources(*lengths), settings).ids[0].numpy() for lengths in ([2], [2, 6, 4])]
    assert [_tokens(ids) for ids in runs[0]] == [_tokens(ids) for ids in runs[1]]
    assert _tokens(runs[0][0]) == [END_ID]


def test_missing_hypotheses_score_minus_infinity(model, table):
    settings = DecodingSettings(beam_size=2, nbest=2, max_length_factor=0.0, max_length_constant=1)
    found = _search(model, table, _sources(3), settings)
    assert np.isfinite(found.scores[0, 0]) and found.scores[0, 1] == -np.inf


def test_attention_belongs_to_its_hypothesis(model, table):
    settings = DecodingSettings(beam_size=2, nbest=2)
    found = _search(model, table, _sources(2, 6), settings, with_attention=True)
    assert found.attention.shape == (2, 2, found.ids.shape[2], 6)
    for row, source_length in enumerate([2, 6]):
        for ids, rows in zip(found.ids[row].numpy(), found.attention[row].numpy()):
            length = len(_tokens(ids))
            np.testing.assert_allclose(rows[:length, :source_length], 1 / source_length, rtol=1e-6)
            assert not rows[length:].any()


def test_an_ensemble_of_equals_is_its_member(model, table):
    settings = DecodingSettings(beam_size=3, nbest=3)
    views = {"table": tf.constant(table)}
    source_ids = _sources(2, 5)
    alone = tf.function(lambda: beam_search(model, views, source_ids, settings))()
    joined = tf.function(lambda: beam_search(Ensemble([model] * 3), [views] * 3, source_ids, settings))()
    np.testing.assert_array_equal(alone.ids, joined.ids)
    np.testing.assert_allclose(alone.scores, joined.scores, rtol=1e-5)


def test_an_ensemble_averages_probabilities(model, table):
    other = np.roll(table, 1, axis=1)
    settings = dataclasses.replace(FOUR_TOKENS, beam_size=1, max_length_constant=1, length_penalty=0.0)
    views = [{"table": tf.constant(own)} for own in (table, other)]
    found = tf.function(lambda: beam_search(Ensemble([model] * 2), views, _sources(2), settings))()
    mean = np.mean([np.exp(log_probability(own, 1, [END_ID])) for own in (table, other)])
    np.testing.assert_allclose(found.scores[0, 0], np.log(mean), rtol=1e-5)
