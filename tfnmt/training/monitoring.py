"""What a run tells while it trains: log lines, a bar on a terminal, TensorBoard, metrics as JSON lines.

The x axis is the number of updates. Everything between two log points is summed and divided once, and all of it
comes from the engine's reports, whose seconds leave out evaluation and saving: the rates are those of training.
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from tfnmt.engines.report import BlockReport, PushReport
from tfnmt.evaluation import Scores
from tfnmt.progress import Progress
from tfnmt.run_directory import RunDirectory
from tfnmt.settings import setting, value_text
from tfnmt.strategies import RowSettings
from tfnmt.training.events import EventFile
from tfnmt.training.log_points import (
    LAYOUT,
    METRICS,
    LogPoint,
    Scalar,
    json_record,
    scalars,
    speed_text,
    training_line,
    validation_line,
)
from tfnmt.training.profiling import Profiler, parse_range
from tfnmt.training.samples import attention_picture, markdown_table
from tfnmt.training.stopping import EarlyStopping, StoppingSettings, seconds_left, share_done
from tfnmt.training.time_spent import remedy_text, time_shares
from tfnmt.training.totals import Totals
from tfnmt.training.trackers import TRACKERS, Trackers, faults_of_trackers
from tfnmt.training.validation import Evaluation

_UPDATES_BEFORE_WARNING = 50


@dataclasses.dataclass(frozen=True)
class MonitoringSettings:
    """What is told about training, and how often."""

    log_every_updates: int = setting(
        100, "Updates between log points; the first ones come sooner.", minimum=1, may_change=True
    )
    log_every_seconds: float = setting(
        30.0, "Seconds of training after which a log point comes even so.", minimum=0.1, may_change=True
    )
    attention_pictures: int = setting(
        1, "Sample translations whose attention is drawn for TensorBoard.", minimum=0, may_change=True
    )
    profile_updates: str = setting(
        "", "Updates to profile for TensorBoard, such as 100-110; empty for none.", may_change=True
    )

    report_to: tuple[str, ...] = setting(
        (),
        "Experiment trackers that get TensorBoard's curves too. W&B works offline, in the run directory, unless "
        "WANDB_MODE says otherwise, and MLflow there in files, unless MLFLOW_TRACKING_URI names a place.",
        choices=tuple(TRACKERS),
        may_change=True,
    )

    def faults(self) -> list[str]:
        """A range that is none, and trackers that are not installed."""
        faults = faults_of_trackers(self.report_to)
        if self.profile_updates and not parse_range(self.profile_updates):
            faults.append(f"--profile_updates={self.profile_updates}: must be like 100-110, updates from 2 on.")
        return faults


class Monitor:
    """Watches one run. It holds nothing that a checkpoint needs: the totals come with every report."""

    def __init__(
        self,
        run_directory: RunDirectory,
        settings: MonitoringSettings,
        stopping: StoppingSettings,
        speed_up: Callable[[RowSettings, Sequence[PushReport]], float | None] = lambda row, pushes: None,
    ):
        """Nothing is written before the first report or evaluation.

        Args:
          run_directory: where events and metrics go.
          settings: how often, and how much.
          stopping: the limits, from which the time left follows.
          speed_up: predicts how much faster another row would be, by pushes of this run.
        """
        self._directory, self._settings, self._stopping = run_directory, settings, stopping
        self._speed_up = speed_up
        self._profiler = Profiler(parse_range(settings.profile_updates), run_directory.events)
        self._description: tuple[Mapping[str, bool | int | float | str], str] = ({}, "")
        self._events: EventFile | None = None
        self._trackers: Trackers | None = None
        self._progress: Progress | None = None
        self._began = self._logged = Totals()  # where this session and the sums of the next log point begin
        self._built: Totals | None = None  # behind this session's first update, which builds the graph
        self._last: tuple[BlockReport, Totals] | None = None
        self._pushes: list[PushReport] = []  # since the last log point
        self._early: list[PushReport] | None = []  # behind that update, until they have been looked at
        self._scores = ""
        self._signatures: Mapping[str, str] = {}  # of sacreBLEU, as they were told last
        self._writable = True

    def describe(self, settings: Sequence[Any], facts: Mapping[str, Any]) -> None:
        """Keeps what TensorBoard shall show of the run's making.

        Args:
          settings: instances of settings dataclasses.
          facts: more to know, by name, such as the number of parameters.
        """
        rows = [(field, getattr(each, field.name)) for each in settings for field in dataclasses.fields(each)]
        flags = [(f"--{field.name}", value_text(value)) for field, value in rows]
        text = f"{markdown_table(('fact', 'value'), list(facts.items()))}\n\n{markdown_table(('flag', 'value'), flags)}"
        # What may change in a resumed run, such as hosts and log intervals, makes no difference to what is trained.
        trained = {field.name: value for field, value in rows if not field.metadata.get("may_change")}
        self._description = {name: _hyperparameter(value) for name, value in trained.items()}, text

    def record(self, report: BlockReport, totals: Totals) -> None:
        """Takes in one report.

        Args:
          report: the report.
          totals: the run's totals, this report and the parts before a resume included.
        """
        progress = self._progress or self._begin(totals - Totals.of(report))
        if self._built is not None:
            self._warn(report, totals - self._built)
        self._built = self._built or totals
        self._last = (report, totals)
        self._pushes += report.pushes
        if report.skipped is not None:
            self._append("skipped", report.update, {"reason": report.skipped})
        if self._due(totals):
            self._log(report, totals)
        self._show(progress, report, totals)
        self._profiler.after(report.update)

    def evaluated(self, evaluation: Evaluation, totals: Totals, early_stopping: EarlyStopping) -> None:
        """Takes in an evaluation and, from `early_stopping`, the best one so far."""
        if self._progress is None:
            self._begin(totals)
        update, metrics = totals.updates, evaluation.metrics()
        metric, best = self._stopping.early_stopping_metric, early_stopping.best
        found = {**metrics, **({f"best_{metric}": best} if best is not None else {})}
        self._scores = f"BLEU {metrics['bleu']:.1f}"
        logging.info("%s", validation_line(update, metrics, early_stopping, metric))
        for sample in evaluation.samples:
            logging.info("  source:     %s", sample.source)
            logging.info("  reference:  %s", sample.reference)
            logging.info("  hypothesis: %s", sample.hypothesis)
        new_signatures = self._new_signatures(evaluation.scores)
        for name, text in new_signatures.items():
            logging.info("  %s signature: %s", METRICS[name][0], text)
        signatures = {f"{name}_signature": text for name, text in self._signatures.items()}
        spent = {"target_tokens": totals.target_tokens, "training_hours": totals.seconds / 3600}
        self._append("validation", update, {**found, **signatures, **spent})
        curves = [Scalar(f"eval/{name}", value) for name, value in found.items()]
        with self._tolerant():
            self._write_evaluation(update, evaluation, curves, new_signatures)
        self._track(update, curves)

    def close(self) -> None:
        """Writes what is left and ends the files and the bar; again, it does nothing."""
        if self._last is not None and (self._last[1] - self._logged).updates:
            self._log(*self._last)
        self._last = None
        if self._trackers is not None:
            self._trackers.close()
            self._trackers = None
        with self._tolerant():
            self._profiler.close()
            if self._events is not None:
                self._events.close()
                self._events = None
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def __enter__(self) -> "Monitor":
        """The monitor itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it, however the run ends: the bar must leave the terminal in order."""
        self.close()

    def _begin(self, totals: Totals) -> Progress:
        """Opens everything, for a run that has come as far as `totals`."""
        self._began = self._logged = totals
        total = 1.0 if share_done(self._stopping, totals) is not None else None
        self._progress = Progress("Training", total, lines=False)
        with self._tolerant():
            self._directory.rewind_metrics(totals.updates)
            self._events = EventFile(self._directory.events, totals.updates)
            self._events.layout(LAYOUT)
            hyperparameters, text = self._description
            if text:
                self._events.hyperparameters(self._directory.path.absolute().name, hyperparameters)
                self._events.text(totals.updates, "configuration", text)
        with self._tolerant():
            self._trackers = Trackers(self._settings.report_to, self._directory.path.absolute(), self._description[0])
        return self._progress

    def _warn(self, report: BlockReport, since_built: Totals) -> None:
        """Says once what takes the time of workers that compute for less than half of it."""
        if self._early is None:
            return
        self._early += report.pushes
        if since_built.updates < _UPDATES_BEFORE_WARNING:
            return
        early = self._early
        if text := remedy_text(time_shares(early), lambda row: self._speed_up(row, early)):
            logging.warning("%s", text)
        self._early = None

    def _due(self, totals: Totals) -> bool:
        """Whether to log: after 1, 2, 4, 8 ... updates of a session at first, for early signs of life."""
        window = totals - self._logged
        every = min(self._settings.log_every_updates, ((totals - self._began).updates + 1) // 2)
        return window.updates > 0 and (window.updates >= every or window.seconds >= self._settings.log_every_seconds)

    def _log(self, report: BlockReport, totals: Totals) -> None:
        at = LogPoint(totals - self._logged, totals, report, self._pushes, self._seconds_left(totals))
        self._logged, self._pushes = totals, []
        logging.info("%s", training_line(at))
        points = list(scalars(at))
        self._append("training", totals.updates, json_record(at))
        with self._tolerant():
            if self._events is not None:
                self._events.scalars(totals.updates, points)
                self._events.histogram(totals.updates, "workers/staleness", [push.staleness for push in at.pushes])
                self._events.flush()
        self._track(totals.updates, points)

    def _show(self, progress: Progress, report: BlockReport, totals: Totals) -> None:
        window = totals - self._logged
        if not window.updates:
            window = Totals.of(report)
        facts = (
            f"loss {window.loss_per_token:.3f}",
            self._scores,
            speed_text(totals - self._began, report),
            f"update {totals.updates:,}",
        )
        share = share_done(self._stopping, totals) or 0.0
        left = None if report.is_virtual else self._seconds_left(totals)  # the bar's own clock is the wall's
        progress.show(share, ", ".join(filter(None, facts)), left)

    def _seconds_left(self, totals: Totals) -> float | None:
        return seconds_left(self._stopping, totals, self._built or totals)

    def _new_signatures(self, scores: Scores) -> Mapping[str, str]:
        """Metric -> signature, unless this session has told the same before: they hardly ever change."""
        known, self._signatures = self._signatures, scores.signatures()
        return {} if known == self._signatures else self._signatures

    def _write_evaluation(
        self, update: int, evaluation: Evaluation, curves: Sequence[Scalar], signatures: Mapping[str, str]
    ) -> None:
        if self._events is None:
            return
        if signatures:
            rows = [(METRICS[name][0], text) for name, text in signatures.items()]
            self._events.text(update, "signatures", markdown_table(("metric", "signature"), rows))
        self._events.scalars(update, curves)
        if evaluation.samples:
            names = ("source", "reference", "hypothesis")
            rows = [(name, getattr(sample, name)) for sample in evaluation.samples for name in names]
            self._events.text(update, "samples", markdown_table(("", "sentence"), rows))
        for number, sample in enumerate(evaluation.samples[: self._settings.attention_pictures], start=1):
            if sample.attention.size:
                png = attention_picture(sample.source_pieces, sample.target_pieces, sample.attention)
                self._events.picture(update, f"attention/{number}", png)
        self._events.flush()

    def _track(self, update: int, points: Sequence[Scalar]) -> None:
        with self._tolerant():
            if self._trackers is not None:
                self._trackers.scalars(update, points)

    def _append(self, kind: str, update: int, values: Mapping[str, Any]) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with self._tolerant():
            self._directory.append_metrics({"kind": kind, "update": update, "time": now, **values})

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Lets training go on when monitoring cannot write, and says so once."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            if self._writable:
                logging.error("Events or metrics cannot be written, training goes on without: %s", error)
            self._writable = False


def _hyperparameter(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else value_text(value)
