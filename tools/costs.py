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
from tfnmt.planning.goal import Arrival, critical_batch_of, token_excess
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
      start_tokens: target tokens before what was looked at.
      goal_tokens: target tokens to the wanted cross entropy, those before included; None where none was wanted.
      goal_seconds: of training, of those that were looked at, until then.
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
    start_tokens: int = 0
    goal_tokens: float | None = None
    goal_seconds: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Of all workers."""
        return self.target_tokens / self.seconds


class Compared(NamedTuple):
    """A cell with what was measured and what was predicted of it."""

    cell: Cell
    measured: Measured
    predicted: Speed
    goal_tokens: float | None = None  # to the wanted cross entropy; None for a cell that tells those of others

    @property
    def error(self) -> float:
        """Of a step's predicted time, relative to the measured one."""
        return self.measured.tokens_per_second / self.predicted.tokens_per_second - 1

    @property
    def goal_seconds(self) -> float | None:
        """Predicted, to the wanted cross entropy."""
        return self.goal_tokens and (self.goal_tokens - self.measured.start_tokens) / self.predicted.tokens_per_second

    @property
    def goal_error(self) -> float | None:
        """Of that time, relative to the measured one."""
        return self.goal_seconds and self.goal_seconds / self.measured.goal_seconds - 1


class Report(NamedTuple):
    """What all cells say of the cost model.

    Attributes:
      probe: what was learned from the calibration.
      cells: those that were predicted, without the calibration.
      critical_tokens: B* by what the calibration needs to the wanted cross entropy over what one worker alone needs;
        None where no quality was wanted, or where this says nothing.
    """

    probe: Probe
    cells: list[Compared]
    critical_tokens: float | None = None

    @classmethod
    def of(cls, found: dict[Cell, Measured]) -> "Report":
        """Calibrates on one cell and predicts the others; what larger updates cost comes from one worker alone, too."""
        probe, critical = _calibrated(found[CALIBRATION]), _critical(found)
        compared = []
        for cell, measured in found.items():
            if cell != CALIBRATION:
                predicted = _predict(cell, probe, measured, found[CALIBRATION].jitter)
                compared.append(Compared(cell, measured, predicted, _goal_tokens(cell, found, probe, critical)))
        return cls(probe, compared, critical)

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

    def goal_errors(self) -> list[float]:
        """Of the time to the wanted cross entropy, of the cells of which it was predicted."""
        return [error for each in self.cells if (error := each.goal_error) is not None]

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
        errors = self.goal_errors()
        heading += ["s to the cross entropy", "predicted", "error"] * bool(errors)
        lines = [heading, ["---"] * len(heading)]
        for each in self.cells:
            cell, measured, predicted, _ = each
            goal = ["", "", ""] if errors else []
            if each.goal_error is not None:
                goal = [f"{measured.goal_seconds:.1f}", f"{each.goal_seconds:.1f}", f"{each.goal_error:+.1%}"]
            share = [f"{measured.tokens_per_second / (cell.workers * alone):.2f}"] if alone else []
            lines.append(
                [
                    cell.describe(),
                    str(cell.workers),
                    f"{8 * cell.bytes_per_second / 1e6:g}",
                    f"{measured.tokens_per_second:,.0f}",
                    f"{predicted.tokens_per_second:,.0f}",
                    f"{each.error:+.1%}",
                    f"{measured.computing_share:.0%}",
                    f"{predicted.computing_share:.0%}",
                    *share,
                    *goal,
                ]
            )
        table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        worst = self.worst()
        told = (
            f"{table}\n{self.probe.describe()}.\n"
            f"{len(self.cells)} cells: error of a step's time {self.mean_error():.1%} in the mean, "
            f"{abs(worst.error):.1%} at worst ({worst.cell.name}).\n"
        )
        if errors:
            critical = f"{self.critical_tokens:,.0f} target tokens" if self.critical_tokens else "not to be seen"
            told += (
                f"{len(errors)} cells: error of the time to the cross entropy "
                f"{statistics.mean(map(abs, errors)):.1%} in the mean, {max(map(abs, errors)):.1%} at worst; "
                f"critical batch {critical}.\n"
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
            "critical_tokens": self.critical_tokens,
            "cells": [
                {
                    "cell": each.cell._asdict(),
                    "measured": each.measured._asdict(),
                    "predicted": each.predicted._asdict(),
                    "error": each.error,
                    "goal_seconds": each.goal_seconds,
                    "goal_error": each.goal_error,
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


def _critical(found: dict[Cell, Measured]) -> float | None:
    """B*, if one worker alone has come to a cross entropy, too."""
    both = [(cell, found[cell]) for cell in (ALONE, CALIBRATION) if cell in found and found[cell].goal_tokens]
    arrivals = [Arrival(each.goal_tokens or 0.0, cell.workers * each.batch_tokens) for cell, each in both]
    return critical_batch_of(arrivals) if len(arrivals) > 1 else None


def _goal_tokens(cell: Cell, found: dict[Cell, Measured], probe: Probe, critical: float | None) -> float | None:
    """Target tokens to the cross entropy by those of the calibration; None for cells that B* comes from."""
    known = found[CALIBRATION].goal_tokens
    if known is None or found[cell].goal_tokens is None or cell == ALONE:
        return None
    excess, of_known = (
        token_excess(each.candidate().columns(OptimizerSettings()), each.workers, probe.batch_tokens, critical)
        for each in (cell, CALIBRATION)
    )
    return known * excess / of_known
