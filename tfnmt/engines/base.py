"""What an engine is to whoever drives it."""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfnmt.engines.report import BlockReport

if TYPE_CHECKING:
    from tfnmt.engines.servers import Servers


@dataclasses.dataclass(frozen=True)
class EngineState:
    """Everything that a resume needs, of one instant.

    Attributes:
      vectors: name -> array [size], or a number: how many updates old some of them are.
      counters: numbers, ready for JSON; `evaluated` names the vector that is the model.
      reports: of updates that the state holds and `blocks` has not yielded yet, nor will.
    """

    vectors: Mapping[str, np.ndarray]
    counters: Mapping[str, Any]
    reports: tuple[BlockReport, ...] = ()

    def with_vectors(self, vectors: Mapping[str, np.ndarray]) -> "EngineState":
        """The state with more vectors."""
        return dataclasses.replace(self, vectors={**self.vectors, **vectors})

    @property
    def evaluated(self) -> np.ndarray:
        """The parameters [size] that are evaluated and saved as the model."""
        return self.vectors[self.counters["evaluated"]]


class Engine(abc.ABC):
    """Where a strategy runs, and what all engines do alike when they are told to."""

    _servers: "Servers"
    _stopping = False

    @abc.abstractmethod
    def blocks(self) -> Iterator[BlockReport]:
        """Trains until `stop` is called; one report for each server update.

        Between two reports of a row with a barrier nothing moves; under the others, workers go on meanwhile.
        """

    @abc.abstractmethod
    def state(self) -> EngineState:
        """Everything that a resume needs, as it is now."""

    @abc.abstractmethod
    def restore(self, state: EngineState) -> None:
        """Takes up the state of any engine; called before `blocks`."""

    def stop(self) -> None:
        """Lets nothing new begin: `blocks` ends behind the reports of what has been begun."""
        self._stopping = True

    def scale_learning_rate(self, factor: float) -> None:
        """Multiplies the rate of the plateau schedule."""
        self._servers.plateau_scale *= factor

    def rehearse(self) -> None:
        """Builds the graphs of all that a worker does, and computes nothing; the engine is of no use behind it."""
        self._servers.trace()
