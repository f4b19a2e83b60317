"""What the scaling study tells: tables in Markdown, a picture and JSON, with both factors of every speed-up."""

import dataclasses
import itertools
import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from tfnmt.engines.virtual_time import RING, STAR, Costs
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.planning.goal import critical_batch
from tfnmt.strategies import STRATEGIES
from tools.repricing import update_seconds
from tools.scaling import BASELINE, FREE_RUNNING_SHARE, LOCAL_STEPS, RUNGS, Cell, Study
from tools.trials import TRANSLATED, Trial
from tools.tuning import Crossing, crossing

SHARES = (0.05, 0.1, 0.4)
NETWORKS = tuple((network, share) for network in (STAR, RING) for share in SHARES)
SHOWN = (STAR, 0.1)
"""The network of the picture; the largest share is about that of a Transformer base over 10 Gbit/s beside a P100."""

FREE = (STAR, FREE_RUNNING_SHARE)
"""The network on which rows without a barrier are trained."""

LARGER = (32, 64)
"""Workers whose tokens follow from the law of B*, not from training."""

PUBLISHED = {("model_average", 4): "> 3", ("model_average", 8): "> 5", ("model_average", 16): "> 9"}
PUBLISHED_BY = "model averaging, Alibaba, 2017"
RATIOS = {
    ("summed_async", "sync"): ("1.36", "Aji & Heafield, 2019"),
    ("delayed_async", "async"): ("1.27", "Bogoychev et al., 2018"),
}
"""(fast, slow) -> published ratio of their times."""

Network = tuple[str, float]


class Outcome(NamedTuple):
    """A trial that has reached the target.

    Attributes:
      tokens: target tokens of all workers until then.
      updates: until then.
      seconds: network -> virtual time until then; of a row without a barrier, only of the network of its training.
    """

    tokens: float
    updates: float
    seconds: Mapping[Network, float]


class Factors(NamedTuple):
    """A speed-up and what it is made of: medians over the seeds."""

    throughput: float
    efficiency: float

    @property
    def speed_up(self) -> float:
        """Time of one worker over that of all."""
        return self.throughput * self.efficiency


