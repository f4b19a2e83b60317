"""Every training strategy is one row: what a worker does in a block, and what the servers do with its payload.

No engine knows a strategy's name; each reads the columns and refuses a row that it cannot run.
"""

import dataclasses

from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One row of the table.

    Attributes:
      name: what the user calls it.
      workers: the largest number of workers that it is defined for; None for any.
      local_steps: steps between a pull and a push, H.
      payload: what is pushed; a gradient sum travels with its target tokens and is divided by them once.
      server_update: how the server moves on the reduced payload.
    """

    name: str
    workers: int | None
    local_steps: int
    payload: str
    server_update: str


STRATEGIES = {
    row.name: row
    for row in (
        Strategy(
            "single",
            workers=1,
            local_steps=1,
            payload="gradient sum",
            server_update="optimizer",
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class StrategySettings:
    """Which strategy trains, and what every strategy's server update shares."""

    strategy: str = setting("single", "Row of the strategy table.", choices=tuple(STRATEGIES))
    global_batch_tokens: int = setting(
        0,
        "Target tokens of one update: batches are accumulated until they hold as many; 0 for one batch an update.",
        minimum=0,
    )
    clip_norm: float = setting(1.0, "Largest norm of the mean gradient; 0 for no clipping.", minimum=0)
    average_rate: float = setting(
        0.0,
        "Weight of the newest parameters in the exponential moving average that is evaluated and saved, 1e-4 or "
        "more; 0 for no average.",
        minimum=0,
        maximum=1,
    )
    seed: int = setting(
        1,
        "Seed of initial parameters, order of the data and dropout.",
        minimum=0,
        maximum=2**31 - 1,
    )
