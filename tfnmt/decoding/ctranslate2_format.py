"""A Transformer in the files of CTranslate2 (https://opennmt.net/CTranslate2/), which runs it without TensorFlow.

Its Transformer is the same function as `tfnmt.models.transformer`, and differs in what is written down:

- Kernels are [outputs, inputs] there and [inputs, outputs] here.
- Keys and values that a decoder layer reads of the encoder are one kernel of that layer there, and a part of one kernel
  for all layers here. With `--normalization=pre` the normalization in front of them is the encoder's last one.
- Its own position signals begin at position 1, ours at 0, so that the table of ours is written.
- Its normalization adds 1e-5 to the variance unless told otherwise.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfnmt import installation
from tfnmt.batch import BEGIN_ID, END_ID, UNKNOWN_ID
from tfnmt.data.vocabulary import JOINT_NAME, SOURCE_NAME, TARGET_NAME, Vocabulary
from tfnmt.decoding.settings import SearchSettings
from tfnmt.errors import UserError
from tfnmt.models import layers
from tfnmt.models.tables import Tables
from tfnmt.models.transformer_parameters import MEMORY, TransformerSettings

FLOAT32 = "float32"
QUANTIZATIONS = (FLOAT32, "float16", "bfloat16", "int16", "int8", "int8_float16", "int8_bfloat16")
"""How the parameters are stored; behind int8_, all but kernels and embeddings is stored as the second word says."""

Arrays = Mapping[str, np.ndarray]
"""Parameter name -> array, as `Layout.unpack_array` gives them."""


def package() -> Any:
    """The package ctranslate2.

    Raises:
      UserError: it is not installed, or does not work here.
    """
    try:
        import ctranslate2
    except ImportError as error:
        named = {each.name: each for each in installation.requirements()}
        remedy = installation.remedy(named.get("ctranslate2"))
        raise UserError(f"The package ctranslate2 cannot be used ({error}); install it with {remedy}.") from error
    ctranslate2.set_log_level(logging.ERROR)  # It warns of arithmetic that a CPU lacks; we say what is used instead.
    return ctranslate2


def positions_of(search: SearchSettings) -> int:
    """The positions of the longest sentence that `search` allows, source or translation."""
    return max(search.longest_source_tokens, length_limit(search.longest_source_tokens, search))


def length_limit(source_tokens: int, search: SearchSettings) -> int:
    """`beam_search.length_limits` of one sentence, END_ID included on both sides."""
    return int(np.float32(search.max_length_factor) * np.float32(source_tokens)) + search.max_length_constant


def write(
    directory: Path,
    settings: TransformerSettings,
    arrays: Arrays,
    vocabularies: tuple[Vocabulary, Vocabulary],
    positions: int,
    quantization: str,
) -> None:
    """Writes model, vocabularies and SentencePiece models into `directory`, which exists.

    Args:
      directory: where they go.
      settings: of the model.
      arrays: its parameters.
      vocabularies: source and target.
      positions: tokens of the longest sentence on either side.
      quantization: one of `QUANTIZATIONS`.
    """
    spec = _specification(settings, arrays, vocabularies, positions)
    spec.validate()
    if quantization.endswith("bfloat16"):
        # The package would do this with PyTorch, which nothing else here needs.
        spec.optimize(quantization.replace("bfloat16", FLOAT32))
        _shorten(spec.variables())
    else:
        spec.optimize(quantization)
    spec.save(str(directory))
    source, target = vocabularies
    if source.fingerprint == target.fingerprint:
        (directory / JOINT_NAME).write_bytes(source.model)
    else:
        (directory / SOURCE_NAME).write_bytes(source.model)
        (directory / TARGET_NAME).write_bytes(target.model)


def _shorten(variables: Mapping[str, Any]) -> None:
    """Makes float32 variables bfloat16 in place, but for the scales of quantized ones."""
    for name, variable in variables.items():
        is_alias = isinstance(variable, str)
        if not is_alias and variable.dtype == FLOAT32 and not variable.is_scalar() and not name.endswith("_scale"):
            variable.array = variable.array.astype(tf.bfloat16.as_numpy_dtype)


def _specification(
    settings: TransformerSettings, arrays: Arrays, vocabularies: tuple[Vocabulary, Vocabulary], positions: int
) -> Any:
    """The package's description of the model, filled in."""
    source, target = vocabularies
    arrays = {name: array.copy() for name, array in arrays.items()}  # The package quantizes in place.
    tables = Tables(settings.tied_embeddings, settings.width, source.size, target.size)
    spec = package().specs.TransformerSpec.from_config(
        (settings.encoder_layers, settings.decoder_layers), settings.heads, pre_norm=settings.normalization == "pre"
    )
    signal = layers.positions(0, positions, settings.width, tf.float32).numpy()
    spec.encoder.position_encodings.encodings = spec.decoder.position_encodings.encodings = signal
    spec.encoder.embeddings[0].weight = arrays[tables.source]
    spec.decoder.embeddings.weight = arrays[tables.target]
    spec.decoder.projection.weight = arrays[tables.output]
    _fill_encoder(spec.encoder, arrays)
    _fill_decoder(spec.decoder, arrays, settings.width)
    spec.register_source_vocabulary(source.pieces())
    spec.register_target_vocabulary(target.pieces())
    pieces = target.pieces()
    spec.config.unk_token, spec.config.eos_token = pieces[UNKNOWN_ID], pieces[END_ID]
    spec.config.bos_token = spec.config.decoder_start_token = pieces[BEGIN_ID]
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = layers.NORM_EPSILON
    spec.config.add_attribute("positions", positions)  # for tfnmt-translate, which refuses longer sentences
    return spec


