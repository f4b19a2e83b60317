"""What an engine is to whoever drives it."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfnmt.engines.report import BlockReport


class Engine(Protocol):
    """Where a strategy runs; see `tfnmt.engines.local.LocalEngine`."""

    def blocks(self) -> Iterator[BlockReport]:
        """Trains for as long as the caller asks for the next report; one report for each server update."""

    def snapshot(self) -> tf.Tensor:
        """The parameters [size] that are evaluated and saved."""

    def scale_learning_rate(self, factor: float) -> None:
        """Multiplies the rate of the plateau schedule."""

    def vectors(self) -> Mapping[str, np.ndarray]:
        """Every vector [size] that an exact resume needs, by name; `average`, where there is one, is evaluated."""

    def counters(self) -> Mapping[str, Any]:
        """Everything else that an exact resume needs, ready for JSON."""

    def restore(self, vectors: Mapping[str, np.ndarray], counters: Mapping[str, Any]) -> None:
        """Takes up what `vectors` and `counters` returned; called before `blocks`."""
