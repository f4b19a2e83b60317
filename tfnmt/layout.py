"""A model's parameters as one flat vector.

Strategies, optimizers and engines know only vectors; models know only the named views of one. The layout is
the map between the two. Every parameter starts on a 64-byte boundary, so that a view is a slice which shares
the vector's memory, and the vector divides into equal shards, one for each parameter server.
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import tensorflow as tf

ALIGNMENT = 16  # elements: 64 bytes of float32

Initializer = Callable[[tuple[int, ...], tf.Tensor], tf.Tensor]
"""(shape, stateless seed int32 [2]) -> float32 tensor of that shape."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One named array of a model.

    Attributes:
      name: unique in the model.
      shape: its dimensions.
      initializer: makes its first value.
      by_token: whether its first dimension is a vocabulary, so that ranks may have a part of its rows each.
      looked_up: whether a loss reads nothing of it but the rows of its batch's source tokens.
    """

    name: str
    shape: tuple[int, ...]
    initializer: Initializer
    by_token: bool = False
    looked_up: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Layout:
    """Packs parameters, in the order declared, into one vector of `size` elements."""

    def __init__(self, parameters: Sequence[Parameter], shards: int = 1):
        """Lays out `parameters` for `shards` equal shards.

        Raises:
          ValueError: two parameters have one name.
        """
        names = [parameter.name for parameter in parameters]
        if len(set(names)) < len(names):
            raise ValueError(f"Parameter names must be unique: {sorted(names)}")
        self.parameters = tuple(parameters)
        self.padded_sizes = [_round_up(parameter.size, ALIGNMENT) for parameter in parameters]
        self.offsets = [0, *np.cumsum(self.padded_sizes).tolist()]
        self.shards = shards
        self.size = _round_up(self.offsets[-1], ALIGNMENT * shards)

    @property
    def parameter_count(self) -> int:
        """Number of trained numbers, padding excluded."""
        return sum(parameter.size for parameter in self.parameters)

    def unpack(self, vector: tf.Tensor) -> dict[str, tf.Tensor]:
        """The named views of `vector` [size]: slices, which share its memory where they are whole lines of 64 bytes."""
        views = {}
        # One split for all: a slice of each would be several operations to trace. At 64 bytes a split copies nothing.
        for parameter, piece in zip(self.parameters, tf.split(vector, [*self.padded_sizes, -1])):
            if parameter.size % ALIGNMENT:
                piece = tf.slice(piece, [0], [parameter.size])
            views[parameter.name] = piece if len(parameter.shape) == 1 else tf.reshape(piece, parameter.shape)
        return views

    def pack(self, arrays: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The vector [size] that holds `arrays`, with zeros in the padding."""
        dtype = next(iter(arrays.values())).dtype
        pieces = []
        for parameter, padded_size in zip(self.parameters, self.padded_sizes):
            pieces.append(tf.reshape(arrays[parameter.name], [parameter.size]))
            if padded_size > parameter.size:
                pieces.append(tf.zeros([padded_size - parameter.size], dtype))
        if self.size > self.offsets[-1]:
            pieces.append(tf.zeros([self.size - self.offsets[-1]], dtype))
        return tf.concat(pieces, axis=0)

    def split(self, pieces: int, apart: Collection[str] = ()) -> list["Layout"]:
        """Layouts of neighbouring parameters, `pieces` at most and about equally large, one behind the other.

        The parameters of the names `apart` have layouts of their own, which count as no pieces. Where the others are
        cut does not depend on them: they may have another size in another process, which must cut at the same places.
        """
        sizes = [0 if each.name in apart else size for each, size in zip(self.parameters, self.padded_sizes)]
        whole, starts = max(sum(sizes), 1), itertools.accumulate(sizes, initial=0)
        numbered = zip(self.parameters, (start * pieces // whole for start in starts))
        groups = itertools.groupby(numbered, lambda pair: (pair[0].name in apart, pair[1]))
        return [Layout([parameter for parameter, _ in found]) for _, found in groups]

    def initialize(self, seed: int, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """The vector [size] of initial values; each parameter's depends on `seed` and its number alone."""
        values = {
            parameter.name: tf.cast(parameter.initializer(parameter.shape, tf.constant([seed, number])), dtype)
            for number, parameter in enumerate(self.parameters)
        }
        return self.pack(values)

    def name_at(self, index: int) -> str:
        """The name of the parameter that element `index` of the vector belongs to."""
        number = bisect.bisect_right(self.offsets, index) - 1
        return self.parameters[min(number, len(self.parameters) - 1)].name

    def unpack_array(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """`unpack` for a NumPy vector [size]."""
        return {
            parameter.name: vector[offset : offset + parameter.size].reshape(parameter.shape)
            for parameter, offset in zip(self.parameters, self.offsets)
        }

    def pack_arrays(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """`pack` for NumPy arrays."""
        vector = np.zeros(self.size, next(iter(arrays.values())).dtype)
        for name, view in self.unpack_array(vector).items():
            view[...] = arrays[name]
        return vector


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
