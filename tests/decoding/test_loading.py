"""Run directories to models, and averages of them."""

import dataclasses

import numpy as np
import pytest

from tests.decoding.tiny_run import SOURCES, arrays_of, make_run
from tfnmt.checkpoints import Checkpoint, CheckpointStore
from tfnmt.decoding.averaging import average
from tfnmt.decoding.loading import TrainedSettings, load
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.errors import UserError


def _load(*runs, checkpoint=("best",)):
    return load(TrainedSettings(tuple(str(run.path) for run in runs), checkpoint))


@pytest.mark.parametrize("name, update", [("best", 20), ("newest", 30), ("10", 10)])
def test_names_of_checkpoints(run, name, update):
    trained = _load(run, checkpoint=(name,))
    assert trained.names == [f"{run.path} at update {update}"]
    expected = arrays_of(run, seed=update // 10)
    found = trained.layouts[0].unpack_array(trained.vectors[0])
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[parameter], expected[parameter]) for parameter in expected)


def test_an_ensemble_takes_each_checkpoint_once(run):
    assert len(_load(run, checkpoint=("best", "20", "newest")).vectors) == 2


def test_an_ensemble_of_runs(run, tmp_path):
    other = make_run(tmp_path / "other", seeds={5: 9}, metrics={})
    trained = _load(run, other)
    assert len(trained.vectors) == 2
    assert len(trained.translator(DecodingSettings(beam_size=2)).translate(trained.vectors, SOURCES)) == len(SOURCES)


def test_other_vocabularies_are_refused(run, tmp_path):
    other = make_run(tmp_path / "other", seeds={5: 9}, metrics={}, seed_text="quite other words xyz")
    with pytest.raises(UserError, match="vocabularies differ"):
        _load(run, other)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run = make_run(tmp_path / "other", seeds={}, metrics={})
    arrays = dict(arrays_of(run, seed=1))
    arrays["embedding"] = arrays["embedding"][:-1]
    arrays["surplus"] = arrays.pop(next(name for name in arrays if name != "embedding"))
    CheckpointStore(run.checkpoints).save(Checkpoint(1, arrays, {}, {}))
    with pytest.raises(UserError) as error:
        _load(run)
    assert any("embedding has the shape" in fault for fault in error.value.faults)
    assert any("surplus" in fault for fault in error.value.faults)


@pytest.mark.parametrize("settings, message", [({"run_directory": ()}, "missing"), ({"checkpoint": ("40",)}, "40")])
def test_what_does_not_exist(run, settings, message):
    with pytest.raises(UserError, match=message):
        load(dataclasses.replace(TrainedSettings((str(run.path),)), **settings))


def test_names_that_are_none():
    assert TrainedSettings(("run",), ("latest",)).faults()
    assert not TrainedSettings(("run",), ("best", "12")).faults()


def test_the_average_is_exact_to_the_last_bit_of_float32():
    values = np.array([1e8, 1.0, -1e8, 1.0], np.float32)
    mean = average(Checkpoint(update, {"a": values[update : update + 1]}, {}, {}) for update in range(4))
    assert mean.update == 3 and mean.parameters["a"] == np.float32(0.5) and mean.parameters["a"].dtype == np.float32


def test_checkpoints_of_different_models_have_no_average():
    with pytest.raises(UserError, match="different models"):
        average(Checkpoint(size, {"a": np.zeros(size, np.float32)}, {}, {}) for size in (1, 2))
