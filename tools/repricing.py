"""What a row with a barrier would have cost on another network: its updates are the same on any, only time differs.

The workers pull, take their steps and push; the next round begins when the servers, or the ring, have done the update.
So the tokens of each step, which come with the data, are all that the virtual clock needs.
"""

from collections.abc import Iterator, Sequence

import tensorflow as tf

from graphs.block import PULL, PUSH, Steps
from tfnmt.engines import links
from tfnmt.engines.timeline import Event, Timeline, Transfer
from tfnmt.engines.virtual_time import Costs
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
    if not row.has_barrier or row.program() != ((PULL, Steps(steps, first=True), PUSH),):
        raise ValueError(f"This row cannot be priced without its training: {row.describe()}.")
    if any(len(tokens) < updates * steps for tokens in step_tokens):
        raise ValueError(f"{updates} updates take {updates * steps} steps of each worker.")
    now, times = 0.0, []
    for update in range(updates):
        first = update * steps
        blocks = [
            [costs.compute_seconds(worker, number + 1, tokens[number]) for number in range(first, first + steps)]
            for worker, tokens in enumerate(step_tokens)
        ]
        now = _round_seconds(costs, row, blocks, now) + costs.update_seconds(
            row.payload_vectors, row.pushed_vectors(tf.float32)
        )
        times.append(now)
    return times


def _round_seconds(costs: Costs, row: Strategy, blocks: Sequence[Sequence[float]], now: float) -> float:
    """When the last push of a round has come that begins now."""
    timeline = Timeline(costs.new_links(), now)
    clock = [now]
    lives = [_block(costs, row, worker, seconds, clock) for worker, seconds in enumerate(blocks)]

    def go_on(worker: int) -> None:
        coming = next(lives[worker], None)
        if isinstance(coming, Event):
            timeline.add(coming)
        elif coming is not None:
            transfer, vectors = coming
            timeline.begin(clock[0], transfer, costs.parts(vectors))

    for worker in range(len(blocks)):
        go_on(worker)
    while event := timeline.next():
        clock[0] = max(clock[0], event.seconds)
        go_on(event.worker)
    return clock[0]


def _block(
    costs: Costs, row: Strategy, worker: int, seconds: Sequence[float], clock: Sequence[float]
) -> Iterator[Event | tuple[Transfer, float]]:
    """What a worker does in a round: events, and transfers of so many vectors."""
    if costs.settings.meeting_seconds:
        yield Event(clock[0] + costs.settings.meeting_seconds, worker, "met")
    if not costs.is_ring:
        yield Transfer(worker, "pulled", links.PULL), row.payload_vectors
    for each in seconds:
        yield Event(clock[0] + each, worker, "stepped")
    if not costs.is_ring:
        yield Transfer(worker, "pushed", links.PUSH), row.pushed_vectors(tf.float32)
