"""The strategy table, the settings that all rows share, and the phases of a run."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from graphs.encodings import ENCODINGS, TopK, find_encoding
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.settings import setting
from tfnmt.strategies.asynchronous import Async, DelayedAsync, Downpour, SummedAsync
from tfnmt.strategies.averaging import Bmuf, ModelAverage
from tfnmt.strategies.delayed_nesterov import DelayedNesterov
from tfnmt.strategies.elastic import Elastic
from tfnmt.strategies.row import Strategy
from tfnmt.strategies.streaming import Streaming
from tfnmt.strategies.synchronous import RingAllreduce, Single, Sync


class RowSettings(Protocol):
    """The settings of a row: a dataclass whose fields are the flags of the row."""

    def row(self, workers: int, optimizer: OptimizerSettings) -> Strategy:
        """The columns of the row, filled from the fields.

        Args:
          workers: how many workers the run has.
          optimizer: `--optimizer` and its constants, for the servers of rows that push gradients, and for the replicas
            of rows that train these.
        """


STRATEGIES = {
    "single": Single,
    "sync": Sync,
    "ring_allreduce": RingAllreduce,
    "model_average": ModelAverage,
    "bmuf": Bmuf,
    "streaming": Streaming,
    "downpour": Downpour,
    "async": Async,
    "delayed_async": DelayedAsync,
    "summed_async": SummedAsync,
    "elastic": Elastic,
    "delayed_nesterov": DelayedNesterov,
}


@dataclasses.dataclass(frozen=True)
class StrategySettings:
    """Which row trains, and the flags that all rows share."""

    strategy: str = setting("single", "Row of the strategy table.", choices=tuple(STRATEGIES))
    warm_start_updates: int = setting(
        0, "Updates of synchronous training before the strategy begins; 0 for none.", minimum=0
    )
    learning_rate_law: str = setting(
        "none",
        "How the learning rate grows with the batches that are averaged in one update: not at all, in proportion, with "
        "the root, or with the update's target tokens over --law_tokens.",
        choices=("none", "linear", "sqrt", "words"),
    )
    warm_start_law: str = setting(
        "same",
        "How the learning rate grows with the batches of an update in the warm start: as --learning_rate_law says, or "
        "by a law of its own.",
        choices=("same", "none", "linear", "sqrt", "words"),
        only_with={"warm_start_updates": None},
    )
    law_tokens: int = setting(
        1920,
        "Target tokens of an update for which --learning_rate is meant under the law of words.",
        minimum=1,
        only_with={"learning_rate_law": ("words",), "warm_start_law": ("words",)},
    )
    law_start_tokens: int | None = setting(
        None,
        "The same at the first update, for a warm-up by the law of words: it changes to --law_tokens in a straight "
        "line; empty for --law_tokens from the start.",
        minimum=1,
        only_with={"learning_rate_law": ("words",), "warm_start_law": ("words",)},
    )
    law_ramp_updates: int = setting(
        4000,
        "Updates, or steps of a worker where replicas are trained, until the law of words has come to --law_tokens.",
        minimum=1,
        only_with={"law_start_tokens": None},
    )
    global_batch_tokens: int = setting(
        0,
        "Target tokens of one step of all workers: each accumulates batches until it has its share; 0 for one batch "
        "a worker and step.",
        minimum=0,
    )
    clip_norm: float = setting(1.0, "Largest norm of the mean gradient; 0 for no clipping.", minimum=0)
    average_rate: float = setting(
        0.0,
        "Weight of the newest parameters in the exponential moving average that is evaluated and saved, 1e-4 or more, "
        "for each step of all workers: an update to which a single one of N workers has brought a step counts as an "
        "N-th of that; 0 for no average.",
        minimum=0,
        maximum=1,
    )
    encoding: str = setting(
        "none",
        "How payloads travel: as they are; in floats of 16 bits; in integers of 8 or 4 bits, with a scale for each "
        "256; or the largest elements alone. With the last three, each worker keeps what was not sent and adds it to "
        "its next payload.",
        choices=tuple(ENCODINGS),
        formerly="compression",
    )
    pull_encoding: str = setting(
        "none",
        "How parameters travel to workers: as they are, or the change since a worker's last pull as --encoding has it; "
        "then servers hold a copy of what each worker knows, and send later what they have not sent.",
        choices=tuple(ENCODINGS),
    )
    sparse_embeddings: bool = setting(
        False,
        "Whether of a source table that is only looked up workers pull and push, beside everything else, no more than "
        "the rows that their batches read; training is the same. For parameter servers.",
        may_change=True,
    )
    topk_fraction: float = setting(
        TopK().fraction,
        "Share of the elements that topk sends, the largest of each 4,096.",
        above=0,
        maximum=1,
        only_with=dict.fromkeys(("encoding", "pull_encoding", "warm_start_encoding"), ("topk",)),
    )
    local_gradient_updates: int = setting(
        0,
        "Updates between two averagings of the workers' replicas, each of which moves by all of its own worker's "
        "gradient, also by what was not sent; 0 for replicas that all move by what was sent alone.",
        minimum=0,
        only_with={"encoding": ("topk",)},
    )
    warm_start_encoding: str = setting(
        "same",
        "How payloads travel in the warm start: as --encoding says, or by one of its values.",
        choices=("same", *ENCODINGS),
        only_with={"warm_start_updates": None},
    )
    seed: int = setting(
        1,
        "Seed of initial parameters, order of the data and dropout.",
        minimum=0,
        maximum=2**31 - 1,
    )


class Phase(NamedTuple):
    """A row, and the updates for which it trains.

    Attributes:
      first_update: updates that come before its first.
      strategy: the row.
      law: how the learning rate grows with the batches of an update.
    """

    first_update: int
    strategy: Strategy
    law: str


def phases(
    settings: StrategySettings, row: RowSettings, workers: int, optimizer: OptimizerSettings
) -> tuple[Phase, ...]:
    """The phases of a run in order: a synchronous warm start if one is wanted, then the row."""

    def made(row: RowSettings, encoding: str) -> Strategy:
        push, pull = (find_encoding(name, settings.topk_fraction) for name in (encoding, settings.pull_encoding))
        return dataclasses.replace(row.row(workers, optimizer), encoding=push, pull_encoding=pull)

    def or_same(of_warm_start: str, later: str) -> str:
        return later if of_warm_start == "same" else of_warm_start

    law, encoding, warm_start = settings.learning_rate_law, settings.encoding, []
    if settings.warm_start_updates:
        warm_row = made(Sync(), or_same(settings.warm_start_encoding, encoding))
        warm_start = [Phase(0, warm_row, or_same(settings.warm_start_law, law))]
    trained = dataclasses.replace(made(row, encoding), local_gradient=settings.local_gradient_updates)
    return (*warm_start, Phase(settings.warm_start_updates, trained, law))


def most_fragments(phases: Sequence[Phase]) -> int:
    """The fragments of the row that has most: each server has a shard for each of them, whichever row trains."""
    return max(phase.strategy.fragments for phase in phases)
