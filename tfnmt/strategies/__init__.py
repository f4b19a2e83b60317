"""Every training strategy is one row: what workers and servers exchange, when they meet, and how the servers move.

A class of settings makes the row out of its flags; `table.STRATEGIES` lists these classes. No engine knows a strategy's
name: each reads the columns of a `Strategy`, and refuses a row that it cannot run.
"""

from tfnmt.strategies.asynchronous import Async, DelayedAsync, Downpour, SummedAsync
from tfnmt.strategies.averaging import Bmuf, ModelAverage, default_block_momentum
from tfnmt.strategies.row import AVERAGE, KEEP, RESET, Meetings, Strategy
from tfnmt.strategies.synchronous import RingAllreduce, Single, Sync
from tfnmt.strategies.table import STRATEGIES, Phase, RowSettings, StrategySettings, phases

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
    "phases",
]
