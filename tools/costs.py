"""What the cost model predicts of rows beside what was measured of them; tools/validate_costs measures."""

import dataclasses
import itertools
import math
import statistics
from typing import NamedTuple

from tfnmt.diagnosis import processor
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.planning import ranking
from tfnmt.planning.prediction import Speed, predict
from tfnmt.planning.probe import Probe

LOCAL_STEPS, MANY_LOCAL_STEPS = 8, 32
GIGABIT, FAST, SLOW = 125e6, 12.5e6, 3.75e6
ROWS = ("sync", "ring_allreduce", "model_average", "bmuf", "async", "summed_async", "delayed_async", "downpour")
STRAGGLING = 2.0
"""How many times as long a straggler computes."""


class Cell(NamedTuple):
    """A row, its machines and its links."""

    strategy: str
    workers: int
    bytes_per_second: float
    straggler: bool = False  # worker 0 has a processor of half the speed
    local_steps: int = LOCAL_STEPS  # of rows that have such
    encoding: str = "none"

    @property
    def name(self) -> str:
        """A word, for files and flags."""
        words = [self.strategy, str(self.workers), f"{8 * self.bytes_per_second / 1e6:g}mbit"]
        words += ["straggler"] * self.straggler + [self.encoding] * (self.encoding != "none")
        return "-".join(words + [f"every{self.local_steps}"] * (self.local_steps != LOCAL_STEPS))

    def describe(self) -> str:
        """The row in words."""
        words = [self.strategy] + ["one worker half as fast"] * self.straggler
        words += [f"H = {self.local_steps}"] * (self.local_steps != LOCAL_STEPS)
        return ", ".join(words + [self.encoding] * (self.encoding != "none"))

    @property
    def machines(self) -> tuple[int, float, bool]:
        """What rows are compared on."""
        return self[1:4]

    def candidate(self) -> ranking.Candidate:
        """The row with its flags; a server for two workers."""
        found = ranking.candidates([self.workers], self.workers // 2, [self.local_steps], [self.encoding])
        return next(each for each in found if each.strategy == self.strategy)


CALIBRATION = Cell("sync", 2, GIGABIT)
ALONE = Cell("single", 1, GIGABIT)
"""One such worker without any other, which needs no network."""
CELLS = (
    ALONE,
    *(Cell(row, *machines) for machines in ((2, GIGABIT), (4, FAST), (4, SLOW)) for row in ROWS),
    *(Cell(row, 4, FAST, straggler=True) for row in ("sync", "model_average", "async", "summed_async")),
    *(Cell("sync", 2, speed) for speed in (FAST, SLOW)),
    *(
        Cell(row, *machines, local_steps=MANY_LOCAL_STEPS, encoding=encoding)
        for machines in ((2, GIGABIT), (2, FAST), (2, SLOW), (4, GIGABIT), (4, FAST), (4, SLOW))
        for row, encoding in (("bmuf", "none"), ("streaming", "int8"))
    ),
)


class Measured(NamedTuple):
    """What a cell did.

    Attributes:
      seconds: of training that were looked at.
      target_tokens: in them, of all workers.
      batch_tokens: target tokens of a step, the mean.
      computing_share: of the workers' time.
      jitter: standard deviation of the logarithm of a step's compute time.
      server_share: of the workers' time, for the servers.
      vector_bytes: of all parameters, by what a worker pulls.
      bytes_per_second: what a transfer between two of the hosts reaches.
      latency_seconds: between them.
    """

    seconds: float
    target_tokens: int
    batch_tokens: float
    computing_share: float
    jitter: float
    server_share: float
    vector_bytes: float
    bytes_per_second: float
    latency_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of all workers."""
        return self.target_tokens / self.seconds


class Compared(NamedTuple):
    """A cell with what was measured and what was predicted of it."""

    cell: Cell
    measured: Measured
    predicted: Speed

    @property
    def error(self) -> float:
        """Of a step's predicted time, relative to the measured one."""
        return self.measured.tokens_per_second / self.predicted.tokens_per_second - 1


class Report(NamedTuple):
    """What all cells say of the cost model.

    Attributes:
      probe: what was learned from the calibration.
      cells: those that were predicted, without the calibration.
    """

    probe: Probe
    cells: list[Compared]

    @classmethod
    def of(cls, found: dict[Cell, Measured]) -> "Report":
        """Calibrates on one cell and predicts the others."""
        probe = _calibrated(found[CALIBRATION])
        return cls(
            probe,
            [
                Compared(cell, measured, _predict(cell, probe, measured, found[CALIBRATION].jitter))
                for cell, measured in found.items()
                if cell != CALIBRATION
            ],
        )

    def mean_error(self) -> float:
        """Of a step's time, whatever its sign."""
        return statistics.mean(abs(each.error) for each in self.cells)

    def worst(self) -> Compared:
        """The cell with the largest error."""
        return max(self.cells, key=lambda each: abs(each.error))

    def by_machines(self) -> list[list[Compared]]:
        """The cells that differ in their row only, where there are several."""
        groups: dict[tuple, list[Compared]] = {}
        for each in self.cells:
            groups.setdefault(each.cell.machines, []).append(each)
        return [group for group in groups.values() if len(group) > 1]

    def kendall(self) -> float:
        """Rank agreement of rows on the same machines: agreeing less disagreeing pairs, over both; NaN for none."""
        products = [
            (one.measured.tokens_per_second - other.measured.tokens_per_second)
            * (one.predicted.tokens_per_second - other.predicted.tokens_per_second)
            for group in self.by_machines()
            for one, other in itertools.combinations(group, 2)
        ]
        signs = [math.copysign(1, product) for product in products if product]
        return statistics.mean(signs) if signs else math.nan

    def regrets(self) -> list[float]:
        """For each machines, how much longer than the fastest row's step that of the recommended row takes."""
        regrets = []
        for group in self.by_machines():
            recommended = max(group, key=lambda each: each.predicted.tokens_per_second)
            fastest = max(group, key=lambda each: each.measured.tokens_per_second)
            regrets.append(fastest.measured.tokens_per_second / recommended.measured.tokens_per_second - 1)
        return regrets

    def text(self) -> str:
        """A table in Markdown, and what it comes to."""
        heading = ["row", "workers", "Mbit/s", "target tokens/s", "predicted", "error", "computing", "predicted"]
        alone = next((each.measured.tokens_per_second for each in self.cells if each.cell == ALONE), None)
        heading += ["of workers alone"] * bool(alone)
        lines = [heading, ["---"] * len(heading)]
        for cell, measured, predicted in self.cells:
            share = [f"{measured.tokens_per_second / (cell.workers * alone):.2f}"] if alone else []
            lines.append(
                [
                    cell.describe(),
                    str(cell.workers),
                    f"{8 * cell.bytes_per_second / 1e6:g}",
                    f"{measured.tokens_per_second:,.0f}",
                    f"{predicted.tokens_per_second:,.0f}",
                    f"{Compared(cell, measured, predicted).error:+.1%}",
                    f"{measured.computing_share:.0%}",
                    f"{predicted.computing_share:.0%}",
                    *share,
                ]
            )
        table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        worst = self.worst()
        told = (
            f"{table}\n{self.probe.describe()}.\n"
            f"{len(self.cells)} cells: error of a step's time {self.mean_error():.1%} in the mean, "
            f"{abs(worst.error):.1%} at worst ({worst.cell.name}).\n"
        )
        if not self.by_machines():
            return told
        return told + (
            f"Rank agreement of rows on the same machines (Kendall): {self.kendall():.2f}.\n"
            f"The recommended row's step takes {', '.join(f'{regret:.1%}' for regret in self.regrets())} longer than "
            "the fastest row's.\n"
        )

    def document(self) -> dict:
        """Everything, for JSON."""
        return {
            "probe": dataclasses.asdict(self.probe),
            "mean_error": self.mean_error(),
            "worst_error": abs(self.worst().error),
            "kendall": self.kendall(),
            "regrets": self.regrets(),
            "cells": [
                {
                    "cell": each.cell._asdict(),
                    "measured": each.measured._asdict(),
                    "predicted": each.predicted._asdict(),
                    "error": each.error,
                }
                for each in self.cells
            ],
        }


def _calibrated(measured: Measured) -> Probe:
    """What the calibration says of steps, servers and meetings: the prediction of it is right by construction."""
    batch_tokens = round(measured.batch_tokens)
    step = CALIBRATION.workers * batch_tokens / measured.tokens_per_second
    probe = Probe(
        machine=processor(),
        parameters=round(measured.vector_bytes) // ranking.DTYPE.size,
        batch_tokens=batch_tokens,
        step_seconds=0.0,
        seconds_per_token=step * measured.computing_share / batch_tokens,
        server_seconds_per_byte=step * measured.server_share / measured.vector_bytes,
        meeting_seconds=0.0,
        table_rows=0,  # no cell shares tables
        table_width=0,
    )
    without = _predict(CALIBRATION, probe, measured, measured.jitter)
    return dataclasses.replace(probe, meeting_seconds=max(step - without.step_seconds, 0.0))


def _predict(cell: Cell, probe: Probe, measured: Measured, jitter: float) -> Speed:
    """What the planner would say, of the links that were measured."""
    network = CostSettings(
        network_bytes_per_second=measured.bytes_per_second,
        network_latency_seconds=measured.latency_seconds,
        jitter=jitter,
        stragglers=(f"0:{STRAGGLING:g}",) if cell.straggler else (),
    )
    candidate = cell.candidate()
    columns = candidate.columns(OptimizerSettings())
    return predict(columns, ranking.costs_of(candidate, columns, probe, network), cell.workers, probe.batch_tokens)
