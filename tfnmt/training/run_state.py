"""How far a run has come: with the engine's state, all that a checkpoint holds."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfnmt.engines.report import BlockReport
from tfnmt.training.stopping import EarlyStopping
from tfnmt.training.totals import EpochMeter, Totals


@dataclasses.dataclass(frozen=True)
class RunState:
    """Totals since the run's first update, and what its evaluations have found."""

    totals: Totals
    meter: EpochMeter
    early_stopping: EarlyStopping
    skipped_in_a_row: int = 0
    evaluated_update: int = 0  # of the last scheduled evaluation

    @classmethod
    def beginning(cls) -> "RunState":
        """The state before the first update."""
        return cls(Totals(), EpochMeter(), EarlyStopping())

    def after(self, report: BlockReport) -> "RunState":
        """The state behind one more report."""
        meter = self.meter.at(report.epoch, self.totals.sentences)
        totals = self.totals + Totals.of(report)
        totals = dataclasses.replace(totals, epochs=meter.epochs(totals.sentences))
        skipped_in_a_row = self.skipped_in_a_row + 1 if report.skipped else 0
        return dataclasses.replace(self, totals=totals, meter=meter, skipped_in_a_row=skipped_in_a_row)

    def with_other_workers(self) -> "RunState":
        """The state from which another number of workers goes on, all of them at the beginning of the next epoch."""
        has_begun = self.totals.sentences > 0
        return dataclasses.replace(self, meter=dataclasses.replace(self.meter, breaks_off=has_begun))

    def to_json(self) -> dict[str, Any]:
        """JSON values of all fields."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunState":
        """The state that `to_json` wrote."""
        return cls(
            Totals(**values["totals"]),
            EpochMeter(**values["meter"]),
            EarlyStopping(**values["early_stopping"]),
            values["skipped_in_a_row"],
            values.get("evaluated_update", values["totals"]["updates"]),  # once it was not saved
        )
