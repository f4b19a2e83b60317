"""What a row with a barrier would have cost on another network: its updates are the same on any, only time differs.

The workers pull, take their steps and push; the next round begins when the servers, or the ring, have done the update.
So the tokens of each step, which come with the data, are all that the virtual clock needs.
"""

import itertools
from collections.abc import Sequence

from graphs.actions import PULL, PUSH, Meeting, Steps
from tfnmt.engines.virtual_time import Costs
from tfnmt.planning.prediction import idle_reports
from tfnmt.strategies import Strategy


def update_seconds(costs: Costs, row: Strategy, step_tokens: Sequence[Sequence[int]], updates: int) -> list[float]:
    """The virtual times of a row's updates, as the simulated engine would have them.

    Args:
      costs: machines and network.
      row: one whose workers all wait for all behind every pull, steps and push.
      step_tokens: [workers][steps], the target tokens of each worker's steps.
      updates: how many; each worker must have that many times the row's steps.

    Returns:
      [updates], seconds.

    Raises:
      ValueError: the row has another program, or there are too few steps.
    """
    steps = row.meetings.steps_per_push
    if not row.has_barrier or row.program() != ((Meeting(PULL), Steps(steps, first=True), Meeting(PUSH)),):
        raise ValueError(f"This row cannot be priced without its training: {row.describe()}.")
    if any(len(tokens) < updates * steps for tokens in step_tokens):
        raise ValueError(f"{updates} updates take {updates * steps} steps of each worker.")
    reports = idle_reports(row, costs, len(step_tokens), lambda worker, step: step_tokens[worker][step - 1])
    return list(itertools.accumulate(report.seconds for report in itertools.islice(reports, updates)))
