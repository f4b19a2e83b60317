"""Trained models from run directories."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from tfnmt.checkpoints import CheckpointStore
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.decoding.translator import Translator
from tfnmt.errors import UserError, refuse
from tfnmt.layout import Layout
from tfnmt.models.base import Model
from tfnmt.models.registry import SETTINGS, ModelChoice, build_model
from tfnmt.run_directory import RunDirectory
from tfnmt.settings import setting

NEWEST, BEST = "newest", "best"


@dataclasses.dataclass(frozen=True)
class TrainedSettings:
    """Which trained parameters are used."""

    run_directory: tuple[str, ...] = setting((), "Run directory; several, with commas, are an ensemble.", is_path=True)
    checkpoint: tuple[str, ...] = setting(
        (BEST,),
        "Checkpoint of each run directory: best (by the validation metric; the newest when nothing was validated), "
        "newest, or the number of its update; several, with commas, are an ensemble.",
        required=True,
    )
    threads: int = setting(0, "Cores to compute on; 0 for all.", minimum=0)

    def faults(self) -> list[str]:
        """Names that no checkpoint can have."""
        return [
            f"--checkpoint={name}: must be best, newest or the number of an update."
            for name in self.checkpoint
            if name not in (BEST, NEWEST) and not name.isdecimal()
        ]


class Trained(NamedTuple):
    """One or several sets of trained parameters with what they need. The lists are of equal length."""

    names: list[str]  # run directory and update
    models: list[Model]
    layouts: list[Layout]
    vectors: list[np.ndarray]  # float32 [size]
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary

    def translator(self, settings: DecodingSettings) -> Translator:
        """Translates by `translator.translate(trained.vectors, lines)`."""
        return Translator(self.models, self.layouts, self.source_vocabulary, self.target_vocabulary, settings)


def load(settings: TrainedSettings) -> Trained:
    """Reads every checkpoint that `settings` name.

    Raises:
      UserError: something is missing, damaged, or does not fit together.
    """
    if not settings.run_directory:
        raise UserError("--run_directory is missing: it names the run whose model is used.")
    runs = [RunDirectory(path) for path in settings.run_directory]
    vocabularies = [(Vocabulary(run.source_vocabulary), Vocabulary(run.target_vocabulary)) for run in runs]
    refuse(_vocabulary_faults(settings.run_directory, vocabularies))
    trained = Trained([], [], [], [], *vocabularies[0])
    for run in runs:
        model = model_of(run, trained.source_vocabulary.size, trained.target_vocabulary.size)
        layout = Layout(model.parameters)
        for update, vector in _vectors(run, layout, settings.checkpoint):
            trained.names.append(f"{run.path} at update {update}")
            trained.models.append(model)
            trained.layouts.append(layout)
            trained.vectors.append(vector)
    return trained


def model_of(run: RunDirectory, source_vocabulary_size: int, target_vocabulary_size: int) -> Model:
    """The model of a run."""
    name = run.settings(ModelChoice).model
    if name not in SETTINGS:
        raise UserError(f"{run.path}: its model {name} is none of {', '.join(SETTINGS)}, which this version has.")
    return build_model(name, run.settings(SETTINGS[name]), source_vocabulary_size, target_vocabulary_size)


def checkpoint_key(name: str) -> int | Literal["best"] | None:
    """The name that `CheckpointStore.load` has for the checkpoint `name` of the command line."""
    if name.isdecimal():
        return int(name)
    return "best" if name == BEST else None


def _vectors(run: RunDirectory, layout: Layout, names: Sequence[str]) -> list[tuple[int, np.ndarray]]:
    """Update and parameter vector of each checkpoint of a run; two names of one checkpoint count once."""
    store = CheckpointStore(run.checkpoints)
    checkpoints = [store.load(checkpoint_key(name), slots=()) for name in names]
    vectors = {}
    for checkpoint in checkpoints:
        refuse(_parameter_faults(f"{run.path} at update {checkpoint.update}", layout, checkpoint.parameters))
        vectors[checkpoint.update] = layout.pack_arrays(checkpoint.parameters)
    return list(vectors.items())


def _parameter_faults(name: str, layout: Layout, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The parameters of a checkpoint that are not those of the model, and the other way round."""
    expected = {parameter.name: parameter.shape for parameter in layout.parameters}
    faults = [
        f"{name}: {parameter} has the shape {arrays[parameter].shape} in the checkpoint and {shape} by the run's "
        "settings and vocabularies, which do not belong to it."
        for parameter, shape in expected.items()
        if parameter in arrays and arrays[parameter].shape != shape
    ]
    odd = sorted(expected.keys() ^ arrays.keys())
    return faults + ([f"{name}: only one of model and checkpoint has {', '.join(odd[:5])}."] if odd else [])


def _vocabulary_faults(paths: Sequence[str], vocabularies: Sequence[tuple[Vocabulary, Vocabulary]]) -> list[str]:
    first = [vocabulary.fingerprint for vocabulary in vocabularies[0]]
    return [
        f"--run_directory={path}: its vocabularies differ from those of {paths[0]}; an ensemble must share them."
        for path, pair in zip(paths, vocabularies)
        if [vocabulary.fingerprint for vocabulary in pair] != first
    ]
