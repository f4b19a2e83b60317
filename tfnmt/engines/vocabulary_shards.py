"""The vectors of a rank that has but a part of the rows of each table, and whole ones made of those of all ranks."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from graphs.forward_backward import Loss
from graphs.vocabulary_parallel import ShardedTable, shard_bounds
from tfnmt.cluster.grid import Grid
from tfnmt.engines.recipe import Recipe
from tfnmt.layout import Layout, Parameter
from tfnmt.transport import Transport

Vectors = Mapping[str, np.ndarray]


class VocabularyShard:
    """One rank's part of every vector: its rows of the tables, and all of everything else.

    Attributes:
      tables: the names of the parameters that are sharded by their rows.
      layout: of this rank's vectors.
    """

    def __init__(self, whole: Layout, rank: int, ranks: int):
        """Takes the layout of whole vectors, and the rank's place among those that share tables; one has whole ones."""
        self._whole, self._rank, self._ranks = whole, rank, ranks
        self.tables = {each.name: each for each in whole.parameters if each.by_token and ranks > 1}
        if not self.tables:
            self.layout = whole
            return
        # In the order of the whole layout: initial values depend on the number of a parameter.
        self.layout = Layout([self._part(each) if each.name in self.tables else each for each in whole.parameters])

    def recipe(self, recipe: Recipe, transport: Transport) -> Recipe:
        """The recipe for this rank: of its layout, with a loss that reads the rows of the others by the transport."""
        if not self.tables:
            return recipe
        loss = functools.partial(self._loss, recipe.model.loss, transport)
        return dataclasses.replace(recipe, model=_Sharded(loss), layout=self.layout)  # type: ignore[arg-type]

    @property
    def common_size(self) -> int:
        """Numbers of a vector that all ranks hold alike."""
        if not self.tables:
            return self.layout.size
        parts = self.layout.split(1, self.tables)
        return sum(part.size for part in parts if part.parameters[0].name not in self.tables)

    def cut(self, vectors: Vectors) -> dict[str, np.ndarray]:
        """This rank's part of whole vectors; what is no vector, such as an age, stays."""
        return {
            name: self._cut(vector) if self._is_sharded(vector, self._whole) else vector
            for name, vector in vectors.items()
        }

    def rows(self, vectors: Vectors) -> dict[str, np.ndarray]:
        """This rank's rows of its vectors, by names that no other rank has with whom it shares tables."""
        sharded = {name: vector for name, vector in vectors.items() if self._is_sharded(vector, self.layout)}
        found: dict[str, np.ndarray] = {}
        for name, vector in sharded.items():
            views = self.layout.unpack_array(vector)
            found |= {_row_name(self._rank, name, table): views[table] for table in self.tables}
        return found

    def join(self, vectors: Vectors, rows: Vectors) -> dict[str, np.ndarray]:
        """Whole vectors, of this rank's and the `rows` of all."""
        found = dict(vectors)
        for name, vector in vectors.items():
            if self._is_sharded(vector, self.layout):
                views = self.layout.unpack_array(vector)
                tables = {
                    table: np.concatenate([rows[_row_name(rank, name, table)] for rank in range(self._ranks)])
                    for table in self.tables
                }
                found[name] = self._whole.pack_arrays({**views, **tables})
        return found

    def place_of(self, element: int) -> int:
        """Where an element of what all ranks hold, counted without tables, is in this rank's vectors; -1 is none."""
        place = left = element
        for parameter, size in zip(self.layout.parameters, self.layout.padded_sizes):
            if left < 0:
                break
            if parameter.name in self.tables:
                place += size
            else:
                left -= size
        return place

    def _is_sharded(self, vector: np.ndarray, layout: Layout) -> bool:
        return bool(self.tables) and vector.shape == (layout.size,)

    def _cut(self, vector: np.ndarray) -> np.ndarray:
        views = self._whole.unpack_array(vector)
        own = {name: views[name][slice(*self._own_rows(parameter))] for name, parameter in self.tables.items()}
        return self.layout.pack_arrays({**views, **own})

    def _own_rows(self, table: Parameter) -> Sequence[int]:
        return shard_bounds(table.shape[0], self._ranks)[self._rank : self._rank + 2]

    def _part(self, table: Parameter) -> Parameter:
        first, behind = self._own_rows(table)

        def initialize(_: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
            return table.initializer(table.shape, seed)[first:behind]

        return dataclasses.replace(table, shape=(behind - first, *table.shape[1:]), initializer=initialize)

    def _loss(self, loss: Loss, transport: Transport, views: Mapping[str, tf.Tensor], batch: Any, seed: Any) -> Any:
        numbers = itertools.count()
        tables = {
            name: ShardedTable(views[name], shard_bounds(table.shape[0], self._ranks), self._rank, transport, numbers)
            for name, table in self.tables.items()
        }
        return loss({**views, **tables}, batch, seed)


@dataclasses.dataclass(frozen=True)
class _Sharded:
    """A model whose views are a rank's own."""

    loss: Loss


def whole_square(squares: Sequence[Sequence[float]], grid: Grid) -> float:
    """The squared norm of a vector, of what `squares_apart` says of it on each rank."""
    return squares[0][0] + sum(squares[rank][1] for rank in grid.group(0))


def _row_name(rank: int, vector: str, table: str) -> str:
    return f"rows_{rank}_{vector}_{table}"
