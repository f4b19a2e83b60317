"""What validation finds of a model whose every probability can be looked up in a table."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.data.text import generated_pairs, write_pair
from tfnmt.batch import BEGIN_ID, END_ID
from tfnmt.data.settings import DataSettings
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.data.vocabulary_training import VocabularySettings, train_vocabulary
from tfnmt.layout import Layout, Parameter
from tfnmt.models.base import LossSums, Model, ModelSettings
from tfnmt.training.validation import Validation, ValidationDecodingSettings, ValidationSettings

MEASURE = """import pathlib, sys
hypotheses, references, sources = (pathlib.Path(path).read_text() for path in sys.argv[1:])
pathlib.Path(__file__).with_name("sources").write_text(sources)
lines = list(zip(hypotheses.splitlines(), references.splitlines()))
print("equal", sum(hypothesis == reference for hypothesis, reference in lines) / len(lines))
"""
SMOOTHED = 1.5  # what the model's loss is of its cross entropy


class BigramModel(Model):
    """The logits of the next token are the row of a table that belongs to the token before."""

    def __init__(self, size: int):
        self.settings = ModelSettings()
        self.parameters = (Parameter("table", (size, size), tf.random.stateless_normal),)

    def loss(self, views, batch, seed=None):
        total = -tf.reduce_sum(self.log_probabilities(views, batch))
        return LossSums(SMOOTHED * total, total, tf.cast(tf.math.count_nonzero(batch.target_ids), tf.float32))

    def log_probabilities(self, views, batch):
        previous = tf.pad(batch.target_ids, [[0, 0], [1, 0]], constant_values=BEGIN_ID)[:, :-1]
        found = tf.gather(tf.nn.log_softmax(tf.gather(views["table"], previous)), batch.target_ids, batch_dims=2)
        return tf.where(batch.target_ids == 0, 0.0, found)

    def encode(self, views, source_ids):
        mask = tf.cast(source_ids != 0, tf.float32)
        return mask / tf.reduce_sum(mask, axis=1, keepdims=True)

    def start(self, views, memory, beams, length):
        return tf.zeros([tf.shape(memory)[0], beams, 1])

    def step(self, views, memory, cache, previous_ids, step):
        attention = tf.repeat(memory[:, None], tf.shape(previous_ids)[1], axis=1)
        return tf.gather(views["table"], previous_ids), cache, attention

    def operations_per_pair(self, source_length, target_length):
        return 1.0


@pytest.fixture(name="vocabulary", scope="module")
def _vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.model"
    lines = [line for pair in generated_pairs(400) for line in pair]
    train_vocabulary(lines, path, VocabularySettings(vocabulary_size=120, character_coverage=1.0))
    return Vocabulary(path)


@pytest.fixture(name="words", scope="module")
def _words(vocabulary):
    """Two words of a piece each."""
    pieces = [piece.removeprefix("▁") for piece in vocabulary.pieces() if piece.startswith("▁") and len(piece) > 2]
    return [word for word in pieces if len(vocabulary.segment(word)) == 1][:2]


@pytest.fixture(name="table", scope="module")
def _table(vocabulary, words):
    """A model that says the first word if it is greedy, and the second one if it is not.

    The first is the likelier beginning, but has many ways to go on; the second one has only the end behind it.
    """
    greedy, best = (vocabulary.pieces().index(f"▁{word}") for word in words)
    table = np.random.default_rng(1).normal(scale=0.1, size=[vocabulary.size] * 2).astype(np.float32)
    table[BEGIN_ID, [greedy, best]] = 12.0, 11.5
    table[greedy, END_ID] = 1.0
    table[best, END_ID] = 20.0
    return table


def _validate(tmp_path, vocabulary, table, pairs, **settings):
    model = BigramModel(vocabulary.size)
    layout = Layout(model.parameters)
    validation = Validation(
        model,
        layout,
        [write_pair(tmp_path, "validation", pairs)],
        (vocabulary, vocabulary),
        DataSettings(batch_positions=60),  # several batches, with padding
        ValidationDecodingSettings(length_penalty=0.0),
        ValidationSettings(**settings),
    )
    return validation.evaluate(tf.constant(layout.pack_arrays({"table": table})))


def test_loss_and_cross_entropy_are_those_of_the_table(tmp_path, vocabulary, table):
    """Each is a sum over all pairs, however many are translated, divided once by the target tokens."""
    pairs = generated_pairs(30)
    total, tokens = 0.0, 0
    for _, target in pairs:
        ids = vocabulary.tokenize(tf.constant([target])).to_list()[0]
        for previous, token in zip([BEGIN_ID, *ids], ids):
            row = table[previous].astype(np.float64)
            total += np.log(np.exp(row).sum()) - row[token]
        tokens += len(ids)
    found = _validate(tmp_path, vocabulary, table, pairs, validation_sentences=1, samples=0)
    assert found.cross_entropy == pytest.approx(total / tokens, rel=1e-6)
    assert found.loss == pytest.approx(SMOOTHED * total / tokens, rel=1e-6)
    assert found.metrics().keys() == {"loss", "cross_entropy", "bleu", "chrf", "ter"}


def test_a_command_measures_the_same_translations(tmp_path, vocabulary, table, words):
    pairs = [("ba", words[0]), ("de fi", "popo")]
    (tmp_path / "measure").write_text(f"#!{sys.executable}\n{MEASURE}")
    (tmp_path / "measure").chmod(0o700)
    found = _validate(tmp_path, vocabulary, table, pairs, samples=0, metrics_command=str(tmp_path / "measure"))
    assert found.metrics()["command"] == found.metrics()["equal"] == 0.5
    assert (tmp_path / "sources").read_text() == "ba\nde fi\n"


@pytest.mark.parametrize(("beam_size", "word"), [(1, 0), (4, 1)])
def test_the_beam_is_that_of_validation(tmp_path, vocabulary, table, words, beam_size, word):
    pairs = [("ba", "de")]
    (sample,) = _validate(tmp_path, vocabulary, table, pairs, validation_beam_size=beam_size, samples=1).samples
    assert sample.hypothesis == words[word]


def test_as_many_sentences_are_translated_as_are_wanted(tmp_path, vocabulary, table, words):
    """The first two references are what the model says, the others are not."""
    pairs = [("ba", words[0]), ("de fi", words[0]), ("go", "popo ruru"), ("ku", "popo ruru")]
    ters = [
        _validate(tmp_path, vocabulary, table, pairs, validation_sentences=count, samples=0).scores.ter
        for count in (2, 3, 0, 9)
    ]
    # Of 2, 4 and 6 words of the references 0, 2 and 4 are missed.
    assert ters == pytest.approx([0.0, 50.0, 100 * 4 / 6, 100 * 4 / 6])


@pytest.mark.parametrize(
    ("sentences", "samples", "places"), [(0, 2, [0, 2]), (0, 3, [0, 1, 3]), (3, 2, [0, 1]), (0, 9, [0, 1, 2, 3, 4])]
)
def test_samples_are_spread_over_what_is_translated(tmp_path, vocabulary, table, sentences, samples, places):
    pairs = generated_pairs(5)
    found = _validate(tmp_path, vocabulary, table, pairs, validation_sentences=sentences, samples=samples).samples
    assert [(sample.source, sample.reference) for sample in found] == [pairs[place] for place in places]
    for sample in found:
        assert sample.source_pieces == (*vocabulary.segment(sample.source), "</s>")
        assert "".join(sample.target_pieces[:-1]).removeprefix("▁") == sample.hypothesis
        assert sample.attention.shape == (len(sample.target_pieces), len(sample.source_pieces))
