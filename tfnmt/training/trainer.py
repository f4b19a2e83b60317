"""The training loop: it consumes an engine's reports, and between them evaluates, saves and stops.

Any engine will do: the loop knows neither the strategy nor how many workers there are.
"""

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from tfnmt.checkpoints import Checkpoint, CheckpointStore, SaveError
from tfnmt.engines.base import Engine, EngineState
from tfnmt.engines.report import BlockReport
from tfnmt.errors import UserError
from tfnmt.layout import Layout
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.settings import setting
from tfnmt.signals import StopSignals
from tfnmt.training.monitoring import Monitor
from tfnmt.training.run_state import RunState
from tfnmt.training.stopping import (
    HIGHER_IS_BETTER,
    EarlyStopping,
    StoppingSettings,
    limit_reached,
)
from tfnmt.training.validation import Validation

_ANSWER = "training saves after this update and ends; once more ends it unsaved."


@dataclasses.dataclass(frozen=True)
class SavingSettings:
    """When the run is saved, beside each evaluation and the end."""

    save_every_minutes: float = setting(10.0, "Minutes between checkpoints.", minimum=0.01, may_change=True)
    max_nonfinite: int = setting(
        10,
        "Updates skipped in a row, because their gradients were not finite, after which the run stops.",
        minimum=1,
        may_change=True,
    )


