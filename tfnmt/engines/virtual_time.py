"""What computing and sending cost under the virtual clock of the simulated engine."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from graphs.table_rows import TableRows, moved_bytes
from tfnmt.engines.links import Links
from tfnmt.models.output import CHUNK_ROWS
from tfnmt.settings import setting

AUTO, STAR, RING = "auto", "star", "ring"

SLOW_JITTER_STEPS = 100
"""Steps in which the slow part of the jitter forgets all but 1/e of itself."""


@dataclasses.dataclass(frozen=True)
class CostSettings:
    """The machines and the network that the simulated engine pretends to have."""

    seconds_per_token: float = setting(0.0004, "Seconds that a worker computes for each target token.", minimum=0)
    step_seconds: float = setting(0.0, "Seconds that a worker needs for a step beside its tokens.", minimum=0)
    jitter: float = setting(
        0.1,
        "Standard deviation of the logarithm of a step's compute time, anew at every step; the mean stays.",
        minimum=0,
    )
    slow_jitter: float = setting(
        0.0,
        f"The same of a part that a worker keeps for about {SLOW_JITTER_STEPS} steps, as a machine with other work.",
        minimum=0,
    )
    stragglers: tuple[str, ...] = setting((), "Slow workers, as worker:factor: 3:2.5 computes 2.5 times as long.")
    meeting_seconds: float = setting(
        0.0, "Seconds that each block of a worker costs beside its steps and transfers.", minimum=0
    )
    server_seconds_per_byte: float = setting(
        0.0,
        "Seconds for each byte of an update: servers, or the workers of a ring, move their parameters one update after "
        "the other, and workers with an optimizer of their own move all of their replica at each step.",
        minimum=0,
    )
    network: str = setting(
        AUTO,
        "Workers around parameter servers, or a ring of workers for rows with a barrier; auto is the ring where the "
        "strategy has no servers.",
        choices=(AUTO, STAR, RING),
    )
    network_latency_seconds: float = setting(0.0001, "Seconds before the first byte of a transfer arrives.", minimum=0)
    network_bytes_per_second: float = setting(
        1.25e9, "Speed of each worker's link and each parameter server's link, in each direction.", minimum=1
    )
    switch_bytes_per_second: float = setting(
        0.0, "What all transfers together cannot exceed; 0 for no such limit.", minimum=0
    )

    def faults(self) -> list[str]:
        """Stragglers that are none."""
        return [
            f"--stragglers={text}: must be worker:factor, such as 3:2.5."
            for text in self.stragglers
            if _parse(text) is None
        ]


_LOOK_UPS = 2  # of a step: source and target


class SharedTables(NamedTuple):
    """Tables of which workers of a ring have some rows each (`--vocabulary_parallel`), and what a step asks of them.

    Attributes:
      rows: of all tables together.
      width: of a row, D.
      step_tokens: target tokens of a worker's step, T.
      looked_up: different rows that it looks up.
    """

    rows: int
    width: int
    step_tokens: int
    looked_up: int

    @property
    def table_bytes(self) -> int:
        """Of all tables."""
        return 4 * self.rows * self.width

    def moved_bytes(self, workers: int, groups: int = 1) -> float:
        """Bytes that each of N workers that share a copy sends in a step, for itself and for the others.

        Every token's state goes to all others, with its id, and its gradient comes back; so do the three numbers that
        its normalizer is merged from, and the normalizer: (N - 1) T (2 D + 5). A row that is looked up travels once, if
        it is another's, its id before it and its gradient back. The sums over all rows are reduced. So are, where there
        are several groups with a copy each, the gradients of its rows, by those who have the same.
        """
        others, share = workers - 1, (workers - 1) / workers
        states, rows = self.step_tokens * (2 * self.width + 5), self.looked_up * (2 * self.width + 1)
        within = 4 * (others * (states + 1) + share * rows + 2 * share * self.width)
        return within + 2 * self.table_bytes / workers * (groups - 1) / groups

    def exchanges(self) -> int:
        """How many a step waits for, one behind the other."""
        return 3 * _LOOK_UPS + 3 + 4 * -(-self.step_tokens // CHUNK_ROWS)

    def most_workers(self) -> int:
        """The most workers to a copy with which a step sends fewer bytes so than by a reduction of whole gradients.

        Beside long rows and few look-ups that is M T < V, with V the rows of all tables and M workers to a copy. The
        number of groups does not matter: what N = M G workers save of whole gradients, (N - 1) / N of them, less
        (G - 1) / G of an M-th, is (M - 1) / M of them.

        >>> SharedTables(rows=32_000, width=512, step_tokens=4_000, looked_up=0).most_workers()
        7
        """
        whole, found = 2 * self.table_bytes, 1
        while self.moved_bytes(found + 1) < whole * found / (found + 1):
            found += 1
        return found


class Costs:
    """The durations of one run's events but for the transfers of a star, which depend on each other: see `links`.

    Attributes:
      settings: the machines and the network.
      is_ring: whether there are no servers.
      vector_bytes: of a vector of all parameters.
      rows_on_servers: that each server has of a table of which rows travel; empty where everything does.
    """

    def __init__(
        self,
        settings: CostSettings,
        seed: int,
        workers: int,
        servers: int,
        vector_bytes: int,
        *,
        is_ring: bool,
        tables: SharedTables | None = None,
        together: int = 0,
        rows_on_servers: Sequence[TableRows] = (),
    ):
        """Takes the size of a vector of all parameters, of which each server has an equal part.

        Where so many workers of a ring `together`, 0 for all, share a copy of `tables`, each has all parameters but
        these, and its part of the rows.
        """
        self._tables, self._together = tables, together or workers
        self.rows_on_servers = rows_on_servers
        self.settings, self.is_ring = settings, is_ring
        self._seed, self._workers, self._servers, self.vector_bytes = seed, workers, servers, vector_bytes
        self._factors = dict(found for text in settings.stragglers if (found := _parse(text)))
        self._slow_parts = [_SlowPart(seed, worker) for worker in range(workers)]

    def compute_seconds(self, worker: int, step: int, target_tokens: float, *, moves: bool = False) -> float:
        """How long the worker computes one step, from 1: a function of the seed, the worker and the step.

        Args:
          worker: who.
          step: which.
          target_tokens: of its batch.
          moves: whether it moves its replica by an optimizer of its own.
        """
        seconds = self.settings.step_seconds + target_tokens * self.settings.seconds_per_token
        seconds += moves * self.vector_bytes * self.settings.server_seconds_per_byte
        return seconds * self._factors.get(worker, 1.0) * self._noise(worker, step)

    def _noise(self, worker: int, step: int) -> float:
        """A log-normal factor of mean one: exp(z - s²/2) for a normal z of standard deviation s."""
        fast, slow = self.settings.jitter, self.settings.slow_jitter
        normal = fast * np.random.default_rng([self._seed, worker, step]).normal()
        if slow:
            normal += slow * self._slow_parts[worker].at(step)
        return math.exp(normal - (fast**2 + slow**2) / 2)

    def new_links(self) -> Links:
        """The links of the star, with nothing under way."""
        return Links(
            self._workers,
            self._servers,
            self.settings.network_bytes_per_second,
            switch_bytes_per_second=self.settings.switch_bytes_per_second,
            latency_seconds=self.settings.network_latency_seconds,
        )

    def encoded_parts(
        self, encoded_bytes: Callable[[int, tf.DType], int], dtype: tf.DType, fragments: int = 1
    ) -> list[float]:
        """[servers], the bytes on their way of what each server has of one of the vectors' fragments.

        Args:
          encoded_bytes: says them of so many numbers.
          dtype: of the parameters.
          fragments: how many there are.
        """
        numbers = -(-self.vector_bytes // (self._servers * fragments * dtype.size))
        return [encoded_bytes(numbers, dtype)] * self._servers

    def parts_with_rows(self, rows: Sequence[int], dtype: tf.DType) -> tuple[list[int], list[int]]:
        """[servers] each, the bytes of a pull and of a push with so many rows of each server's table."""
        numbers = -(-self.vector_bytes // (self._servers * dtype.size))
        return moved_bytes(self.rows_on_servers, rows, numbers, dtype)

    def parts(self, vectors: float) -> list[float]:
        """[servers], the bytes of whole vectors on each server."""
        return [vectors * self.vector_bytes / self._servers] * self._servers

    def update_seconds(self, vectors: float, sent: float, adds_up: bool = True) -> float:
        """How long an update of whole vectors takes once all that it is made of is there.

        Servers move their parts side by side. The workers of a ring reduce first, and each moves whole vectors.

        Args:
          vectors: that are moved.
          sent: the same as they are encoded on their way, which counts for a ring.
          adds_up: whether the workers of a ring can add up what they send; otherwise each gets what all have sent.
        """
        if not self.is_ring:
            return max(self.parts(vectors)) * self.settings.server_seconds_per_byte
        seconds = vectors * self.held_bytes * self.settings.server_seconds_per_byte
        return self.reduction_seconds(sent, adds_up) + seconds

    @property
    def _groups(self) -> int:
        return self._workers // self._together

    @property
    def held_bytes(self) -> float:
        """Bytes of one vector that each worker of a ring has."""
        if self._tables is None:
            return self.vector_bytes
        return self.vector_bytes - self._tables.table_bytes * (self._together - 1) / self._together

    def reduction_seconds(self, vectors: float, adds_up: bool = True) -> float:
        """The messages of a ring, one behind the other, by all at once.

        Reduce-scatter and all-gather are 2 (N - 1) messages of the N-th part; an all-gather alone is N - 1 of all, and
        so is each exchange for shared tables, among those that share a copy.
        """
        settings, rate = self.settings, self.settings.network_bytes_per_second
        if settings.switch_bytes_per_second:
            rate = min(rate, settings.switch_bytes_per_second / self._workers)
        messages = (2 if adds_up else 1) * (self._workers - 1)
        if self._tables:
            messages += self._tables.exchanges() * (self._together - 1) + 2 * (self._groups - 1)
        return messages * settings.network_latency_seconds + self.ring_bytes(vectors, adds_up) / rate

    def ring_bytes(self, vectors: float, adds_up: bool = True) -> float:
        """Bytes that each worker of a ring sends, and receives, to reduce whole vectors, shared tables excepted."""
        tables, others = self._tables, self._workers - 1
        to_all_others = vectors * (self.vector_bytes - (tables.table_bytes if tables else 0)) * others
        moved = tables.moved_bytes(self._together, self._groups) if tables else 0.0
        return (2 * to_all_others / self._workers if adds_up else to_all_others) + moved


class _SlowPart:
    """An AR(1) process of standard deviation one for one worker: x[t] = φ x[t-1] + √(1 - φ²) normal[t].

    It is a function of the seed, the worker and the step; steps that are asked for in order cost one draw each.
    """

    _KEPT = math.exp(-1 / SLOW_JITTER_STEPS)  # φ

    def __init__(self, seed: int, worker: int):
        self._address = [seed, worker]
        self._begin()

    def _begin(self) -> None:
        self._random = np.random.default_rng([*self._address, 0])  # steps, which have generators too, begin at 1
        self._step, self._value = 0, self._random.normal()

    def at(self, step: int) -> float:
        """x at a step."""
        if step < self._step:  # a worker came back, or a run was resumed
            self._begin()
        for normal in self._random.normal(size=step - self._step):
            self._value = self._KEPT * self._value + math.sqrt(1 - self._KEPT**2) * normal
        self._step = step
        return self._value


def _parse(text: str) -> tuple[int, float] | None:
    worker, _, factor = text.partition(":")
    try:
        found = int(worker), float(factor)
    except ValueError:
        return None
    return found if found[0] >= 0 and found[1] > 0 else None
