"""The cells of the scaling study: which rows and rates are trained, and in which order.

A cell is a choice of row and flags on a number of workers. Its rates are compared by successive halving; the best is
trained to the target.
"""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tfnmt import runtime
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import AVERAGE, STRATEGIES
from tools.trials import Laboratory, Trial
from tools.tuning import halve

LOCAL_STEPS = 4
"""H of the rows that average: a hundred rounds or more on 16 workers."""

RUNGS = (0.2, 0.5)
"""Shares of the baseline's tokens behind which the better half of a cell's rates goes on."""

WARMUP, TARGET, LIMIT, EVERY = 0.1, 0.95, 2.0, 0.02
"""Shares of the baseline's tokens: the warm-up; where the baseline is at the target; what another row may use; what
lies between two evaluations near the target."""

FREE_RUNNING_SHARE = 0.4
"""Seconds for which the model travels one way, over a step's seconds of computing, where workers do not wait."""

NEAR = 0.3
"""Nats above the target from where on evaluations come that often; before, five times as seldom."""


class Choice(NamedTuple):
    """What a row is run with: as many rates for each row.

    Attributes:
      law: how the rate grows with the batches of an update.
      rates: those of the baseline or, of other rows, factors of its best one.
      flags: of the row, one dictionary for each rate.
      follows: the choice whose best rate the factors are of, where it is not the baseline.
      strategy: the row, where its name is not that of the choice.
    """

    law: str
    rates: tuple[float, ...]
    flags: tuple[dict[str, Any], ...] = ({},) * 4
    follows: str = "single"
    strategy: str = ""


_H = {"local_steps": LOCAL_STEPS}

CHOICES = {
    "single": Choice("none", (0.0007, 0.0014, 0.0028, 0.0056)),
    "sync": Choice("sqrt", (0.25, 0.5, 1.0, 2.0)),
    "model_average": Choice("linear", (0.125, 0.25, 0.5, 1.0), (_H,) * 4),
    "model_average_slots": Choice(
        "linear",
        (0.125, 0.25, 0.5, 1.0),
        ({**_H, "local_slots": AVERAGE},) * 4,
        strategy="model_average",
    ),
    "bmuf": Choice(
        "linear",
        (1.0, 1.0, 0.5, 0.5),
        tuple({**_H, "block_momentum": momentum} for momentum in (0.2, 0.5, 0.5, 0.75)),
        follows="model_average",
    ),
    "async": Choice("none", (0.25, 0.5, 1.0, 2.0)),
    "summed_async": Choice("sqrt", (0.25, 0.5, 1.0, 2.0)),
    "delayed_async": Choice("sqrt", (0.25, 0.5, 1.0, 2.0), ({"delay": 2},) * 4),
}
CHOSEN = tuple(CHOICES)[1:]

Cell = tuple[str, int]
"""The name of a choice, and the workers."""

BASELINE: Cell = ("single", 1)
CELLS: tuple[Cell, ...] = (
    BASELINE,
    ("sync", 16),
    ("model_average", 4),
    ("model_average_slots", 4),
    ("summed_async", 4),
    ("async", 4),
    ("delayed_async", 4),
    ("sync", 4),
    ("bmuf", 4),
    ("model_average", 8),
    ("model_average_slots", 8),
    ("sync", 8),
    ("bmuf", 8),
    ("model_average_slots", 16),
    ("model_average", 16),
    ("bmuf", 16),
)
"""In the order in which they are trained, the most telling first."""