class Results:
    """What the cells of a study have come to."""

    def __init__(self, study: Study, cells: Sequence[Cell]):
        """Reads everything and prices it on all networks."""
        self.study, self.laboratory, self.cells, self.target = study, study.laboratory, cells, study.target()
        self.batch_tokens = self.laboratory.batch_tokens(1)
        self.outcomes = {cell: [each for each in self._outcomes(cell) if each] for cell in cells}
        synchronous = [cell for cell in cells if cell[0] in (BASELINE[0], "sync") and self.efficiency(cell)]
        # sync on N workers is one worker that accumulates N batches: of all batches, the one that needs fewest tokens.
        self.best_batch: Cell | None = max(synchronous, key=self._certain_efficiency, default=None)
        self.critical_batches = {
            workers: batch
            for strategy, workers in cells
            if strategy == "sync" and (batch := self._critical_batch(workers)) is not None
        }

    def efficiency(self, cell: Cell) -> float | None:
        """Tokens of one worker over those of the cell; None where one of them has not reached the target."""
        tokens = [[each.tokens for each in self.outcomes[name]] for name in (BASELINE, cell)]
        return statistics.median(tokens[0]) / statistics.median(tokens[1]) if all(tokens) else None

    def _certain_efficiency(self, cell: Cell) -> float:
        return self.efficiency(cell) or 0.0

    def factors(self, cell: Cell, network: Network) -> Factors | None:
        """Both factors on a network; None where it is not known."""
        efficiency = self.efficiency(cell)
        rates = [
            statistics.median(each.tokens / each.seconds[network] for each in self.outcomes[name])
            for name in (BASELINE, cell)
            if efficiency is not None and all(network in each.seconds for each in self.outcomes[name])
        ]
        return Factors(rates[1] / rates[0], efficiency) if len(rates) == 2 else None

    def spread(self, cell: Cell) -> str:
        """Tokens to the target: the median and, of several seeds, the range."""
        tokens = [each.tokens for each in self.outcomes[cell]]
        if not tokens:
            return "–"
        text = f"{statistics.median(tokens):,.0f}"
        return text if len(tokens) == 1 else f"{text} ({min(tokens):,.0f} to {max(tokens):,.0f}, {len(tokens)} seeds)"

    def state(self, cell: Cell) -> str:
        """How far a cell has come."""
        trials = self.study.trials(cell)
        curves = [self.laboratory.curve(trial) for trial in trials]
        if not any(curves):
            return "not trained yet"
        best = self.study.best(cell)
        if best is None:
            return f"{sum(map(bool, curves))} of {len(trials)} rates begun, none chosen yet"
        if self.outcomes[cell]:
            return "done"
        curve = self.laboratory.curve(best)
        lowest = min(curve, key=lambda point: point.cross_entropy)
        text = f"not at the target: {lowest.cross_entropy:.3f} behind {lowest.tokens:,} tokens"
        one = crossing(self._curve(BASELINE), lowest.cross_entropy)
        if one is None or len(curve) < 2:
            return text
        return f"{text}, where one worker is behind {one.tokens:,.0f} ({one.tokens / lowest.tokens:.2f} of them)"

    def _curve(self, cell: Cell) -> list[dict[str, float]]:
        best = self.study.best(cell)
        return [point._asdict() for point in self.laboratory.curve(best)] if best else []

    def law_of_larger(self, workers: int, network: Network) -> Factors | None:
        """What the law of B* says of sync on more workers than were trained; the throughput is priced all the same."""
        if not self.critical_batches or self.best_batch is None:
            return None
        batch = self.batch_tokens / self.critical_batches[max(self.critical_batches)]
        best, most = self._certain_efficiency(self.best_batch), self.best_batch[1]
        rounds = 20
        drawn = random.Random(workers)
        seen = [tokens for worker in self.laboratory.step_tokens(max(self.critical_batches)) for tokens in worker]
        tokens = [drawn.choices(seen, k=rounds) for _ in range(workers)]
        row = STRATEGIES["sync"]().row(workers, OptimizerSettings())
        seconds = update_seconds(self._costs(workers, network, 1), row, tokens, rounds)[-1]
        one = self.outcomes[BASELINE][0]
        throughput = sum(map(sum, tokens)) / seconds / (one.tokens / one.seconds[network])
        return Factors(throughput, best * (1 + most * batch) / (1 + workers * batch))

    def _critical_batch(self, workers: int) -> float | None:
        """B* by what a larger batch than the best one needs."""
        efficiency = self.efficiency(("sync", workers))
        if efficiency is None or self.best_batch is None or workers <= self.best_batch[1]:
            return None
        ratio, fewer = self._certain_efficiency(self.best_batch) / efficiency, self.best_batch[1]
        return critical_batch(fewer * self.batch_tokens, workers / fewer, ratio)

    def _outcomes(self, cell: Cell) -> Iterable[Outcome | None]:
        """Of each seed that has been trained; None where the target was not reached."""
        best = self.study.best(cell)
        for seed in itertools.count(1):
            trial = best and dataclasses.replace(best, seed=seed)
            if trial is None or self.target is None or not (curve := self.laboratory.curve(trial)):
                return
            found = crossing([point._asdict() for point in curve], self.target)
            yield found and Outcome(found.tokens, found.updates, self._seconds(trial, found))

    def _seconds(self, trial: Trial, found: Crossing) -> dict[Network, float]:
        row = trial.row()
        if not row.has_barrier:
            return {(STAR, FREE_RUNNING_SHARE): found.seconds}
        tokens, last = self.laboratory.step_tokens(trial.workers, trial.seed), math.ceil(found.updates)
        seconds: dict[Network, float] = {}
        for network in NETWORKS:
            if trial.workers == 1 and seconds:  # the same on all
                seconds[network] = next(iter(seconds.values()))
                continue
            times = [0.0, *update_seconds(self._costs(trial.workers, network, trial.seed), row, tokens, last)]
            seconds[network] = times[last - 1] + (found.updates - last + 1) * (times[last] - times[last - 1])
        return seconds

    def _costs(self, workers: int, network: Network, seed: int) -> Costs:
        """The costs on a network; one worker alone has none."""
        kind, share = network if workers > 1 else (STAR, 1e-18)
        settings = self.laboratory.costs(share, kind)
        return Costs(settings, seed, workers, workers, self.laboratory.vector_bytes, is_ring=kind == RING)