def _fill_encoder(spec: Any, arrays: Arrays) -> None:
    for number, layer in enumerate(spec.layer):
        _fill_self_attention(layer.self_attention, arrays, f"encoder/{number}/self_attention")
        _fill_feed_forward(layer.ffn, arrays, f"encoder/{number}/feed_forward")
    if hasattr(spec, "layer_norm"):
        _fill_norm(spec.layer_norm, arrays, "encoder/norm")


def _fill_decoder(spec: Any, arrays: Arrays, width: int) -> None:
    for number, layer in enumerate(spec.layer):
        _fill_self_attention(layer.self_attention, arrays, f"decoder/{number}/self_attention")
        name = f"decoder/{number}/cross_attention"
        queries, keys_values, output = layer.attention.linear
        _fill_norm(layer.attention.layer_norm, arrays, f"{name}/norm")
        _fill_dense(queries, arrays, f"{name}/query")
        _fill_dense(keys_values, arrays, MEMORY, slice(2 * number * width, 2 * (number + 1) * width))
        _fill_dense(output, arrays, f"{name}/output")
        _fill_feed_forward(layer.ffn, arrays, f"decoder/{number}/feed_forward")
    if hasattr(spec, "layer_norm"):
        _fill_norm(spec.layer_norm, arrays, "decoder/norm")


def _fill_self_attention(spec: Any, arrays: Arrays, name: str) -> None:
    queries_keys_values, output = spec.linear
    _fill_norm(spec.layer_norm, arrays, f"{name}/norm")
    _fill_dense(queries_keys_values, arrays, f"{name}/query_key_value")
    _fill_dense(output, arrays, f"{name}/output")


def _fill_feed_forward(spec: Any, arrays: Arrays, name: str) -> None:
    _fill_norm(spec.layer_norm, arrays, f"{name}/norm")
    _fill_dense(spec.linear_0, arrays, f"{name}/hidden")
    _fill_dense(spec.linear_1, arrays, f"{name}/output")


def _fill_norm(spec: Any, arrays: Arrays, name: str) -> None:
    spec.gamma, spec.beta = arrays[f"{name}/scale"], arrays[f"{name}/offset"]


def _fill_dense(spec: Any, arrays: Arrays, name: str, outputs: slice = slice(None)) -> None:
    """The dense layer `name`, or those of its outputs."""
    spec.weight = np.ascontiguousarray(arrays[f"{name}/kernel"][:, outputs].T)
    spec.bias = arrays[f"{name}/bias"][outputs]