class Trainer:
    """Trains until a limit, early stopping, too many updates that are not finite, or a signal."""

    def __init__(
        self,
        engine: Engine,
        layout: Layout,
        store: CheckpointStore,
        monitor: Monitor,
        validation: Validation | None,
        *,
        stopping: StoppingSettings,
        schedule: ScheduleSettings,
        saving: SavingSettings,
        evaluate_every_updates: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Brings the parts together.

        Args:
          engine: what computes the updates.
          layout: names the parameters in checkpoints.
          store: where checkpoints go.
          monitor: is told of every report and evaluation.
          validation: evaluates; None for a run without validation files.
          stopping: what ends the run.
          schedule: told about evaluations without improvement when it is a plateau.
          saving: when to save.
          evaluate_every_updates: 0 for no evaluation.
          clock: seconds, by which the run is saved between evaluations.
        """
        self._engine, self._layout, self._store = engine, layout, store
        self._monitor, self._validation = (
            monitor,
            validation if evaluate_every_updates else None,
        )
        self._stopping, self._schedule, self._saving = stopping, schedule, saving
        self._evaluate_every_updates = evaluate_every_updates
        self._state = RunState.beginning()
        self._workers: int | None = None  # by whom it was come to
        self._saved_update: int | None = None
        self._evaluated_update: int | None = None
        self._clock, self._saved_at = clock, clock()

    def resume(self, workers: int, live: EngineState | None = None) -> bool:
        """Takes up the newest checkpoint that verifies; False when there is none.

        Args:
          workers: how many there are now.
          live: a state of the engine that is newer, which follows from the checkpoint by its reports.

        Raises:
          UserError: none verifies, or the newest is not of a training run.
        """
        self._store.remove_leftovers()
        if not self._store.updates():
            if live is not None:
                self._go_on_from(live, workers)
            return live is not None
        checkpoint = self._store.load()
        if "engine" not in checkpoint.progress:
            raise UserError(
                f"{self._store.directory}: its checkpoints hold parameters alone, as tfnmt-average writes them; "
                "training goes on from those of a training run. Choose another --run_directory."
            )
        evaluated = self._layout.pack_arrays(checkpoint.parameters)
        vectors = {name: self._layout.pack_arrays(arrays) for name, arrays in checkpoint.state.items()}
        vectors |= {name: np.float64(number) for name, number in checkpoint.progress.get("numbers", {}).items()}
        counters = checkpoint.progress["engine"]
        self._state = RunState.from_json(checkpoint.progress["trainer"])
        self._saved_update = self._evaluated_update = checkpoint.update
        self._note_workers(len(counters["workers"]))
        self._go_on_from(live or EngineState(vectors | {counters["evaluated"]: evaluated}, counters), workers)
        return True

    def _go_on_from(self, state: EngineState, workers: int) -> None:
        self._engine.restore(state)
        for report in state.reports:
            if report.update > self.update:
                self._note_workers(len(report.pushes))  # on ranks, which alone have such reports, one of each
                self._state = self._state.after(report)
        self._note_workers(len(state.counters["workers"]))
        self._note_workers(workers)

    def _note_workers(self, workers: int) -> None:
        if self._workers not in (None, workers):
            self._state = self._state.with_other_workers()
        self._workers = workers

    def train(self) -> int:
        """Runs to the end and saves; the process's exit code: 0, or 128 + the signal that ended it.

        Raises:
          SaveError: the last checkpoint could not be saved.
          UserError: too many updates in a row were not finite.
        """
        reached = self._state.early_stopping.target_reached(self._stopping)
        reason = reached or limit_reached(self._stopping, self._state.totals)
        with self._monitor, StopSignals(_ANSWER) as signals:
            if self._evaluation_is_due:  # a signal came before it
                reason = self._between_updates() or reason
            if reason is None:
                reason = self._loop(signals)
            logging.info("Training ends: %s.", reason)
            if not signals.requested and self._validation and self._evaluated_update != self.update:
                self._evaluate(self._validation, scheduled=False)
            self._save(last=True)
        return signals.exit_code

    @property
    def update(self) -> int:
        """Updates so far."""
        return self._state.totals.updates

    def _loop(self, signals: StopSignals) -> str:
        """Trains until there is a reason to end, and returns it."""
        end = None
        logging.info("Training begins; the first update builds its graph.")
        for report in self._engine.blocks():
            self._take(report)
            reason = signals.reason or limit_reached(self._stopping, self._state.totals)
            if end is None and signals.requested is None and report.skipped is None:
                reason = self._between_updates() or reason
            if end is None and reason:
                end = reason
                self._engine.stop()
        return end or "the engine has nothing left to do"

    def _take(self, report: BlockReport) -> None:
        """Counts a report and tells of it."""
        self._state = self._state.after(report)
        self._monitor.record(report, self._state.totals)
        self._refuse_nonfinite(report)

    def _engine_state(self) -> EngineState:
        """The engine's state now, and ours up to it."""
        state = self._engine.state()
        for report in state.reports:
            self._take(report)
        return state

    @property
    def _evaluation_is_due(self) -> bool:
        every = self._evaluate_every_updates
        return self._validation is not None and self.update // every > self._state.evaluated_update // every

    def _between_updates(self) -> str | None:
        """Evaluates or saves when it is time; why training ends, if the evaluation says so."""
        if self._validation and self._evaluation_is_due:
            self._evaluate(self._validation, scheduled=True)
            found = self._state.early_stopping
            return found.target_reached(self._stopping) or found.patience_ended(self._stopping)
        if self._clock() - self._saved_at >= 60 * self._saving.save_every_minutes:
            self._save()
        return None

    def _evaluate(self, validation: Validation, scheduled: bool) -> None:
        """Evaluates and saves the same parameters.

        Only scheduled evaluations count for early stopping and the plateau: the one at the end of a run must not
        make a resumed run differ from one that never ended.
        """
        state = self._engine_state()
        evaluation = validation.evaluate(tf.constant(state.evaluated))
        self._evaluated_update = self.update
        metric = evaluation.metrics().get(self._stopping.early_stopping_metric, math.nan)  # a command may have failed
        found = self._state.early_stopping.after(self._stopping, metric, self.update)
        if scheduled:
            self._state = dataclasses.replace(self._state, early_stopping=found, evaluated_update=self.update)
            state = self._lower_plateau(found, state)
        self._monitor.evaluated(evaluation, self._state.totals, found)
        self._save(metric if HIGHER_IS_BETTER[self._stopping.early_stopping_metric] else -metric, state=state)

    def _lower_plateau(self, found: EarlyStopping, state: EngineState) -> EngineState:
        """Lowers the rate when it is time; the state that is to be saved, which knows of it."""
        waited, factor = found.evaluations_without_improvement, self._schedule.plateau_factor
        if self._schedule.schedule != "plateau" or not waited or waited % self._schedule.plateau_patience:
            return state
        self._engine.scale_learning_rate(factor)
        logging.info("No better for %d evaluations: learning rate times %g.", waited, factor)
        counters = {**state.counters, "plateau_scale": state.counters["plateau_scale"] * factor}
        return dataclasses.replace(state, counters=counters)

    def _save(self, metric: float | None = None, last: bool = False, state: EngineState | None = None) -> None:
        """Saves what was evaluated and all that resuming needs; only at the last save a failure ends the run."""
        if self._saved_update == self.update and metric is None:
            return
        state = state or self._engine_state()
        vectors = {name: vector for name, vector in state.vectors.items() if vector.ndim}
        evaluated = vectors.pop(state.counters["evaluated"])
        checkpoint = Checkpoint(
            update=self.update,
            parameters=self._layout.unpack_array(evaluated),
            state={name: self._layout.unpack_array(vector) for name, vector in vectors.items()},
            progress={
                "engine": state.counters,
                "numbers": {name: number.item() for name, number in state.vectors.items() if not number.ndim},
                "trainer": self._state.to_json(),
            },
        )
        self._saved_at = self._clock()
        try:
            self._store.save(checkpoint, metric)
            self._saved_update = self.update
        except SaveError as error:
            if last:
                raise
            logging.error("%s", error)

    def _refuse_nonfinite(self, report: BlockReport) -> None:
        if report.skipped:
            logging.warning("Update skipped: %s.", report.skipped)
        for push in report.pushes:
            if push.refused and not push.dropped and not report.skipped:
                logging.warning("A push of worker %d was refused: %s.", push.worker, push.refused)
            if push.skipped_steps:
                logging.warning("Worker %d left out %d steps that were not finite.", push.worker, push.skipped_steps)
        if self._state.skipped_in_a_row >= self._saving.max_nonfinite:
            raise UserError(
                f"--max_nonfinite={self._saving.max_nonfinite}: as many updates in a row were skipped, the last "
                f"because {report.skipped}. Lower --learning_rate, lengthen --warmup_updates or lower --clip_norm, and "
                "train anew in another --run_directory; with the same flags training goes on from the last checkpoint."
            )