def tables(results: Results) -> str:
    """All tables."""
    parts = [
        ("", _heading(results)),
        ("Factors", _factors_table(results)),
        ("Speed-up by network", _networks_table(results)),
        ("Beside what was published", _ratios_table(results)),
        ("More workers by the law", _larger_table(results)),
        ("Rates that were compared", _rates_table(results)),
    ]
    return "\n".join(f"## {title}\n\n{text}" if title else text for title, text in parts)


def _heading(results: Results) -> str:
    if results.target is None:
        return "The baseline has not been trained to its end.\n"
    one, best = results.outcomes[BASELINE][0], results.study.best(BASELINE)
    return (
        f"Time to a validation cross entropy of {results.target:.3f} nats a token, where one worker is behind "
        f"{one.tokens:,.0f} target tokens in {one.updates:,.0f} updates of {results.batch_tokens:.1f} tokens, rate "
        f"{best.learning_rate:g}. It is virtual: throughput is tokens a second over those of one worker, token "
        "efficiency the tokens of one worker over those of all, and their product the speed-up. A network is named by "
        "the seconds in which the model travels one way, over those in which a worker computes a step. Rows that "
        f"average do so every {LOCAL_STEPS} steps. BLEU is that of the first {TRANSLATED} validation pairs where each "
        "training ended.\n"
    )


def _factors_table(results: Results) -> str:
    rows = [
        (
            "row",
            "workers",
            "state",
            "tokens to the target",
            "token efficiency",
            f"throughput, {_name(SHOWN)}",
            "speed-up",
            "against the best batch",
            "published",
            "N b / B*",
            "BLEU",
        )
    ]
    for cell in results.cells:
        name, workers = cell
        network = SHOWN if results.study.has_barrier(cell) else FREE
        found, batch = results.factors(cell, network), _critical(results)
        best = results.best_batch and results.efficiency(results.best_batch)
        rows.append(
            (
                name,
                workers,
                results.state(cell),
                results.spread(cell),
                _number(results.efficiency(cell)),
                _number(found and found.throughput) + (f" ({_name(FREE)})" if network == FREE and found else ""),
                _number(found and found.speed_up),
                _number(found and best and found.speed_up / best),
                PUBLISHED.get(cell, ""),
                f"{workers * results.batch_tokens / batch:.2g}" if batch else "–",
                _bleu(results, cell),
            )
        )
    batches = ", ".join(f"{batch:,.0f} by sync on {workers}" for workers, batch in results.critical_batches.items())
    note = f"\nPublished: {PUBLISHED_BY}. B*, target tokens: {batches or 'not known yet'}.\n"
    if results.best_batch:
        tokens = results.best_batch[1] * results.batch_tokens
        note += (
            f"One worker needs fewest tokens with batches of {tokens:.0f} (`sync` on N workers is one that accumulates "
            "N batches): `against the best batch` is the speed-up over that worker.\n"
        )
    return _table(rows) + note


def _networks_table(results: Results) -> str:
    rows = [("row", "workers", *map(_name, NETWORKS))]
    for cell in results.cells:
        found = [results.factors(cell, network) for network in NETWORKS]
        if cell != BASELINE and any(found):
            rows.append((*cell, *(_product(each) for each in found)))
    return _table(rows)


def _ratios_table(results: Results) -> str:
    rows = [("ratio of times", "workers", "token efficiencies", _name(FREE), "published")]
    for (fast, slow), (factor, source) in RATIOS.items():
        for workers in sorted({number for strategy, number in results.cells if strategy == fast}):
            pair = [(strategy, workers) for strategy in (fast, slow)]
            if not all(cell in results.cells for cell in pair):
                continue
            above, below = (results.factors(cell, FREE) for cell in pair)
            both = above and below
            rows.append(
                (
                    f"{fast} over {slow}",
                    workers,
                    _number(both and above.efficiency / below.efficiency),
                    _number(both and above.speed_up / below.speed_up),
                    f"{factor} ({source})",
                )
            )
    return _table(rows)


