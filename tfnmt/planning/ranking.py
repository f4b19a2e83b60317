"""Which row, with which flags, on how many machines: what is predicted of every candidate, the soonest first."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from graphs.encodings import ENCODINGS
from graphs.table_rows import TableRows, rows_of_shards
from tfnmt.engines.virtual_time import Costs, CostSettings, SharedTables
from tfnmt.layout import Layout, Parameter
from tfnmt.models.layers import zeros
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.planning.goal import Goal, token_excess
from tfnmt.planning.prediction import DTYPE, Speed, predict
from tfnmt.planning.probe import Probe
from tfnmt.settings import faults_of, value_text
from tfnmt.strategies import STRATEGIES, RowSettings, Single, Strategy
from tfnmt.strategies.quorum import QuorumSettings

SINGLE = "single"
LOCAL_STEPS = "local_steps"  # the flag of rows whose workers train replicas
VOCABULARY_PARALLEL, MODEL_PARALLEL = "vocabulary_parallel", "model_parallel"  # the flags of ranks that share tables
SPARSE_EMBEDDINGS = "sparse_embeddings"  # the flag of workers that pull and push rows of the source table


_ROWS: dict[str, Any] = {name: make for name, make in STRATEGIES.items() if name != SINGLE}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A row with its flags, on so many machines.

    Attributes:
      strategy: its name in the table.
      row: its flags.
      encoding: `--encoding`.
      workers: how many.
      servers: parameter servers, 0 where the row has none.
      model_parallel: ranks that share a copy of the tables; 1 where each has them all.
      sparse_embeddings: whether of the source table the rows travel that batches read, and no others.
    """

    strategy: str
    row: RowSettings
    encoding: str
    workers: int
    servers: int
    model_parallel: int = 1
    sparse_embeddings: bool = False

    def columns(self, optimizer: OptimizerSettings) -> Strategy:
        """The row as an engine sees it."""
        return dataclasses.replace(self.row.row(self.workers, optimizer), encoding=ENCODINGS[self.encoding])

    def flags(self) -> dict[str, str]:
        """The flags that choose it, where they are not the defaults, by name."""
        default = type(self.row)()
        changed = {name: value for name, value in vars(self.row).items() if value != getattr(default, name)}
        encoding = {"encoding": self.encoding} if self.encoding != "none" else {}
        rows = {SPARSE_EMBEDDINGS: True} if self.sparse_embeddings else {}
        flags = {"strategy": self.strategy, **changed, **encoding, **rows}
        return {name: value_text(value) for name, value in flags.items()} | self.rank_flags()

    def rank_flags(self) -> dict[str, str]:
        """Those that are not the row's but its ranks'."""
        shared = {VOCABULARY_PARALLEL: "true"} if self.model_parallel > 1 else {}
        return shared | ({MODEL_PARALLEL: str(self.model_parallel)} if 1 < self.model_parallel < self.workers else {})


class Ranked(NamedTuple):
    """A candidate and what is predicted of it.

    Attributes:
      candidate: the row, its flags and its machines.
      speed: what it makes of them.
      token_factor: target tokens that it needs over those that one worker needs.
      speed_up: time of one worker over its time, to equal quality.
      seconds: to the goal; None where there is none.
      price: of all machines until then; None where there is no price or no goal.
    """

    candidate: Candidate
    speed: Speed
    token_factor: float
    speed_up: float
    seconds: float | None
    price: float | None


def candidates(
    workers: Sequence[int],
    servers: int,
    local_steps: Sequence[int],
    encodings: Sequence[str],
    *,
    sparse: bool = False,
    quorums: bool = False,
) -> Iterator[Candidate]:
    """Plain training, and every other row on every number of workers.

    Args:
      workers: numbers of workers.
      servers: parameter servers; 0 for as many as workers.
      local_steps: values to try where a row has such a flag.
      encodings: values of `--encoding` to try.
      sparse: whether rows of a source table can travel by themselves.
      quorums: whether updates may go on without the last worker, where a row allows it.
    """
    yield Candidate(SINGLE, Single(), "none", 1, 1)
    for number in workers:
        for name, make in _ROWS.items():
            has_steps = any(field.name == LOCAL_STEPS for field in dataclasses.fields(make))
            for flags in [{LOCAL_STEPS: steps} for steps in local_steps] if has_steps else [{}]:
                row = make(**flags)
                if faults_of(row):  # so few steps do not suit it
                    continue
                columns = row.row(number, OptimizerSettings())
                for each, encoding in itertools.product(_with_quorum(row, number, quorums), encodings):
                    yield Candidate(name, each, encoding, number, 0 if columns.ring else servers or number)
                if (
                    sparse
                    and not columns.ring
                    and columns.pulls_for_every_push
                    and not columns.exchange.trains_replicas
                ):
                    yield Candidate(name, row, "none", number, servers or number, sparse_embeddings=True)
                for together in _divisors(number) if columns.ring else []:
                    yield Candidate(name, row, "none", number, 0, together)


