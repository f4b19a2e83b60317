"""What is trained and how, whichever engine does it."""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfnmt.layout import Layout
from tfnmt.models.base import Model
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import Phase, StrategySettings

MakeBatches = Callable[[Sequence[int] | None, int, int], tf.data.Dataset]
"""Position behind which to read, None for the beginning; worker; workers -> an endless dataset of `Batch`."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything about a run's training but the place where it happens.

    Attributes:
      model: the model.
      layout: of its parameters, in as many shards as there are servers.
      phases: what trains when.
      schedule: of the learning rate.
      settings: what all strategies share.
      make_batches: the readers.
      dtype: of the parameters.
      streams: parts of a batch that are computed side by side; see `runtime.streams`.
    """

    model: Model
    layout: Layout
    phases: Sequence[Phase]
    schedule: ScheduleSettings
    settings: StrategySettings
    make_batches: MakeBatches
    dtype: tf.DType = tf.float32
    streams: int = 1
