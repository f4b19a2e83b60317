"""Vocabularies: equal to SentencePiece's own, portable, and honest about what a text supports."""

import io
import re

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from tests.data.text import generated_pairs, write_pair
from tfnmt.batch import BEGIN_ID, END_ID, PAD_ID, UNKNOWN_ID
from tfnmt.data.vocabulary import Vocabulary, load_vocabularies
from tfnmt.data.vocabulary_training import VocabularySettings, train_vocabularies, train_vocabulary
from tfnmt.errors import UserError

LINES = ["ba de fi", "", "  kuku   lame ", "Ünknown ✓ ﬁne", "<s> </s> <pad>", "popo\u00a0ruru", "3 sasa"]


@pytest.fixture
def reference(vocabulary) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)


def test_tokens_are_those_of_sentencepiece(vocabulary, reference):
    expected = [[*ids, END_ID] for ids in reference.encode(LINES)]
    assert vocabulary.tokenize(tf.constant(LINES)).to_list() == expected


def test_text_is_that_of_sentencepiece(vocabulary, reference):
    ids = reference.encode(LINES)
    padded = tf.ragged.constant([[*each, END_ID] for each in ids], dtype=tf.int32).to_tensor(PAD_ID)
    assert [text.decode() for text in vocabulary.detokenize(padded).numpy()] == reference.decode(ids)


def test_detokenize_stops_at_the_end_and_skips_what_is_no_text(vocabulary):
    word = vocabulary.tokenize(tf.constant(["baba"])).to_list()[0][:-1]
    ids = tf.constant([[BEGIN_ID, *word, PAD_ID, END_ID, *word], [END_ID, *word, BEGIN_ID, PAD_ID, *word]])
    assert vocabulary.detokenize(ids).numpy().tolist() == [b"baba", b""]


def test_equal_texts_are_told_from_the_pieces(vocabulary):
    """However a line is cut, what its pieces add up to is the same."""
    texts = vocabulary.texts()
    for line in ("baba kuku lame", "sasa"):
        ways = {tuple(vocabulary.tokenize(tf.constant([line]), -1, 0.1).to_list()[0]) for _ in range(20)}
        assert len(ways) > 1
        assert {b"".join(texts[token] for token in ids).decode().replace("▁", " ").lstrip() for ids in ways} == {line}


def test_a_piece_that_spells_a_byte_is_one(tmp_path):
    settings = VocabularySettings(vocabulary_size=400, byte_fallback=True)
    files = [write_pair(tmp_path, "train", generated_pairs(200))]
    vocabulary, _ = train_vocabularies(files, tmp_path / "vocabulary", settings)
    texts, ids = vocabulary.texts(), vocabulary.tokenize(tf.constant(["✓ ba"])).to_list()[0]
    assert b"".join(texts[token] for token in ids).decode() == "▁✓▁ba"
    assert [texts[index] for index in (PAD_ID, BEGIN_ID, END_ID)] == [b""] * 3


def test_special_pieces_have_the_shared_ids(vocabulary):
    pieces = vocabulary.pieces()
    assert [pieces[index] for index in (PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID)] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert len(pieces) == vocabulary.size == 120


def test_segment_shows_the_pieces_of_the_tokens(vocabulary):
    pieces = vocabulary.pieces()
    tokens = vocabulary.tokenize(tf.constant(["ba defi"])).to_list()[0]
    assert vocabulary.segment("ba defi") == [pieces[token] for token in tokens[:-1]]


def test_a_graph_carries_the_model_itself(vocabulary):
    function = tf.function(vocabulary.tokenize).get_concrete_function(tf.TensorSpec([None], tf.string))
    assert not function.captured_inputs
    expected = vocabulary.tokenize(tf.constant(LINES)).to_list()
    assert function(tf.constant(LINES)).to_list() == expected


def test_sampling_varies_the_pieces_but_not_the_text(vocabulary):
    lines = tf.constant(["bade figoku lame"] * 50)
    sampled = vocabulary.tokenize(lines, nbest=-1, alpha=0.1)
    assert len({tuple(row) for row in sampled.to_list()}) > 1
    assert set(vocabulary.detokenize(sampled.to_tensor()).numpy()) == {b"bade figoku lame"}