def _with_quorum(row: RowSettings, workers: int, quorums: bool) -> list[RowSettings]:
    """The row and, where that is possible and wanted, the same without waiting for the last worker."""
    if not (quorums and isinstance(row, QuorumSettings)):
        return [row]
    return [row, dataclasses.replace(row, quorum=workers - 1)]


def _divisors(workers: int) -> list[int]:
    """How many ranks may share a copy of the tables."""
    return [number for number in range(2, workers + 1) if workers % number == 0]


def rank(
    found: Iterable[Candidate],
    probe: Probe,
    network: CostSettings,
    optimizer: OptimizerSettings,
    goal: Goal,
    price_per_hour: float = 0.0,
) -> list[Ranked]:
    """The candidates, of which the first is plain training, in order of the time to equal quality.

    Args:
      found: the candidates.
      probe: of a machine like all of them.
      network: between them; what it costs to compute comes from the probe.
      optimizer: as in training.
      goal: what is known of the way to the wanted quality.
      price_per_hour: of one machine; a parameter server has one of its own.
    """
    ranked: list[Ranked] = []
    alone = excess_alone = 0.0
    for candidate in found:
        columns = candidate.columns(optimizer)
        costs = costs_of(candidate, columns, probe, network)
        rows = rows_read(probe, columns, costs.rows_on_servers)
        speed = predict(columns, costs, candidate.workers, probe.batch_tokens, rows)
        excess = token_excess(columns, candidate.workers, probe.batch_tokens, goal.critical_tokens)
        seconds = goal.tokens and goal.tokens * excess / speed.tokens_per_second
        if not ranked:
            alone, excess_alone = speed.tokens_per_second, excess
        factor = excess / excess_alone
        machines = candidate.workers + (0 if candidate.strategy == SINGLE else candidate.servers)
        price = seconds / 3600 * machines * price_per_hour if seconds and price_per_hour else None
        ranked.append(Ranked(candidate, speed, factor, speed.tokens_per_second / factor / alone, seconds, price))
    return sorted(ranked, key=lambda one: -one.speed_up)


def costs_of(candidate: Candidate, columns: Strategy, probe: Probe, network: CostSettings) -> Costs:
    """The cost model of a candidate; one worker alone has no network and meets nobody."""
    settings = with_probe(network, probe)
    if candidate.strategy == SINGLE:
        settings = dataclasses.replace(
            settings, meeting_seconds=0.0, network_bytes_per_second=1e18, network_latency_seconds=0.0
        )
    vector_bytes, servers = probe.parameters * DTYPE.size, max(candidate.servers, 1)
    together, tables = candidate.model_parallel, shared_tables(probe) if candidate.model_parallel > 1 else None
    rows = rows_on_servers(probe, servers) if candidate.sparse_embeddings else ()
    numbers = (settings, 0, candidate.workers, servers, vector_bytes)
    return Costs(*numbers, is_ring=columns.ring, tables=tables, together=together, rows_on_servers=rows)


def rows_on_servers(probe: Probe, servers: int) -> Sequence[TableRows]:
    """What each server has of the source table, with which the vectors begin."""
    table = Parameter("source", (probe.source_rows, probe.table_width), zeros, looked_up=True)
    others = Parameter("others", (max(probe.parameters - table.size, 0),), zeros)
    return rows_of_shards(Layout([table, others], servers))


def rows_read(probe: Probe, columns: Strategy, tables: Sequence[TableRows]) -> list[int]:
    """[servers], the rows that a block asks each for: those of several batches are taken for different ones.

    Each server has its share of them, though in truth the first of them has most: vocabularies begin with their most
    frequent tokens.
    """
    read = min(columns.meetings.steps_per_push * probe.looked_up, probe.source_rows)
    return [round(read * table.count / probe.source_rows) for table in tables]


def shared_tables(probe: Probe) -> SharedTables:
    """What ranks of the probe's machine would share; every token of a step is taken for a row of its own, twice."""
    return SharedTables(
        probe.table_rows, probe.table_width, probe.batch_tokens, min(2 * probe.batch_tokens, probe.table_rows)
    )


