"""What trainings on hosts say: a table and a picture of how soon each comes to a quality."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from tfnmt.planning.goal import crossing
from tfnmt.training.log_points import METRICS
from tfnmt.training.stopping import HIGHER_IS_BETTER

_HEADING = (
    "row",
    "workers",
    "Mbit/s",
    "target tokens/s",
    "of workers alone",
    "minutes to {}",
    "times as soon",
    "of workers alone",
    "million tokens to it",
    "computing",
    "MB pushed for a million tokens",
    "last BLEU",
)


class Training(NamedTuple):
    """A flagfile on so many workers."""

    flagfile: str
    workers: int
    megabits: float  # a second, of each host's link; 0 for no limit

    @classmethod
    def of(cls, word: str) -> "Training":
        """Reads `FLAGFILE:WORKERS` or `FLAGFILE:WORKERS:MBIT`.

        Raises:
          ValueError: it is neither.
        """
        flagfile, workers, *megabits = word.split(":")
        if int(workers) < 1 or len(megabits) > 1 or any(float(each) <= 0 for each in megabits):
            raise ValueError(word)
        return cls(flagfile, int(workers), float(megabits[0]) if megabits else 0.0)

    @property
    def row(self) -> str:
        """The flagfile's name, without its ending."""
        return pathlib.Path(self.flagfile).stem

    @property
    def name(self) -> str:
        """A word for files."""
        return f"{self.row}-{self.workers}" + (f"-{self.megabits:g}mbit" if self.megabits else "")


class Target(NamedTuple):
    """A quality: a BLEU, or a cross entropy of the validation text in nats a token."""

    metric: str
    value: float

    @property
    def sign(self) -> int:
        """Of better."""
        return 1 if HIGHER_IS_BETTER[self.metric] else -1

    def __str__(self) -> str:
        """In words."""
        return f"{METRICS[self.metric][0]} {self.value:g}"


class Arrival(NamedTuple):
    """When a training comes to a quality."""

    hours: float
    tokens: float


class Curve(NamedTuple):
    """How a training went, behind its start.

    Attributes:
      hours: of training, at each evaluation.
      tokens: target tokens, those of the start included, at each evaluation.
      bleu: of each evaluation.
      cross_entropy: of each evaluation.
      tokens_per_second: target tokens of all workers.
      computing_share: of the workers' time.
      bytes_pushed: for each target token, by all workers.
    """

    hours: list[float]
    tokens: list[int]
    bleu: list[float]
    cross_entropy: list[float]
    tokens_per_second: float
    computing_share: float
    bytes_pushed: float

    @classmethod
    def of(cls, points: Sequence[Mapping], evaluations: Sequence[Mapping], start: Mapping) -> "Curve":
        """Reads log points and evaluations; `start` is the log point where measuring begins."""
        began, later = start["training_hours"], [each for each in points if each["update"] > start["update"]]
        seen = [each for each in evaluations if each["update"] > start["update"]]
        hours, tokens = (later[-1][name] - start[name] for name in ("training_hours", "target_tokens"))
        spans = [after["training_hours"] - before["training_hours"] for before, after in zip([start, *later], later)]
        return cls(
            [each["training_hours"] - began for each in seen],
            [each["target_tokens"] for each in seen],
            [each["bleu"] for each in seen],
            [each["cross_entropy"] for each in seen],
            tokens / hours / 3600,
            sum(each["compute_share"] * span for each, span in zip(later, spans)) / sum(spans),
            sum(each["bytes_pushed"] for each in later) / tokens,
        )

    def values(self, metric: str) -> list[float]:
        """Of each evaluation."""
        return self._asdict()[metric]

    def at(self, target: Target) -> Arrival | None:
        """When it first comes to the target, linear between evaluations; None if it never does."""
        found = crossing(self.values(target.metric), target.value, target.sign)
        if found is None:
            return None
        return Arrival(*(float(np.interp(found, range(len(self.hours)), each)) for each in (self.hours, self.tokens)))


def baseline(found: Mapping[Training, Curve], target: Target) -> Curve:
    """That of one worker which is soonest at the target or, where none comes there, is best in the end."""

    def rank(curve: Curve) -> tuple[float, float]:
        arrival = curve.at(target)
        return arrival.hours if arrival else math.inf, -target.sign * curve.values(target.metric)[-1]

    return min((curve for training, curve in found.items() if training.workers == 1), key=rank)


def shares(cores: Sequence[float], workers: int) -> list[float]:
    """Of a core, of each worker: all have the one that is given, or each its own; one worker alone has the first."""
    return [*cores] if len(cores) == workers else [cores[0]] * workers


def table(found: Mapping[Training, Curve], target: Target, cores: Sequence[float]) -> str:
    """All trainings in Markdown, in their order; `cores` are those of `shares`."""
    alone = baseline(found, target)
    lines = [[each.format(target) for each in _HEADING], ["---"] * len(_HEADING)]
    for training, curve in found.items():
        arrival, first = curve.at(target), alone.at(target)
        workers = sum(shares(cores, training.workers)) / cores[0]  # like the one that is alone
        reached = ["not there", "", "", ""]
        if arrival and first:
            sooner = first.hours / arrival.hours
            reached = [f"{60 * arrival.hours:.1f}", f"{sooner:.2f}", f"{sooner / workers:.2f}"]
            reached += [f"{arrival.tokens / 1e6:.2f}"]
        share = curve.tokens_per_second / alone.tokens_per_second / workers
        cells = [training.row, str(training.workers), f"{training.megabits:g}" if training.megabits else "none"]
        cells += [f"{curve.tokens_per_second:,.0f}", f"{share:.2f}", *reached, f"{curve.computing_share:.0%}"]
        lines.append([*cells, f"{curve.bytes_pushed:,.1f}", f"{curve.bleu[-1]:.2f}" if curve.bleu else ""])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def picture(found: Mapping[Training, Curve], target: Target) -> Figure:
    """The metric over minutes of training."""
    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    axes = figure.subplots()
    for number, (training, curve) in enumerate(found.items()):
        style = {1: ":", 2: "--"}.get(training.workers, "-")
        minutes, values = [60 * hour for hour in curve.hours], curve.values(target.metric)
        axes.plot(minutes, values, style, color=f"C{number % 10}", label=training.name)
    axes.axhline(target.value, color="grey", linewidth=0.8)
    axes.set(xlabel="minutes of training", ylabel=METRICS[target.metric][0])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
