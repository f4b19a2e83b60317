"""What training costs on this machine, measured in a minute: a step, an update of the servers, a meeting."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from graphs.work import NO_SUMS, Work
from tfnmt.batch import START
from tfnmt.cluster.addresses import ClusterSettings, find_cluster
from tfnmt.cluster.chief import tasks_of
from tfnmt.engines.cluster import ClusterEngine
from tfnmt.engines.local import LocalEngine
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.report import BlockReport
from tfnmt.engines.servers import UpdateSequence
from tfnmt.engines.worker import Push
from tfnmt.progress import Progress

LEAST_STEPS = 8
WARM_UP_STEPS = 4  # the first traces the graph; two sizes of batches take two each
STEP_SECONDS, UPDATE_SECONDS, MEETING_SECONDS = 25.0, 3.0, 15.0
"""For how long steps, updates and meetings are measured, beside the building of their graphs."""
SMALL_BATCH = 4
"""How many times a small batch of the probe fits into one of training."""

MakeBatches = Callable[[int], tf.data.Dataset]
"""Positions of a batch -> an endless dataset of such batches."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """What was measured on one machine; the names that `CostSettings` has too mean the same there.

    Attributes:
      machine: its processor and cores.
      parameters: numbers in a vector of all parameters.
      batch_tokens: target tokens of a batch of training, the mean.
      table_rows: rows of all embedding tables and of the output layer.
      table_width: numbers of such a row.
      source_rows: rows of the source table where that is only looked up; 0 where it is not.
      looked_up: of these, that a batch of training reads, the mean.
    """

    machine: str
    parameters: int
    batch_tokens: int
    step_seconds: float
    seconds_per_token: float
    server_seconds_per_byte: float
    meeting_seconds: float
    table_rows: int
    table_width: int
    source_rows: int = 0
    looked_up: int = 0

    def describe(self) -> str:
        """The numbers in words."""
        step = self.step_seconds + self.batch_tokens * self.seconds_per_token
        update = self.server_seconds_per_byte * self.parameters * tf.float32.size
        return (
            f"{self.machine}: a step of {self.batch_tokens:,} target tokens takes {_milliseconds(step)}, "
            f"{_milliseconds(self.step_seconds)} of it whatever their number; an update of {self.parameters:,} "
            f"parameters {_milliseconds(update)}; a meeting {_milliseconds(self.meeting_seconds)} beside its transfers"
        )


def measure(machine: str, recipe: Recipe, make_batches: MakeBatches, batch_positions: int) -> Probe:
    """Trains for about a minute, and forgets what came out.

    Behind it the process belongs to a cluster of its own: it can train nothing else, and ends by `os._exit`.

    Args:
      machine: its name.
      recipe: of synchronous training with one worker, on batches of training.
      make_batches: of the training corpus.
      batch_positions: of a batch of training.
    """
    tables = [parameter.shape for parameter in recipe.layout.parameters if parameter.by_token]
    sizes = batch_positions, max(batch_positions // SMALL_BATCH, 1)
    mixed = dataclasses.replace(recipe, make_batches=lambda *_: _in_turn([make_batches(size) for size in sizes]))
    with Progress("Probing", STEP_SECONDS + UPDATE_SECONDS + MEETING_SECONDS) as progress:
        steps = _timed(LocalEngine(mixed).blocks(), STEP_SECONDS, progress, "a step")
        update_seconds = _update_seconds(recipe, progress)
        met = _meetings(recipe, progress)
    seconds_per_token, local_seconds = fit_line([(report.target_tokens, _busy(report)) for report in steps])
    batch_tokens = round(statistics.mean(report.target_tokens for report in met))
    step_seconds = max(local_seconds - update_seconds, 0.0)
    whole_step = step_seconds + update_seconds + batch_tokens * seconds_per_token
    return Probe(
        machine=machine,
        parameters=recipe.layout.size,
        batch_tokens=batch_tokens,
        step_seconds=step_seconds,
        seconds_per_token=seconds_per_token,
        server_seconds_per_byte=update_seconds / (recipe.layout.size * recipe.dtype.size),
        meeting_seconds=max(statistics.median(map(_busy, met)) - whole_step, 0.0),
        table_rows=sum(rows for rows, _ in tables),
        table_width=max(width for _, width in tables),
        source_rows=sum(each.shape[0] for each in recipe.layout.parameters if each.looked_up),
        looked_up=_looked_up(make_batches(batch_positions)),
    )


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The slope and the offset, neither of them negative, of the line with the least squares.

    >>> fit_line([(100, 0.5), (400, 1.1)])
    (0.002, 0.3)
    """
    x, y = np.transpose(points)
    spread = ((x - x.mean()) ** 2).sum()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread else 0.0
    offset = float(y.mean() - slope * x.mean())
    if slope <= 0 or offset < 0:  # noise: a step costs something for each token, and nothing gives time back
        slope, offset = float((x * y).sum() / (x * x).sum()), 0.0
    return round(slope, 12), round(offset, 12)


def _looked_up(batches: tf.data.Dataset) -> int:
    """Different source tokens of a batch, the mean of some."""
    return round(statistics.mean(np.unique(batch.source_ids).size for batch in batches.take(LEAST_STEPS)))


def _busy(report: BlockReport) -> float:
    return report.seconds - report.data_wait_seconds


def _in_turn(datasets: Sequence[tf.data.Dataset]) -> tf.data.Dataset:
    return tf.data.Dataset.choose_from_datasets(datasets, tf.data.Dataset.range(len(datasets)).repeat())


def _timed(blocks: Iterator[BlockReport], seconds: float, progress: Progress, what: str) -> list[BlockReport]:
    """The reports of so many seconds, of `LEAST_STEPS` at least, behind those that build graphs."""
    for _ in range(WARM_UP_STEPS):
        next(blocks)
    reports: list[BlockReport] = []
    before = progress.done
    while len(reports) < LEAST_STEPS or sum(report.seconds for report in reports) < seconds:
        reports.append(next(blocks))
        progress.show(before + min(sum(report.seconds for report in reports), seconds), what)
    return reports


def _update_seconds(recipe: Recipe, progress: Progress) -> float:
    """How long the servers of one process need for an update: the median of many."""
    servers = UpdateSequence(recipe, 1)
    payload = servers.new_outbox()
    sums = NO_SUMS._replace(target_tokens=1.0, steps=1.0, batches=1.0)
    taken: list[float] = []
    while len(taken) < LEAST_STEPS or sum(taken) < UPDATE_SECONDS:
        number = len(taken) + 1
        began = time.perf_counter()
        servers.absorb(Push(0, number, number, number - 1, 1, payload, Work(sums, -1, number - 1, number, START)))
        taken.append(time.perf_counter() - began)
        progress.show(STEP_SECONDS + min(sum(taken), UPDATE_SECONDS), "an update")
    return statistics.median(taken)


def _meetings(recipe: Recipe, progress: Progress) -> list[BlockReport]:
    """Updates of a cluster of one worker and one server, which speak through the loopback."""
    cluster = find_cluster(ClusterSettings(), {})
    with tasks_of(cluster):
        engine = ClusterEngine(recipe, cluster=cluster)
        blocks = engine.blocks()
        reports = _timed(blocks, MEETING_SECONDS, progress, "a meeting")
        engine.stop()
        list(blocks)  # until the workers have done what they have begun
    return reports


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.{0 if seconds > 0.1 else 1}f} ms"
