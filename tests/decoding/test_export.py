"""A SavedModel translates as the translator does that it was made of."""

import numpy as np
import pytest
import tensorflow as tf

from tests.decoding.tiny_run import SOURCES
from tfnmt.decoding.export import ExportedTranslator
from tfnmt.decoding.loading import TrainedSettings, load
from tfnmt.decoding.settings import DecodingSettings

SETTINGS = DecodingSettings(beam_size=3, nbest=2, longest_source_tokens=20)
LINES = [*SOURCES, "a man and a girl and two dogs run " * 9]


def translated(translator, vectors):
    """Texts and scores of the two best translations of each line."""
    found = translator.translate(vectors, LINES)
    return [[(each.text, pytest.approx(each.score, rel=1e-5)) for each in hypotheses] for hypotheses in found]


@pytest.mark.parametrize("names", [("best",), ("newest", "10")])
def test_a_saved_model_translates_as_the_run_does(run, tmp_path, names):
    trained = load(TrainedSettings(run_directory=(str(run.path),), checkpoint=names))
    translator = trained.translator(SETTINGS)
    exported = ExportedTranslator(translator, trained.vectors)
    tf.saved_model.save(exported, str(tmp_path), signatures={"serving_default": exported.translate})
    loaded = tf.saved_model.load(str(tmp_path))
    for function in (loaded.translate, lambda text: loaded.signatures["serving_default"](text=text)):
        texts, scores = (function(tf.constant(LINES))[name].numpy() for name in ("translations", "scores"))
        assert texts.shape == scores.shape == (len(LINES), 2)
        found = [
            [(text.decode(), score) for text, score in zip(*row) if np.isfinite(score)] for row in zip(texts, scores)
        ]
        assert found == translated(translator, trained.vectors)
    assert found != translated(translator, [vector * 0.9 for vector in trained.vectors])  # the negative control


def test_nothing_to_translate(run):
    trained = load(TrainedSettings(run_directory=(str(run.path),)))
    exported = ExportedTranslator(trained.translator(SETTINGS), trained.vectors)
    assert exported.translate(tf.constant([], tf.string))["translations"].shape == (0, 2)
    nothing = exported.translate(tf.constant(["", "  "]))
    assert nothing["translations"].numpy().tolist() == [[b"", b""]] * 2
    assert nothing["scores"].numpy().tolist() == [[0, -np.inf]] * 2
