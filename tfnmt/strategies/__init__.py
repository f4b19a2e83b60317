"""Every training strategy is one row: what workers and servers exchange, when they do, and how the servers move.

`table.STRATEGIES` has a class of settings for each row, whose `row` fills the columns of a `Strategy` from flags.
Engines read the columns and never a strategy's name; a row that an engine cannot run is refused by its session.
"""

from tfnmt.strategies.asynchronous import Async, DelayedAsync, Downpour, SummedAsync
from tfnmt.strategies.averaging import Bmuf, ModelAverage, default_block_momentum
from tfnmt.strategies.row import AVERAGE, KEEP, RESET, Meetings, Strategy
from tfnmt.strategies.synchronous import RingAllreduce, Single, Sync
from tfnmt.strategies.table import STRATEGIES, Phase, RowSettings, StrategySettings, most_fragments, phases

__all__ = [
    "AVERAGE",
    "KEEP",
    "RESET",
    "STRATEGIES",
    "Async",
    "Bmuf",
    "DelayedAsync",
    "Downpour",
    "Meetings",
    "ModelAverage",
    "Phase",
    "RingAllreduce",
    "RowSettings",
    "Single",
    "Strategy",
    "StrategySettings",
    "SummedAsync",
    "Sync",
    "default_block_momentum",
    "most_fragments",
    "phases",
]
