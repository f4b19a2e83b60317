"""The model of a training that names none: a preset, by the size of the corpus and by the machine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from absl import logging

from tfnmt import installation, recorded_settings, runtime
from tfnmt.cluster.addresses import ClusterSettings, is_distributed
from tfnmt.cluster.launched import launched
from tfnmt.commands.command_line import CommandLine
from tfnmt.commands.train_settings import REQUESTS, Settings
from tfnmt.data.corpus import find_corpus
from tfnmt.errors import UserError
from tfnmt.models.base import ModelSettings
from tfnmt.models.registry import SETTINGS, ModelChoice

CONFIGURATIONS = installation.ROOT / "configs"

_OF_ANY_MODEL = {"dropout", "label_smoothing", "tied_embeddings", "precision"}
_OF_MODELS = {field.name for cls in SETTINGS.values() for field in dataclasses.fields(cls)}
_CHOOSING = {"model"} | _OF_MODELS - _OF_ANY_MODEL  # who gives one of these flags has chosen a model


def choose(pairs: int, has_gpu: bool) -> tuple[str, str]:
    """The name of a preset for so many training pairs, and the reason, in words."""
    corpus = f"{pairs:,} training pairs"
    if pairs < 10_000:
        return "transformer_tiny", f"{corpus} would only be learned by heart by a larger one"
    if pairs < 1_000_000:
        return "transformer_small", f"{corpus} do not make up for the time that a larger one takes"
    if not has_gpu:
        return "transformer_small", f"without a GPU, {corpus} take a larger one days"
    if pairs < 10_000_000:
        return "transformer_base", f"there are {corpus} and a GPU"
    return "transformer_big", f"there are {corpus} and a GPU"


def completed(settings: Settings, given: Callable[[str], bool]) -> Settings:
    """`settings` with the model of a preset, or of the run that goes on, where no flag has chosen one.

    A model that begins as another one is like that one but for the flags that are given. Flags for any model, such as
    `--dropout`, keep their values. Tasks that are started one by one, on machines that may differ, choose nothing.

    Args:
      settings: those of the command line.
      given: whether a flag was given, by its name.
    """
    if settings.run.initial_model and not given("model"):
        return _like_initial(settings, given)
    is_one_of_many = launched() or (isinstance(settings.engine, ClusterSettings) and is_distributed(settings.engine))
    if is_one_of_many or any(map(given, _CHOOSING)):
        return settings
    try:
        choice, model = _recorded(Path(settings.run.run_directory)) or _preset(settings)
    except UserError:
        return settings  # Whoever reads the corpus or the run directory next will say it.
    own = {name: getattr(settings.model, name) for name in _OF_ANY_MODEL if given(name)}
    return settings._replace(choice=choice, model=dataclasses.replace(model, **own))


def _like_initial(settings: Settings, given: Callable[[str], bool]) -> Settings:
    try:
        found = _recorded(Path(settings.run.run_directory)) or _recorded(Path(settings.run.initial_model))
    except UserError:
        found = None
    if found is None or found[0] != settings.choice:
        return settings  # Whoever reads the run directory or the initial model next will say it.
    names = [field.name for field in dataclasses.fields(settings.model) if given(field.name)]
    own = {name: getattr(settings.model, name) for name in names}
    return settings._replace(model=dataclasses.replace(found[1], **own))


def _recorded(run_directory: Path) -> tuple[ModelChoice, ModelSettings] | None:
    """The model of a run; None where there is no run yet."""
    if not (run_directory / recorded_settings.SETTINGS).exists():
        return None
    recorded = recorded_settings.read(run_directory)
    choice = recorded_settings.instance(run_directory, recorded, ModelChoice)
    return choice, recorded_settings.instance(run_directory, recorded, SETTINGS[choice.model])


def _preset(settings: Settings) -> tuple[ModelChoice, ModelSettings]:
    if settings.data.train_pipe:
        name, reason = "transformer_small", "a pipe does not tell how many pairs it brings"
    else:
        name, reason = choose(find_corpus(settings.data).inspect()["train"], runtime.has_gpu())
    path = CONFIGURATIONS / f"{name}.flags"
    words = [f"--run_directory={settings.run.run_directory}", f"--flagfile={path}"]
    preset = Settings(*CommandLine(REQUESTS).parse(words))
    logging.info("Preset: configs/%s, because %s; --flagfile or --model chooses another.", path.name, reason)
    return preset.choice, preset.model