class Study:
    """Trains cells, or reads what they have come to."""

    def __init__(self, laboratory: Laboratory, baseline_tokens: int, *, trains: bool):
        """Takes the target tokens of the baseline; what does not train takes what is there."""
        self.laboratory, self._tokens, self._trains = laboratory, baseline_tokens, trains

    def trials(self, cell: Cell) -> list[Trial]:
        """What is compared in a cell; empty while the cell that it follows has no best rate."""
        name, workers = cell
        choice, unit = CHOICES[name], 1.0
        if cell != BASELINE:
            followed = self.best((choice.follows, workers) if choice.follows != "single" else BASELINE)
            if followed is None:
                return []
            unit = followed.learning_rate
        return [
            Trial(choice.strategy or name, workers, unit * rate, choice.law, tuple(sorted(flags.items())))
            for rate, flags in zip(choice.rates, choice.flags, strict=True)
        ]

    def best(self, cell: Cell) -> Trial | None:
        """The trial that successive halving has left; None while it has not ended."""
        trials = self.trials(cell)
        if not trials:
            return None
        losses: list[float | None] = []

        def loss(trial: Trial, rung: float) -> float:
            if self._trains:
                self.laboratory.train(trial, rung * self._tokens, rung * self._tokens)
            losses.append(self.loss(trial, rung))
            return float("inf") if losses[-1] is None else losses[-1]

        best, _ = halve(trials, RUNGS, loss)
        return None if None in losses else best

    def has_barrier(self, cell: Cell) -> bool:
        """Whether the workers of a cell wait for each other, so that its updates do not depend on the network."""
        name, workers = cell
        strategy = STRATEGIES[CHOICES[name].strategy or name]
        return strategy().row(workers, OptimizerSettings()).has_barrier

    def finish(self, cell: Cell, seed: int) -> Trial:
        """Trains the best trial of a cell to the target, with this seed, and drops the states of the others."""
        best, every = self.best(cell), EVERY * self._tokens
        for trial in self.trials(cell):
            if trial != best:
                self.laboratory.forget(trial)
        best = dataclasses.replace(best, seed=seed)
        if (cell, seed) == (BASELINE, 1):
            self.laboratory.train(best, self._tokens, every)
        else:
            self.laboratory.train(best, LIMIT * self._tokens, every, self.target(), NEAR)
        self.laboratory.score(best)
        self.laboratory.forget(best)
        return best

    def target(self) -> float | None:
        """Cross entropy at the target: that of the baseline at a share of its tokens; None while it is under way."""
        best, tokens = self.best(BASELINE), TARGET * self._tokens
        curve = self.laboratory.curve(best) if best else []
        for before, behind in itertools.pairwise(curve):
            if before.tokens <= tokens < behind.tokens:
                share = (tokens - before.tokens) / (behind.tokens - before.tokens)
                return before.cross_entropy + share * (behind.cross_entropy - before.cross_entropy)
        return None

    def loss(self, trial: Trial, rung: float) -> float | None:
        """Cross entropy at a rung; None where the trial has not been there."""
        points = [point for point in self.laboratory.curve(trial) if point.tokens >= rung * self._tokens]
        return points[0].cross_entropy if points else None


def train_cells(cells: Sequence[Cell], seeds: int, processes: int, make_study: Callable[[], Study]) -> None:
    """Trains cells in order, each on a core; at first all with seed 1, by which their rates are chosen.

    Args:
      cells: the baseline and others.
      seeds: how many trainings of each cell's best trial, from seed 1.
      processes: cores.
      make_study: the study, in a process of its own.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context, runtime.prepare, (1,)) as pool:
        pending = [(cell, seed) for seed in range(1, seeds + 1) for cell in cells]
        running, done = {}, set()
        while pending or running:
            ready = [each for each in pending if needed(*each) <= done]
            for each in ready[: processes - len(running)]:
                pending.remove(each)
                running[pool.submit(_finish, make_study, *each)] = each
            ended, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in ended:
                done.add(running.pop(future))
                print(future.result(), file=sys.stderr, flush=True)


def needed(cell: Cell, seed: int) -> set[tuple[Cell, int]]:
    """What must be trained before a cell with a seed: what has its target, and what has its rate."""
    name, workers = cell
    if seed > 1:
        return {(BASELINE, 1), (cell, 1)}
    follows = CHOICES[name].follows
    return set() if cell == BASELINE else {(BASELINE, 1), *([((follows, workers), 1)] if follows != "single" else [])}


def _finish(make_study: Callable[[], Study], cell: Cell, seed: int) -> str:
    study = make_study()
    best = study.finish(cell, seed)
    last = study.laboratory.curve(best)[-1]
    return f"{best.name}: cross entropy {last.cross_entropy:.4f} behind {last.tokens:,} target tokens"