def describe_tables(probe: Probe, workers: Sequence[int]) -> str:
    """What sharing them saves, in words."""
    tables, vector_bytes = shared_tables(probe), probe.parameters * DTYPE.size
    together = sorted({divisor for number in workers for divisor in _divisors(number)})
    held = (
        f"{Costs(CostSettings(), 0, number, 1, vector_bytes, is_ring=True, tables=tables).held_bytes / 1e6:,.0f} MB"
        for number in together
    )
    most = tables.most_workers()
    saves = f"saves bytes up to {most} ranks to a copy" if most > 1 else "saves no bytes"
    return (
        f"With --{VOCABULARY_PARALLEL}, {' or '.join(map(str, together))} ranks to a copy of the tables "
        f"(--{MODEL_PARALLEL}) hold {' or '.join(held)} each of a vector of {vector_bytes / 1e6:,.0f} MB; it {saves}, "
        f"at {probe.batch_tokens:,} target tokens a step of each."
    )


def with_probe(network: CostSettings, probe: Probe) -> CostSettings:
    """The costs of the probe's machine on a network."""
    names = ("step_seconds", "seconds_per_token", "server_seconds_per_byte", "meeting_seconds")
    return dataclasses.replace(network, **{name: getattr(probe, name) for name in names})


def best_of_each(ranked: Sequence[Ranked]) -> list[Ranked]:
    """The best flags of each row and number of workers, in order."""
    best: dict[tuple[str, int], Ranked] = {}
    for one in ranked:
        best.setdefault((one.candidate.strategy, one.candidate.workers), one)
    return list(best.values())


def table(ranked: Sequence[Ranked]) -> str:
    """The ranking in Markdown."""
    with_time, with_price = ranked[0].seconds is not None, ranked[0].price is not None
    heading = [
        "flags",
        "workers",
        "servers",
        "ms a step",
        "target tokens/s",
        "computing",
        "transfers",
        "bytes a token",
        "tokens needed",
        "speed-up",
    ]
    heading += ["hours"] * with_time + ["price"] * with_price
    rows = [heading, ["---"] * len(heading)]
    for one in ranked:
        speed, candidate = one.speed, one.candidate
        cells = [
            " ".join(f"--{name}={value}" for name, value in candidate.flags().items()),
            str(candidate.workers),
            "–" if candidate.strategy == SINGLE else str(candidate.servers),
            f"{1000 * speed.step_seconds:,.0f}",
            f"{speed.tokens_per_second:,.0f}",
            f"{speed.computing_share:.0%}",
            f"{speed.transfer_share:.0%}",
            f"{speed.bytes_per_token:,.0f}",
            f"{one.token_factor:.2f}x",
            f"{one.speed_up:.2f}x",
        ]
        cells += [f"{(one.seconds or 0) / 3600:.2f}"] * with_time + [f"{one.price or 0:.2f}"] * with_price
        rows.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def picture(ranked: Sequence[Ranked]) -> Figure:
    """Speed-up to equal quality against the number of workers, a line for each row."""
    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="workers", ylabel="predicted speed-up to equal quality")
    lines: dict[str, list[tuple[int, float]]] = {}
    for one in best_of_each(ranked):
        lines.setdefault(one.candidate.strategy, []).append((one.candidate.workers, one.speed_up))
    start = (1, 1.0)
    lines.pop(SINGLE, None)
    for name, points in lines.items():
        axes.plot(*zip(start, *sorted(points)), marker="o", label=name)
    ticks = sorted({1, *(workers for points in lines.values() for workers, _ in points)})
    axes.plot(ticks, ticks, color="grey", linestyle=":", label="as many times as workers")
    axes.set_xticks(ticks)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def document(probe: Probe, network: CostSettings, goal: Goal, ranked: Sequence[Ranked]) -> dict[str, Any]:
    """Everything as JSON has it; `read_probe` reads the first part."""
    return {
        "probe": dataclasses.asdict(probe),
        "costs": dataclasses.asdict(with_probe(network, probe)),
        "goal": goal._asdict(),
        "ranking": [
            {
                "flags": one.candidate.flags(),
                "workers": one.candidate.workers,
                "servers": one.candidate.servers,
                **one.speed._asdict(),
                "token_factor": one.token_factor,
                "speed_up": one.speed_up,
                "seconds": one.seconds,
                "price": one.price,
            }
            for one in ranked
        ],
    }


def read_probe(path: Path) -> Probe:
    """The probe of an earlier plan.

    Raises:
      ValueError: the file holds none.
    """
    try:
        return Probe(**json.loads(path.read_text())["probe"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"no probe: {error}") from error
