"""Everything about a training but the engine on which it runs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from graphs.table_rows import TableRows, rows_of_shards
from tfnmt.layout import Layout
from tfnmt.models.base import Model
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import Phase, StrategySettings, most_fragments

MakeBatches = Callable[[Sequence[int] | None, int, int], tf.data.Dataset]
"""(position, worker, workers) -> an endless dataset of the worker's batches behind the position; None is the start."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What an engine needs to know of a run.

    Attributes:
      model: the model.
      layout: of its parameters, in as many shards as there are servers or, with fragments, that many for each of them.
      phases: the rows that train, and when.
      schedule: of the learning rate.
      settings: the flags that all rows share.
      make_batches: makes the reader of each worker.
      dtype: of the parameters.
      streams: parts of a batch that are computed side by side; see `runtime.streams`.
      is_starved: whether readers wait for text that has not come: workers that do not answer then are not silent.
      functions: where engines of one process that train alike keep the graph functions of blocks that pull nothing, to
        trace them once; None where each engine has its own.
    """

    model: Model
    layout: Layout
    phases: Sequence[Phase]
    schedule: ScheduleSettings
    settings: StrategySettings
    make_batches: MakeBatches
    dtype: tf.DType = tf.float32
    streams: int = 1
    is_starved: Callable[[], bool] = lambda: False
    functions: dict[Any, Any] | None = None

    @property
    def servers(self) -> int:
        """Parameter servers, or shards that are updated side by side."""
        return self.layout.shards // most_fragments(self.phases)

    @property
    def tables(self) -> Sequence[TableRows]:
        """The rows on each server that travel where a batch reads them; none where everything travels."""
        return rows_of_shards(self.layout) if self.settings.sparse_embeddings else ()
