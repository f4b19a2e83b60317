"""A model that begins with the parameters of a trained one, or with some of its layers."""

import dataclasses
import doctest
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.decoding.tiny_run import MODEL, arrays_of, make_run, write_vocabulary
from tests.programs import run
from tfnmt.batch import Batch
from tfnmt.checkpoints import Checkpoint, CheckpointStore
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.engines.vocabulary_shards import VocabularyShard
from tfnmt.errors import UserError
from tfnmt.layout import Layout
from tfnmt.models.registry import SETTINGS, build_model
from tfnmt.models.transformer import Transformer
from tfnmt.training import initial_model
from tfnmt.training.initial_model import begin_with

DEEP = dataclasses.replace(MODEL, encoder_layers=4, decoder_layers=3)
IDS = np.random.default_rng(1).integers(4, 40, [3, 5]).astype(np.int32)
BATCH = Batch(tf.constant(IDS), tf.constant(IDS[:, ::-1]), tf.zeros([3], tf.int64))


@pytest.fixture(name="deep", scope="module")
def _deep(tmp_path_factory):
    """A run with two checkpoints, the first of which is the better one."""
    return make_run(
        tmp_path_factory.mktemp("deep") / "deep", seeds={10: 2, 20: 1}, metrics={10: 7.0, 20: 5.0}, model=DEEP
    )


def _vocabularies(trained):
    return Vocabulary(trained.source_vocabulary), Vocabulary(trained.target_vocabulary)


def _model(trained, **changes):
    sizes = [vocabulary.size for vocabulary in _vocabularies(trained)]
    return Transformer(dataclasses.replace(DEEP, **changes), *sizes)


def _log_probabilities(model, arrays):
    return model.log_probabilities({name: tf.constant(array) for name, array in arrays.items()}, BATCH).numpy()


def _beginning(trained, model):
    layout = Layout(begin_with(str(trained.path), _vocabularies(trained), model))
    return layout.unpack_array(layout.initialize(seed=5).numpy())


def test_all_layers_begin_as_those_of_the_best_checkpoint(deep):
    begun = _beginning(deep, _model(deep, dropout=0.4, label_smoothing=0.0))
    for name, array in arrays_of(deep, 2).items():
        np.testing.assert_array_equal(begun[name], array)


@pytest.mark.parametrize("idle", [True, False])
def test_layers_that_do_nothing_are_not_missed(deep, tmp_path, idle):
    """Two of four layers and two of three: those in between add nothing to their states, or (control) do."""
    arrays = dict(arrays_of(deep, 3))
    for name in arrays if idle else ():
        if name.startswith(("encoder/1/", "encoder/2/", "decoder/1/")) and "/output/" in name:
            arrays[name] = np.zeros_like(arrays[name])
    copy = tmp_path / "copy"
    shutil.copytree(deep.path, copy)
    shutil.rmtree(copy / "checkpoints")
    CheckpointStore(copy / "checkpoints").save(Checkpoint(1, arrays, {}, {}))
    small = _model(deep, encoder_layers=2, decoder_layers=2)
    begun = _beginning(type(deep)(copy), small)
    assert {name: array.shape for name, array in begun.items()} == {each.name: each.shape for each in small.parameters}
    distance = np.abs(_log_probabilities(small, begun) - _log_probabilities(_model(deep), arrays)).max()
    assert bool(distance < 1e-5) is idle


def test_ranks_that_share_tables_begin_with_their_rows_of_them(deep):
    """Every engine begins by its layout; that of such a rank is its own. What was read once can be read again."""
    whole = Layout(begin_with(str(deep.path), _vocabularies(deep), _model(deep)))
    vector = whole.initialize(seed=5).numpy()
    for rank in range(3):
        shard = VocabularyShard(whole, rank, 3)
        assert shard.tables
        own = shard.cut({"parameters": vector})["parameters"]
        np.testing.assert_array_equal(shard.layout.initialize(seed=5).numpy(), own)


def test_the_command_begins_with_them_and_goes_on_without(deep, tmp_path):
    """Flags of the model that are not given are as there; once something is saved the other run may go."""
    trained, directory = tmp_path / "trained", tmp_path / "run"
    shutil.copytree(deep.path, trained)
    words = [f"--initial_model={trained}", f"--run_directory={directory}", f"--data={deep.path.parent}", "--threads=1"]
    words += [f"--vocabulary={deep.path.parent}", "--languages=en-de", "--decoder_layers=1", "--average_rate=0.5"]
    words += ["--strategy=sync", "--optimizer=sgd", "--learning_rate=1e-30", "--evaluate_every_updates=0"]
    run("train", *words, "--max_updates=1")
    found = CheckpointStore(directory / "checkpoints").load().parameters
    for name, array in _beginning(deep, _model(deep, decoder_layers=1)).items():
        np.testing.assert_array_equal(found[name], array)
    shutil.rmtree(trained)
    _, log = run("train", *words, "--max_updates=2")
    assert "Going on from update 1" in log


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"heads": 4}, "--heads=4: the trained model has 2. (--initial_model="),
        ({"encoder_layers": 5}, "--encoder_layers=5: the trained model has 4, of which fewer may be kept. ("),
        ({"tied_embeddings": "target"}, "--tied_embeddings=target: the trained model has all. ("),
    ],
)
def test_another_model_is_refused(deep, changes, words):
    with pytest.raises(UserError) as refusal:
        _beginning(deep, _model(deep, **changes))
    (fault,) = refusal.value.faults
    assert fault.startswith(words)


def test_another_family_vocabulary_or_no_run_is_refused(deep, tmp_path):
    sizes = [vocabulary.size for vocabulary in _vocabularies(deep)]
    recurrent = build_model("recurrent", SETTINGS["recurrent"](), *sizes)
    with pytest.raises(UserError, match="is a Transformer, and this one a Recurrent: see --model"):
        begin_with(str(deep.path), _vocabularies(deep), recurrent)
    other = Vocabulary(write_vocabulary(tmp_path / "vocabulary.model", "quite another text"))
    with pytest.raises(UserError, match="another vocabulary; take that one, by --vocabulary="):
        begin_with(str(deep.path), (other, other), _model(deep))
    with pytest.raises(UserError, match=r"^--initial_model=.*nowhere"):
        begin_with(str(tmp_path / "nowhere"), _vocabularies(deep), _model(deep))


def test_examples():
    found = doctest.testmod(initial_model)
    assert found.attempted and not found.failed