def test_a_sampling_that_the_model_cannot_do_is_refused(vocabulary, tmp_path):
    vocabulary.require_sampling(8)
    lines = [line for pair in generated_pairs(100) for line in pair]
    train_vocabulary(lines, tmp_path / "bpe.model", VocabularySettings(vocabulary_size=80, vocabulary_type="bpe"))
    bpe = Vocabulary(tmp_path / "bpe.model")
    for nbest in (-1, 0, 1):
        bpe.require_sampling(nbest)
    with pytest.raises(UserError, match="--subword_nbest=8"):
        bpe.require_sampling(8)


def test_it_outlives_the_kernels_of_tensorflow(vocabulary):
    before = vocabulary.tokenize(tf.constant(LINES)).to_list()
    tf.random.set_seed(1)  # drops every kernel, and the resources that they own
    assert vocabulary.tokenize(tf.constant(LINES)).to_list() == before


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_size_beyond_the_text_is_refused_with_one_that_works(tmp_path, kind):
    lines = [source for source, _ in generated_pairs(30)]
    with pytest.raises(UserError, match="--vocabulary_size=5000: this text supports at most") as caught:
        train_vocabulary(lines, tmp_path / "model", VocabularySettings(vocabulary_size=5000, vocabulary_type=kind))
    assert not (tmp_path / "model").exists()
    possible = int(re.search(r"give --vocabulary_size=(\d+)", str(caught.value))[1])
    train_vocabulary(lines, tmp_path / "model", VocabularySettings(vocabulary_size=possible, vocabulary_type=kind))
    assert Vocabulary(tmp_path / "model").size == possible


def test_a_size_too_small_for_the_characters_is_refused(tmp_path):
    lines = [source for source, _ in generated_pairs(30)]
    with pytest.raises(UserError, match=r"alone need \d+ pieces"):
        train_vocabulary(lines, tmp_path / "model", VocabularySettings(vocabulary_size=6))


def test_a_text_of_empty_lines_is_refused(tmp_path):
    with pytest.raises(UserError, match="every line is empty"):
        train_vocabulary(["", ""], tmp_path / "model", VocabularySettings())


def test_training_is_quiet_and_repeatable(tmp_path, capfd):
    lines = [source for source, _ in generated_pairs(200)]
    settings = VocabularySettings(vocabulary_size=60, vocabulary_sentences=120)
    for name in ("first", "second"):
        train_vocabulary(lines, tmp_path / name, settings)
    assert capfd.readouterr() == ("", "")
    assert Vocabulary(tmp_path / "first").fingerprint == Vocabulary(tmp_path / "second").fingerprint


def test_bytes_spell_what_no_piece_can(tmp_path):
    lines = [source for source, _ in generated_pairs(100)]
    train_vocabulary(lines, tmp_path / "model", VocabularySettings(vocabulary_size=320, byte_fallback=True))
    spelling = Vocabulary(tmp_path / "model")
    ids = spelling.tokenize(tf.constant(["ba ✓"]))
    assert UNKNOWN_ID not in ids.to_list()[0]
    assert spelling.detokenize(ids.to_tensor()).numpy()[0].decode() == "ba ✓"


def test_joint_and_separate_vocabularies(tmp_path):
    files = [write_pair(tmp_path, "train", generated_pairs(200))]
    source, target = train_vocabularies(files, tmp_path / "joint", VocabularySettings(vocabulary_size=80))
    assert source is target
    settings = VocabularySettings(vocabulary_size=80, joint_vocabulary=False)
    source, target = train_vocabularies(files, tmp_path / "joint", settings)
    assert source.fingerprint != target.fingerprint
    assert [each.fingerprint for each in load_vocabularies(tmp_path / "joint")] == [
        source.fingerprint,
        target.fingerprint,
    ]


def test_what_is_no_vocabulary_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        Vocabulary(tmp_path / "missing.model")
    with pytest.raises(UserError, match=r"vocabulary\.source\.model"):
        load_vocabularies(tmp_path)
    for content in (b"", b"some text", np.arange(100, dtype=np.uint8).tobytes()):
        (tmp_path / "other.model").write_bytes(content)
        with pytest.raises(UserError, match="not a SentencePiece model"):
            Vocabulary(tmp_path / "other.model")


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ba de fi"] * 10), model_writer=model, vocab_size=11, minloglevel=2
    )
    (tmp_path / "other.model").write_bytes(model.getvalue())
    with pytest.raises(UserError, match="pad, unk, bos and eos must be"):
        Vocabulary(tmp_path / "other.model")
