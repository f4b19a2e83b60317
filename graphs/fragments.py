"""Fragments: equal parts of the vectors that travel at different times, so that never all is on its way at once.

Every server has an equal part of each: of the shards, in order, the first ones are those of the first fragment. So what
a fragment is does not depend on how many servers there are, but for the padding of a vector.

Which fragment travels is a number in the graph: a graph for each would be as many copies of the model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class Fragment(NamedTuple):
    """One of the equal parts of a vector.

    >>> fragment = Fragment(number=1, of=3)
    >>> fragment.take(tf.range(6)).numpy()
    array([2, 3], dtype=int32)
    >>> fragment.put(tf.range(6), tf.zeros([2], tf.int32)).numpy()
    array([0, 1, 0, 0, 4, 5], dtype=int32)

    Attributes:
      number: p, from 0; an integer, or an int32 scalar in a graph.
      of: how many there are, P; 1 where vectors are never in parts.
    """

    number: Any
    of: int

    def take(self, vector: Any) -> Any:
        """The fragment [size / P] of a vector [size], a tensor or a variable."""
        if self.of == 1:
            return vector
        size = vector.shape[0] // self.of
        return tf.slice(vector, [self.number * size], [size])

    def put(self, vector: Any, part: Any) -> Any:
        """A vector [size] that has `part` [size / P] in place of the fragment."""
        if self.of == 1:
            return part
        first, behind = self.number * part.shape[0], (self.number + 1) * part.shape[0]
        return tf.ensure_shape(tf.concat([vector[:first], part, vector[behind:]], axis=0), vector.shape)

    def shards(self, of_all: Sequence[Any]) -> Sequence[Any]:
        """What belongs to the fragment's shards, of something for each shard of the whole vector; `number` is known."""
        count = len(of_all) // self.of
        return of_all[self.number * count : (self.number + 1) * count]

    def on_each_server(self, work: Callable[..., Any], *of_all: Sequence[Any]) -> list[Any]:
        """What `work` makes of the fragment's shard on each server.

        Args:
          work: takes the shard, and what else there is for it, and makes tensors of the same shapes whichever it is.
          *of_all: the shards of the whole vector, and others for each of them.
        """
        found = []
        count = len(of_all[0]) // self.of
        for server in range(count):
            choices = [lambda each=each: work(*each) for each in zip(*(each[server::count] for each in of_all))]
            found.append(choices[0]() if self.of == 1 else tf.switch_case(self.number, choices))
        return found

    def place(self, index: Any, size: int) -> Any:
        """Where an element of the fragment is in a vector of `size` elements."""
        return self.number * (size // self.of) + index


WHOLE_VECTOR = Fragment(0, 1)


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
