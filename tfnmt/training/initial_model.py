"""The parameters that a training begins with: those of a trained model, or of some of its layers.

A model with fewer layers than the trained one is what pruning leaves of it: the layers that are kept lie evenly in the
trained stacks, the first one among them, and training mends what the others leave (Shleifer & Rush 2020, "Pre-trained
Summarization Distillation": shrink and fine-tune).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfnmt.data.vocabulary import Vocabulary
from tfnmt.decoding.loading import BEST, TrainedSettings, load, model_of
from tfnmt.errors import UserError, refuse
from tfnmt.layout import Parameter
from tfnmt.models.base import Model
from tfnmt.models.transformer import Transformer
from tfnmt.models.transformer_parameters import MEMORY
from tfnmt.run_directory import RunDirectory
from tfnmt.settings import flag_text

Arrays = Mapping[str, np.ndarray]

_FREE = ("label_smoothing", "precision")  # with dropouts: what parameters mean does not depend on these
_LAYERS = ("encoder_layers", "decoder_layers")


def begin_with(path: str, vocabularies: tuple[Vocabulary, Vocabulary], model: Model) -> tuple[Parameter, ...]:
    """The parameters of `model`, whose first values are those of the best checkpoint of the run at `path`.

    The checkpoint is read when the first value is asked for.

    Raises:
      UserError: there is no such run, or what it trained does not fit `model` or the vocabularies.
    """
    flag = f"--initial_model={path}"
    try:
        run = RunDirectory(path)
        of_run = Vocabulary(run.source_vocabulary), Vocabulary(run.target_vocabulary)
        trained = model_of(run, *(vocabulary.size for vocabulary in of_run))
    except UserError as error:
        raise UserError(*(f"{flag}: {fault}" for fault in error.faults)) from error
    if [each.fingerprint for each in of_run] != [each.fingerprint for each in vocabularies]:
        raise UserError(f"{flag}: it was trained with another vocabulary; take that one, by --vocabulary={path}.")
    refuse([f"{fault} ({flag})" for fault in _faults(model, trained)])
    layers = _layers(model, trained)
    held: dict[str, np.ndarray] = {}  # each until it is asked for, so that training does not hold the model twice

    def first_value(parameter: Parameter, *_: Any) -> tf.Tensor:
        if parameter.name not in held:
            arrays = _arrays(path)
            held.update({each.name: _taken(each, layers, arrays) for each in model.parameters})
        return tf.constant(held.pop(parameter.name))

    return tuple(
        dataclasses.replace(each, initializer=functools.partial(first_value, each)) for each in model.parameters
    )


def kept_layers(count: int, of: int) -> list[int]:
    """Which `count` of so many layers are kept.

    >>> kept_layers(2, of=6), kept_layers(3, of=6), kept_layers(1, of=6)
    ([0, 5], [0, 2, 5], [0])
    """
    return [round(place) for place in np.linspace(0, of - 1, count)]


def _arrays(path: str) -> Arrays:
    trained = load(TrainedSettings((path,), (BEST,)))
    return trained.layouts[0].unpack_array(trained.vectors[0])


def _faults(model: Model, trained: Model) -> list[str]:
    """What makes the parameters of the `trained` model mean something else in `model`."""
    if type(model) is not type(trained):
        return [f"The trained model is a {type(trained).__name__}, and this one a {type(model).__name__}: see --model."]
    ours, theirs = dataclasses.asdict(model.settings), dataclasses.asdict(trained.settings)
    may_differ = {name for name in ours if name in _FREE or name.endswith("dropout")}
    if isinstance(model, Transformer):
        may_differ |= {name for name in _LAYERS if ours[name] < theirs[name]}
    return [
        f"{flag_text(name, ours[name])}: the trained model has {theirs[name]}"
        f"{', of which fewer may be kept' * (name in _LAYERS and isinstance(model, Transformer))}."
        for name in ours
        if name not in may_differ and ours[name] != theirs[name]
    ]


def _layers(model: Model, trained: Model) -> dict[str, list[int]]:
    """Stack -> the trained layer that each of its layers begins with; empty where all parameters keep their names."""
    if not isinstance(model, Transformer):
        return {}
    ours, theirs = model.settings, trained.settings
    return {
        "encoder": kept_layers(ours.encoder_layers, theirs.encoder_layers),
        "decoder": kept_layers(ours.decoder_layers, theirs.decoder_layers),
    }


def _taken(parameter: Parameter, layers: Mapping[str, Sequence[int]], arrays: Arrays) -> np.ndarray:
    """What the parameter begins with."""
    array = arrays[_trained_name(parameter.name, layers)]
    if not layers or not parameter.name.startswith(MEMORY):
        return array
    # Keys and values of all decoder layers, side by side.
    width = parameter.shape[-1] // len(layers["decoder"])
    return np.concatenate([array[..., layer * width :][..., :width] for layer in layers["decoder"]], axis=-1)


def _trained_name(name: str, layers: Mapping[str, Sequence[int]]) -> str:
    """The name that a parameter has in the trained model.

    >>> _trained_name("encoder/1/self_attention/output/bias", {"encoder": [0, 5]})
    'encoder/5/self_attention/output/bias'
    """
    stack, _, rest = name.partition("/")
    layer, _, rest = rest.partition("/")
    return f"{stack}/{layers[stack][int(layer)]}/{rest}" if stack in layers and layer.isdecimal() else name
