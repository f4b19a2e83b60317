"""The interface of an engine, which the trainer drives."""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfnmt.engines.report import BlockReport

if TYPE_CHECKING:
    from tfnmt.engines.servers import UpdateSequence


@dataclasses.dataclass(frozen=True)
class EngineState:
    """The state of a training at one instant: everything that a resume needs.

    Attributes:
      vectors: name -> array [size] or, for the age of a worker's slots in updates, a number.
      counters: numbers, ready for JSON; `evaluated` names the vector that is evaluated and saved as the model.
      reports: of updates that are in the state, but that `blocks` has not yielded and will not yield.
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
    """Where a row runs: it yields a report for each server update, and gives and takes the state of the training."""

    _servers: "UpdateSequence"
    _stopping = False

    @abc.abstractmethod
    def blocks(self) -> Iterator[BlockReport]:
        """Trains until `stop` is called; one report for each server update.

        While the caller holds a report, rows with a barrier stand still; the workers of other rows go on.
        """

    @abc.abstractmethod
    def state(self) -> EngineState:
        """The state as it is now."""

    @abc.abstractmethod
    def restore(self, state: EngineState) -> None:
        """Takes up the state of any engine, of any number of workers; called before `blocks`."""

    def stop(self) -> None:
        """Lets no further block begin: `blocks` ends behind the reports of the blocks that are under way."""
        self._stopping = True

    def scale_learning_rate(self, factor: float) -> None:
        """Multiplies the rate of the plateau schedule."""
        self._servers.plateau_scale *= factor

    def rehearse(self) -> None:
        """Builds the graphs of a worker's blocks and computes nothing, for a dry run; the engine cannot train then."""
        self._servers.trace()
