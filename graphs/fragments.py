"""Fragments: equal parts of the vectors that travel at different times, so that never all is on its way at once.

Every server has an equal part of each: of the shards, in order, the first ones are those of the first fragment. So what
a fragment is does not depend on how many servers there are, but for the padding of a vector.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

Each = TypeVar("Each")


class Fragment(NamedTuple):
    """One of the equal parts of a vector.

    >>> fragment = Fragment(number=1, of=3)
    >>> fragment.take(tf.range(6)).numpy()
    array([2, 3], dtype=int32)
    >>> fragment.put(tf.range(6), tf.zeros([2], tf.int32)).numpy()
    array([0, 1, 0, 0, 4, 5], dtype=int32)

    Attributes:
      number: p, from 0.
      of: how many there are, P; 1 where vectors are never in parts.
    """

    number: int
    of: int

    def take(self, vector: Any) -> Any:
        """The fragment [size / P] of a vector [size], a tensor or a variable."""
        return vector if self.of == 1 else tf.split(vector, self.of)[self.number]

    def put(self, vector: Any, part: Any) -> Any:
        """A vector [size] that has `part` [size / P] in place of the fragment."""
        if self.of == 1:
            return part
        pieces = tf.split(vector, self.of)
        return tf.concat([*pieces[: self.number], part, *pieces[self.number + 1 :]], axis=0)

    def shards(self, of_all: Sequence[Each]) -> Sequence[Each]:
        """What belongs to the fragment's shards, of something for each shard of the whole vector."""
        count = len(of_all) // self.of
        return of_all[self.number * count : (self.number + 1) * count]

    def place(self, index: Any, size: int) -> Any:
        """Where an element of the fragment is in a vector of `size` elements."""
        return self.number * (size // self.of) + index


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
