"""The models by name: a new one joins `_MODELS` and inherits the contract test."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tfnmt.models.base import Model, ModelSettings
from tfnmt.models.recurrent import Recurrent, RecurrentSettings
from tfnmt.models.transformer import Transformer, TransformerSettings
from tfnmt.settings import setting

_MODELS: dict[str, tuple[type[ModelSettings], Callable[[Any, int, int], Model]]] = {
    "transformer": (TransformerSettings, Transformer),
    "recurrent": (RecurrentSettings, Recurrent),
}

SETTINGS: dict[str, type[ModelSettings]] = {name: settings for name, (settings, _) in _MODELS.items()}
"""Model name -> its settings."""


@dataclasses.dataclass(frozen=True)
class ModelChoice:
    """Which model."""

    model: str = setting("transformer", "Kind of translation model.", choices=tuple(SETTINGS))


def build_model(name: str, settings: ModelSettings, source_vocabulary_size: int, target_vocabulary_size: int) -> Model:
    """The model `name` with `settings`, of the class that `SETTINGS` has for this name.

    Raises:
      UserError: the settings contradict each other or the vocabularies.
    """
    _, model = _MODELS[name]
    return model(settings, source_vocabulary_size, target_vocabulary_size)