def _larger_table(results: Results) -> str:
    rows = [("row", "workers", *map(_name, NETWORKS))]
    for workers in LARGER:
        found = [results.law_of_larger(workers, network) for network in NETWORKS]
        if any(found):
            rows.append(("sync", workers, *map(_product, found)))
    return _table(rows) + "\nTokens by the law of B*, from the best batch on; nothing was trained with so many.\n"


def _rates_table(results: Results) -> str:
    rows = [("row", "workers", "flags", "law", "rate", *(f"at {rung:g}" for rung in RUNGS), "chosen")]
    for cell in results.cells:
        for trial in results.study.trials(cell):
            losses = [results.study.loss(trial, rung) for rung in RUNGS]
            if losses[0] is None:
                continue
            flags = " ".join(f"--{name}={value}" for name, value in trial.flags)
            chosen = "yes" if trial == results.study.best(cell) else ""
            texts = [f"{loss:.3f}" if loss is not None else "" for loss in losses]
            rows.append((*cell, flags, trial.law, f"{trial.learning_rate:.5g}", *texts, chosen))
    return _table(rows) + "\nCross entropy at each share of the baseline's tokens; rates are before the law.\n"


def as_json(results: Results) -> dict[str, Any]:
    """Everything, the curves of all trials included."""
    cells = []
    for cell in results.cells:
        best = results.study.best(cell)
        cells.append(
            {
                "strategy": cell[0],
                "workers": cell[1],
                "state": results.state(cell),
                "best": best and best.name,
                "outcomes": [
                    {**each._asdict(), "seconds": {_name(network): time for network, time in each.seconds.items()}}
                    for each in results.outcomes[cell]
                ],
            }
        )
    return {
        "target": results.target,
        "batch_tokens": results.batch_tokens,
        "critical_batches": results.critical_batches,
        "cells": cells,
        "trials": results.laboratory.records(),
    }


def picture(results: Results) -> Figure:
    """Three panels against the workers: throughput, token efficiency, and their product beside what was published."""
    figure = Figure(figsize=(16, 4.5), dpi=100, layout="constrained")
    panels = figure.subplots(1, 3)
    ticks = sorted({workers for _, workers in results.cells})
    for strategy in dict.fromkeys(strategy for strategy, _ in results.cells if strategy != "single"):
        for network, marker in ((SHOWN, "o"), (FREE, "x")):
            cells = sorted(cell for cell in results.cells if cell[0] == strategy)
            points = [(cell[1], found) for cell in cells if (found := results.factors(cell, network))]
            for panel, name in zip(panels, ("throughput", "efficiency", "speed_up")):
                values = [(1, 1.0), *((workers, getattr(found, name)) for workers, found in points)]
                if points:
                    panel.plot(*zip(*values), marker=marker, label=f"{strategy}, {_name(network)}")
    for panel, title in zip(panels, ("throughput factor", "token efficiency", "speed-up: their product")):
        panel.set(title=title, xlabel="workers", xticks=ticks)
        panel.grid(alpha=0.3)
    panels[1].set_ylim(bottom=0)
    for panel in panels[::2]:
        panel.plot(ticks, ticks, color="grey", linestyle=":", label="as many times as workers")
    published = [(workers, float(text.strip("> "))) for (_, workers), text in PUBLISHED.items()]
    panels[2].plot(*zip(*published), "k^", markersize=8, label=f"published: more than ({PUBLISHED_BY})")
    panels[2].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


def _critical(results: Results) -> float | None:
    """B* by the most workers for which it is known."""
    return results.critical_batches[max(results.critical_batches)] if results.critical_batches else None


def _bleu(results: Results, cell: Cell) -> str:
    best = results.study.best(cell)
    found = results.laboratory.record(best).get("bleu") if best else None
    return f"{found['bleu']:.1f}" if found else ""


def _name(network: Network) -> str:
    return f"{network[0]} {network[1]:g}"


def _number(value: float | None) -> str:
    return f"{value:.2f}" if value else "–"


def _product(found: Factors | None) -> str:
    return f"{found.throughput:.2f} × {found.efficiency:.2f} = {found.speed_up:.2f}" if found else "–"


def _table(rows: Sequence[tuple]) -> str:
    """A table in Markdown; the first row is its heading."""
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
