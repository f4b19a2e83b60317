"""What an engine is to whoever drives it."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfnmt.engines.report import BlockReport


class Engine(Protocol):
    """Where a strategy runs; see `tfnmt.engines.local.LocalEngine`."""

    def blocks(self) -> Iterator[BlockReport]:
        """Trains until `stop` is called; one report for each server update.

        Between two reports of a row with a barrier nothing moves; under the others, workers go on meanwhile.
        """

    def stop(self) -> None:
        """Lets nothing new begin: `blocks` ends behind the reports of what has been begun."""

    def snapshot(self) -> tf.Tensor:
        """The parameters [size] that are evaluated and saved."""

    def scale_learning_rate(self, factor: float) -> None:
        """Multiplies the rate of the plateau schedule."""

    def vectors(self) -> Mapping[str, np.ndarray]:
        """Every vector [size] that a resume needs, by name."""

    def counters(self) -> Mapping[str, Any]:
        """Everything else that a resume needs, ready for JSON; `evaluated` names the vector that `snapshot` returns."""

    def restore(self, vectors: Mapping[str, np.ndarray], counters: Mapping[str, Any]) -> None:
        """Takes up what `vectors` and `counters` of any engine returned; called before `blocks`."""
