"""Fragments: parts of the vectors that travel at different times, so that never all of them are on their way at once.

Every server has an equal part of each fragment: of the shards, in order, fragment p of P has the p-th of each P.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf


class Fragment(NamedTuple):
    """One of the parts of a vector whose shards lie one behind the other.

    >>> fragment = Fragment(number=1, of=2, shards=4)
    >>> fragment.take(tf.range(8)).numpy()
    array([2, 3, 6, 7], dtype=int32)
    >>> fragment.put(tf.range(8), tf.zeros([4], tf.int32)).numpy()
    array([0, 1, 0, 0, 4, 5, 0, 0], dtype=int32)
    >>> fragment.place(2, size=8)
    6

    Attributes:
      number: p, from 0.
      of: P; 1 where vectors are never in parts.
      shards: of the whole vector, a multiple of P.
    """

    number: int
    of: int
    shards: int

    def take(self, vector: Any) -> tf.Tensor:
        """The fragment [size / P] of a vector [size], a tensor or a variable."""
        return vector if self.of == 1 else tf.concat(self._split(vector)[self.number :: self.of], axis=0)

    def put(self, vector: Any, part: Any) -> tf.Tensor:
        """A vector [size] that has `part` [size / P] in place of the fragment."""
        if self.of == 1:
            return part
        pieces = self._split(vector)
        pieces[self.number :: self.of] = tf.split(part, self.shards // self.of)
        return tf.concat(pieces, axis=0)

    def place(self, index: Any, size: int) -> Any:
        """Where an element of the fragment is in a vector of `size` elements."""
        shard_size = size // self.shards
        return (index // shard_size * self.of + self.number) * shard_size + index % shard_size

    def _split(self, vector: Any) -> list[tf.Tensor]:
        return tf.split(tf.convert_to_tensor(vector), self.shards)


class Held(Mapping[str, Any]):
    """A fragment of each of the vectors that a worker holds; a vector is read when it is asked for."""

    def __init__(self, vectors: Mapping[str, Any], fragment: Fragment):
        """Takes vectors [size] by name."""
        self._vectors, self._fragment = vectors, fragment

    def __getitem__(self, name: str) -> Any:
        return self._fragment.take(self._vectors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def whole(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """The vectors [size] of which these fragments have changed."""
        return {name: self._fragment.put(self._vectors[name], part) for name, part in changed.items()}
