"""How fast a row is under a cost model: the simulated engine's schedule, with workers that compute nothing."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from graphs.actions import FETCH, PULL, PUSH, WHOLE, Block, Steps
from graphs.work import NO_SUMS, Sums, Work
from tfnmt.batch import START
from tfnmt.engines.ledger import Ledger
from tfnmt.engines.pace import Fate
from tfnmt.engines.report import BlockReport, Waits
from tfnmt.engines.schedule import Schedule
from tfnmt.engines.virtual_clock import VirtualClock
from tfnmt.engines.virtual_time import Costs
from tfnmt.engines.worker import Progress, Push
from tfnmt.strategies import Strategy

PUSHES = 12
"""Pushes of each worker that are looked at, behind a quarter as many in which workers come into step."""
DTYPE = tf.float32

StepTokens = Callable[[int, int], int]
"""(worker, its step, from 1) -> target tokens."""


class Speed(NamedTuple):
    """What a row makes of its machines.

    Attributes:
      step_seconds: between two steps of a worker.
      tokens_per_second: target tokens of all workers.
      computing_share: of the workers' time.
      transfer_share: of the same, for pulls and pushes.
      waiting_share: of the same, for other workers.
      bytes_per_token: that all workers pull and push for a target token.
    """

    step_seconds: float
    tokens_per_second: float
    computing_share: float
    transfer_share: float
    waiting_share: float
    bytes_per_token: float


def predict(strategy: Strategy, costs: Costs, workers: int, batch_tokens: int, rows: Sequence[int] = ()) -> Speed:
    """The speed of a row once its workers are in step.

    Args:
      strategy: the row.
      costs: of as many workers.
      workers: how many.
      batch_tokens: target tokens of a step of a worker.
      rows: see `idle_reports`.
    """
    looked_at: list[BlockReport] = []
    pushes = 0
    for report in idle_reports(strategy, costs, workers, lambda worker, step: batch_tokens, rows):
        pushes += len(report.pushes)
        if pushes > workers * PUSHES // 4:
            looked_at.append(report)
        if pushes >= workers * PUSHES * 5 // 4:
            break
    seconds = sum(report.seconds for report in looked_at)
    tokens = sum(report.target_tokens for report in looked_at)
    moved = [push for report in looked_at for push in report.pushes]
    steps = tokens / batch_tokens
    return Speed(
        step_seconds=seconds * workers / steps,
        tokens_per_second=tokens / seconds,
        computing_share=sum(push.compute_seconds for push in moved) / (seconds * workers),
        transfer_share=sum(push.pull_seconds + push.push_seconds for push in moved) / (seconds * workers),
        waiting_share=sum(push.wait_seconds for push in moved) / (seconds * workers),
        bytes_per_token=sum(push.bytes_pulled + push.bytes_pushed for push in moved) / tokens,
    )


def idle_reports(
    strategy: Strategy, costs: Costs, workers: int, step_tokens: StepTokens, rows: Sequence[int] = ()
) -> Iterator[BlockReport]:
    """The reports of updates that nobody computes, without end, as the simulated engine would have them.

    Args:
      strategy: the row.
      costs: of as many workers.
      workers: how many.
      step_tokens: of each step of each worker.
      rows: [servers], that a block asks each for, where rows of a table travel; empty where everything does.
    """
    clock = VirtualClock()
    servers = _CountingServers(strategy, clock, costs, workers, step_tokens, rows)
    return Schedule(servers, clock, costs, workers, DTYPE).reports()


class _CountingServers:
    """Servers that count what they are handed; see `schedule.Servers`."""

    phase = 0
    plateau_scale = 1.0

    def __init__(
        self,
        strategy: Strategy,
        clock: VirtualClock,
        costs: Costs,
        workers: int,
        step_tokens: StepTokens,
        rows: Sequence[int],
    ):
        self.strategy, self._costs, self._step_tokens, self._rows = strategy, costs, step_tokens, tuple(rows)
        self._ledger = Ledger(workers, clock)
        self._ledger.begin_phase(strategy.meetings.by_speed)

    @property
    def version(self) -> int:
        return self._ledger.version

    @property
    def progress(self) -> Sequence[Progress]:
        return self._ledger.progress

    def worker_graph(self) -> None:
        return None

    def new_outbox(self) -> None:
        return None

    def new_worker(self, graph: None, number: int, outbox: None) -> "_IdleWorker":
        return _IdleWorker(self.strategy, number, self._step_tokens, self._ledger, self._rows)

    def steps_of(self, worker: int, step: int) -> int:
        return self._ledger.steps_of(worker, self.strategy.meetings.steps_behind(step))

    def absorb(self, push: Push, waits: Waits, fate: Fate) -> BlockReport | None:
        encoded, fragments = (self.strategy.pulled_bytes, self.strategy.pushed_bytes), self.strategy.fragments
        pulled, pushed = (round(sum(self._costs.encoded_parts(each, DTYPE, fragments))) for each in encoded)
        whole = round(sum(self._costs.parts(self.strategy.payload_vectors)))
        moved = push.pulls * pulled + push.whole_pulls * whole, pushed
        if self._costs.rows_on_servers:
            pulled, pushed = map(sum, self._costs.parts_with_rows(self._rows, DTYPE))
            moved = pulled, pushed
        if fate is Fate.TOO_LATE:
            self._ledger.drop(push, waits, moved)
            return None
        self._ledger.count(push, waits, None, moved)
        if fate is not Fate.ENDS_ROUND and self._ledger.arrived < self.strategy.quorum:
            return None
        sums = self._ledger.close(applied=True)
        return self._ledger.report(
            sums, applied=True, epoch=0, gradient_norm=0.0, learning_rate=0.0, momentum_norm=None
        )


class _IdleWorker:
    """Goes through a row's program and computes nothing."""

    def __init__(self, strategy: Strategy, number: int, step_tokens: StepTokens, ledger: Ledger, rows: tuple[int, ...]):
        self.number, self.step, self._rows = number, 0, rows
        self._ledger, self._step_tokens = ledger, step_tokens
        first, *others = strategy.program()
        self._program = itertools.chain([strategy.beginning(first), *others], itertools.cycle(strategy.program()))
        self._block = self._pulls = self._whole_pulls = self._version = 0
        self._sums, self._pushes = NO_SUMS, False

    def next_block(self) -> Block:
        return next(self._program)

    def run(self, block: Block, plateau_scale: float, most_steps: int, *, ends: bool) -> tuple[Work, Push | None]:
        (action,) = block
        steps = action.count if isinstance(action, Steps) else 0
        tokens = sum(self._step_tokens(self.number, self.step + number) for number in range(1, steps + 1))
        self.step += steps
        sums = NO_SUMS._replace(target_tokens=float(tokens), steps=float(steps), batches=float(steps))
        self._sums = Sums(*(before + more for before, more in zip(self._sums, sums)))
        kind = None if isinstance(action, Steps) else action.kind
        self._pushes |= kind == PUSH
        self._whole_pulls += kind == WHOLE
        self._pulls += kind in (PULL, FETCH)
        if kind in (WHOLE, PULL, FETCH):
            self._version = self._ledger.version
        work = Work(sums, -1, self._version, float(self.step), START, self._rows)
        if not (self._pushes and ends):
            return work, None
        self._block += 1
        numbers = (self.number, self._block, self.step, self._version, self._pulls)
        push = Push(*numbers, [], work._replace(sums=self._sums), self._whole_pulls)
        self._sums, self._pulls, self._whole_pulls, self._pushes = NO_SUMS, 0, 0, False
        return work, push
