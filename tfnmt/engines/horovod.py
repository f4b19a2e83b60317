"""The Horovod engine: one process for each rank, which all hold what the servers of a cluster would hold.

Every rank does its block, the payloads are summed on all of them at once, and each moves its own copy of the parameters
by the same update: the copies stay equal, bit for bit. Where each moves by its own gradient, too, they do not, and are
averaged now and then. With `--vocabulary_parallel` a rank has no copy of the tables, but some of their rows, whose
gradients it computes for the tokens of all or, with `--model_parallel`, of its group: then the owners of the same rows
in all groups sum these. Rank 0 alone decides what comes next, and tells the others before it comes. So a decision,
whatever it depends on, is one that all ranks take.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

import numpy as np
import tensorflow as tf

from graphs.block import Outbox, Reduce
from graphs.broadcast import pull
from graphs.encodings import DENSE
from graphs.local_gradient import average_ranks
from graphs.ring_allreduce import (
    add_numbers,
    exchange_numbers,
    exchange_squares,
    pack_sums,
    parameter_sums,
    ring_allgather,
    ring_allreduce,
    squares_apart,
)
from graphs.vocabulary_parallel import counting
from graphs.work import NO_SUMS, Sums, Work
from tfnmt.cluster.ranks import END, Command, Ranks, RankSettings, RegroupError
from tfnmt.engines.base import Engine, EngineState
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.report import BlockReport, Waits
from tfnmt.engines.servers import Arrival, UpdateSequence
from tfnmt.engines.vocabulary_shards import VocabularyShard, whole_square
from tfnmt.engines.worker import WORKER_VECTOR, Push, Worker
from tfnmt.errors import UserError
from tfnmt.strategies import Phase

_OWN = "own_"
_SHARE, _BLOCK, _STATE, _REGROUP = range(END + 1, END + 5)


class HorovodEngine(Engine):
    """Runs the rows that have a barrier. Rank 0 drives it by the methods of an engine; the others `follow`."""

    def __init__(
        self, recipe: Recipe, *, ranks: Ranks, settings: RankSettings, newest_saved: Callable[[], int] = lambda: 0
    ):
        """Builds this rank's copy.

        Args:
          recipe: what is trained, with a layout of one shard.
          ranks: who is there.
          settings: how payloads travel, and how often the copies are compared.
          newest_saved: the update of the newest checkpoint; asked on rank 0.
        """
        self._newest_saved = newest_saved
        self._grid = grid = settings.grid(ranks.size)
        group, place = divmod(ranks.rank, grid.together)
        self._shard, self._owners = VocabularyShard(recipe.layout, place, grid.together), None
        self._moved = tf.Variable(0, dtype=tf.float64, trainable=False)  # bytes, for rows of tables
        if self._shard.tables:
            recipe = self._shard.recipe(recipe, counting(ranks.among(grid.group(ranks.rank)), place, self._moved))
        if self._shard.tables and grid.groups > 1:
            self._owners = counting(ranks.among(grid.owners(ranks.rank)), group, self._moved)
        self._recipe, self._ranks, self._settings = recipe, ranks, settings
        self._encodings = [phase.strategy.encoding for phase in recipe.phases]
        self._servers = UpdateSequence(_encoded_by_workers(recipe), ranks.size, held=[ranks.rank])
        self._begin_phase()
        self._shared = False
        self._restored: EngineState | None = None  # a whole state, until this rank has given it to the others
        self._own: Mapping[str, np.ndarray] = {}  # what this rank's worker has kept when the ranks changed
        self._reports: list[BlockReport] = []  # behind the newest checkpoint
        self._missed: list[BlockReport] = []  # which others had, and this rank's driver has not heard of
        self._reduction_seconds = self._update_seconds = 0.0  # the last ones
        self._square: float | None = None  # of the last sum, where tables are sharded

    def blocks(self) -> Iterator[BlockReport]:
        """Trains until `stop` is called; one report for each server update.

        Raises:
          LostError: a rank is gone.
          UserError: a rank has parameters of its own.
          RegroupError: ranks have gone or come, and the launcher is elastic.
        """
        self._share_once()
        missed, self._missed = self._missed, []
        yield from missed
        while not self._stopping:
            if self._ranks.have_changed:
                with self._together(_REGROUP):
                    self._regroup()
            with self._together(_BLOCK):
                report = self._block()
            if report:
                yield report
                self._servers.restart_clock()

    def state(self) -> EngineState:
        """Everything that an exact resume needs."""
        self._share_once()
        with self._together(_STATE):
            held = self._held_by_ranks()
        return self._whole(held)

    def live(self) -> EngineState | None:
        """What this rank alone holds, with the reports since the newest checkpoint: enough to go on without the others.

        Its worker's vectors have names without the rank, which will be another. None before the ranks have shared what
        they train on.
        """
        if not self._shared:
            return None
        vectors = self._worker.vectors()
        own = {_OWN + name.removeprefix(self._prefix): vector for name, vector in vectors.items()}
        return dataclasses.replace(self._servers.state().with_vectors(own), reports=tuple(self._reports))

    def restore(self, state: EngineState) -> None:
        """Takes up the state of any engine, before `blocks` and `follow`: on rank 0, or on all what was `live`."""
        self._restored = state if self._shard.tables else None
        self._servers.restore(dataclasses.replace(state, vectors=self._shard.cut(state.vectors)))
        own = {name: vector for name, vector in state.vectors.items() if name.startswith(_OWN)}
        self._own = {self._prefix + name.removeprefix(_OWN): vector for name, vector in own.items()}
        self._reports = list(state.reports)

    def follow(self) -> int:
        """Does what rank 0 says until it ends; the exit code that it gives.

        Raises:
          LostError: a rank is gone.
          UserError: a rank has parameters of its own.
        """
        while True:
            command = self._ranks.command()
            self._servers.plateau_scale = command.plateau_scale
            self._forget_until(int(command.saved))
            if command.what == END:
                return int(command.code)
            _WORK[int(command.what)](self)

    @property
    def _prefix(self) -> str:
        """How the names of this rank's worker's vectors begin."""
        return f"{WORKER_VECTOR}{self._ranks.rank}_"

    @contextlib.contextmanager
    def _together(self, what: int) -> Iterator[None]:
        """Rank 0's part of what all ranks do now."""
        saved = self._newest_saved() if what == _STATE else 0
        self._forget_until(saved)
        with self._ranks.commanding(Command(what, self._servers.plateau_scale, saved=saved)):
            yield

    def _forget_until(self, saved: int) -> None:
        """Drops the reports that a checkpoint holds; none for 0."""
        if saved:
            self._reports = [report for report in self._reports if report.update > saved]

    def _begin_phase(self) -> None:
        """Prepares the row that trains now."""
        servers, settings, transport, pack = self._servers, self._settings, self._ranks.transport, None
        self._phase, self._building = servers.phase, True
        encoding, dtype = self._encodings[servers.phase], self._recipe.dtype
        size = self._shard.common_size // servers.strategy.fragments
        payload_bytes, others = servers.strategy.payload_vectors * encoding.bytes(size, dtype), self._ranks.size - 1
        self._ring_bytes = 2 * payload_bytes * others // self._ranks.size
        self._summed = None
        in_pieces = settings.reduction_pieces > 1 or bool(self._shard.tables)
        self._overlaps = in_pieces and servers.strategy.pushes_gradients_at_once
        if self._overlaps:
            seen = tf.Variable([-1.0, 0.0], dtype=tf.float64, trainable=False)
            layout, tables = self._recipe.layout, self._shard.tables
            whole = functools.partial(pack_sums, transport, layout, settings.reduction_pieces, seen)
            pack = functools.partial(whole, complete=tables, owners=self._owners)
            reduction: Callable = functools.partial(exchange_numbers, transport, seen=seen)
            if tables:
                reduction = functools.partial(exchange_squares, transport, seen=seen, layout=layout, complete=tables)
        elif not encoding.adds_up:
            self._ring_bytes, self._summed = payload_bytes * others, servers.new_outbox(DENSE)
            reduction = functools.partial(ring_allgather, transport, summed=self._summed, encoding=encoding)
        else:
            reduction = functools.partial(ring_allreduce, transport, encoding=encoding)
        if servers.strategy.payload_weight is not None:  # of a row that takes local steps, whose payloads travel whole
            reduction = functools.partial(reduction, weighted=True)
        reduce = None
        if servers.strategy.overlaps:
            reduce, reduction = self._within_blocks(reduction)
        self._reduction = tf.function(reduction, autograph=False)
        graph = servers.worker_graph(pack, reduce)
        self._worker: Worker = servers.new_worker(graph, self._ranks.rank, servers.new_outbox())
        self._squares = tf.function(self._squares_of_ranks, autograph=False)
        self._averaging = tf.function(functools.partial(average_ranks, transport, servers.server), autograph=False)
        self._sums = tf.function(
            lambda: parameter_sums(self._recipe.layout, pull([each.parameters for each in servers.server.shards])),
            autograph=False,
        )

    def _within_blocks(self, reduction: Callable) -> tuple[Reduce, Callable]:
        """How payloads are summed beside the steps behind a push, and what is left to exchange behind these."""
        self._overlaps, transport = True, self._ranks.transport
        table = tf.Variable(tf.zeros([self._ranks.size, 3], tf.float64), trainable=False)

        def reduce(outbox: Outbox, weight: tf.Tensor) -> tf.Operation:
            return table.assign(reduction(outbox, weight, tf.zeros([0], tf.float64)), read_value=False)

        return reduce, lambda payload, weight, numbers: add_numbers(transport, table, numbers)

    def _share_once(self) -> None:
        if not self._shared:
            with self._together(_SHARE):
                self._share()

    def _share(self) -> None:
        """Gives all ranks the state of the one that has come farthest: rank 0 or, among survivors, the first."""
        versions = self._ranks.gather(self._servers.version)
        root = versions.index(max(versions))
        state = self._state_to_share()
        vectors = self._share_vectors(state.vectors, root)
        counters, reports = self._ranks.share_object((dict(state.counters), self._reports), root)
        self._missed = [report for report in reports if report.update > self._servers.version]
        self._reports = reports
        self._servers.restore(EngineState({**vectors, **self._own}, counters))
        self._begin_phase()
        self._shared, self._own, self._restored = True, {}, None

    def _state_to_share(self) -> EngineState:
        """This rank's; where tables are sharded, a whole one on rank 0, restored or made of what all ranks hold."""
        if not self._shard.tables:
            return self._servers.state()
        if self._ranks.share_object(self._restored is not None):
            return self._restored or self._servers.state()
        return self._whole(self._held_by_ranks())

    def _share_vectors(self, vectors: Mapping[str, np.ndarray], root: int) -> dict[str, np.ndarray]:
        """This rank's parts of the vectors of one rank, which is never all of them at once."""
        shared: dict[str, np.ndarray] = {}
        for name in self._ranks.share_object(list(vectors), root):
            own = {name: vectors[name]} if self._ranks.rank == root else {}
            shared |= self._shard.cut(self._ranks.share_vectors(own, root))
        return shared

    def _regroup(self) -> NoReturn:
        raise RegroupError

    def _block(self) -> BlockReport | None:
        """One block; behind its push, the reduction and the update."""
        if self._phase != self._servers.phase:
            self._begin_phase()
        with self._computing():
            block = self._worker.next_block()
            most_steps = self._servers.steps_of(self._ranks.rank, self._worker.step)
            _, push = self._ranks.run(self._worker.run, block, self._servers.plateau_scale, most_steps)
        if push is None:
            return None
        arrivals = self._reduce(push)
        began = time.monotonic()
        with self._ranks.computing():
            summed = self._summed or push.payload
            report = self._servers.absorb_reduced(arrivals, summed, self._ring_bytes, self._square)
        momentum = self._servers.strategy.server_update.momentum
        if self._shard.tables and momentum and report.skipped is None:
            squares = self._ranks.run(self._squares, momentum).numpy().tolist()
            report = report._replace(momentum_norm=math.sqrt(whole_square(squares, self._grid)))
        self._update_seconds = time.monotonic() - began
        if self._servers.averages_replicas(report):
            report = self._average_replicas(report)
        self._reports.append(report)
        if report.skipped is None and self._compares_replicas(report.update):
            self._compare_replicas()
        return report

    def _average_replicas(self, report: BlockReport) -> BlockReport:
        """Averages the parameters of all ranks behind an update; its report with the bytes of that."""
        began = time.monotonic()
        self._ranks.run(self._averaging)
        self._reduction_seconds += time.monotonic() - began
        size = self._recipe.layout.size * self._recipe.dtype.size
        return report.with_more_pushed(2 * size * (self._ranks.size - 1) // self._ranks.size)

    def _computing(self) -> contextlib.AbstractContextManager[None]:
        """Times a block, but not the one that builds the graph: its length says nothing about the others.

        Nor one that sums: who computes long in it may be waiting.
        """
        untimed, self._building = self._building or self._overlaps, False
        return contextlib.nullcontext() if untimed else self._ranks.computing()

    def _reduce(self, push: Push) -> list[Arrival]:
        """Everybody's push, when the sum of the payloads has taken the place of each."""
        weight = tf.constant(self._servers.weight_of(push.work.sums), tf.float64)
        seconds = (self._reduction_seconds, self._update_seconds)
        numbers = tf.constant(_row(push, float(self._moved.numpy()), *seconds), tf.float64)
        self._moved.assign(0)
        began = time.monotonic()
        rows = self._ranks.run(self._reduction, push.payload, weight, numbers).numpy().tolist()
        self._reduction_seconds = time.monotonic() - began
        if self._shard.tables:
            self._square = whole_square([row[-2:] for row in rows], self._grid)
            rows = [[weight, self._shard.place_of(int(at)), *rest] for weight, at, *rest, _, _ in rows]
        return _arrivals(push, rows)

    def _squares_of_ranks(self, slot: str) -> tf.Tensor:
        """What `squares_apart` says of a slot of the servers' optimizer on each rank, [N, 2]."""
        vector = pull([shard.slots[slot] for shard in self._servers.server.shards])
        squares = squares_apart(self._recipe.layout, vector, self._shard.tables)
        return self._ranks.transport.allgather(squares[tf.newaxis], "squares")

    def _held_by_ranks(self) -> dict[str, np.ndarray]:
        """Every rank's own vectors and rows, of which only rank 0 keeps all, for a whole state."""
        found: dict[str, np.ndarray] = {}
        own = self._worker.vectors() | (self._servers.replicas.vectors() if self._servers.replicas else {})
        if self._shard.tables and self._ranks.rank in self._grid.group(0):
            own |= self._shard.rows(self._servers.state().vectors)
        for rank in range(self._ranks.size):
            vectors = self._ranks.share_vectors(own, rank)
            found |= vectors if self._ranks.rank == 0 else {}
        return found

    def _whole(self, held: Mapping[str, np.ndarray]) -> EngineState:
        """The state of all, on rank 0, which knows what each of them holds; another rank's own."""
        state = self._servers.state()
        if self._servers.replicas:
            return self._servers.with_means(state.with_vectors(held))
        if not self._shard.tables:
            return state.with_vectors(held)
        return dataclasses.replace(state, vectors=self._shard.join(state.vectors, held)) if held else state

    def _compares_replicas(self, update: int) -> bool:
        """Whether all ranks' parameters are compared behind an update: where they differ, once they are averaged."""
        strategy, every = self._servers.strategy, self._settings.check_replicas_every
        if strategy.local_gradient and not strategy.averages_replicas(update):
            return False
        return every > 0 and update % every < max(strategy.local_gradient, 1)

    def _compare_replicas(self) -> None:
        """Compares the parameters of all ranks.

        Raises:
          UserError: some differ.
        """
        sums = np.array(self._ranks.gather(self._sums().numpy()))  # [N, parameters]
        everybody = [range(self._ranks.size)]
        owners = [self._grid.owners(place) for place in self._grid.group(0)]
        for number, parameter in enumerate(self._recipe.layout.parameters):
            for ranks in owners if parameter.name in self._shard.tables else everybody:
                self._compare(parameter.name, {rank: sums[rank, number] for rank in ranks})

    def _compare(self, name: str, sums: Mapping[int, int]) -> None:
        """Compares the sums of one parameter by the ranks that should have the same values of it."""
        held = list(sums.values())
        usual = max(sums, key=lambda rank: held.count(sums[rank]))  # the first one where two ranks differ
        for rank, found in sums.items():
            if found != sums[usual]:
                raise UserError(
                    f"rank {rank} on {self._ranks.hosts[rank]} has other values of {name} than rank {usual}. Its "
                    "memory or its libraries cannot be trusted; start training again without it."
                )


_WORK = {
    _SHARE: HorovodEngine._share,
    _BLOCK: HorovodEngine._block,
    _STATE: HorovodEngine._held_by_ranks,
    _REGROUP: HorovodEngine._regroup,
}
"""Command -> what the other ranks do."""


def _encoded_by_workers(recipe: Recipe) -> Recipe:
    """The recipe for one rank.

    Payloads whose encodings add up are encoded on the way, by the weight of all, and whole before and behind that.
    """

    def of_workers(phase: Phase) -> Phase:
        whole = phase._replace(strategy=dataclasses.replace(phase.strategy, encoding=DENSE))
        return whole if phase.strategy.encoding.adds_up else phase

    return dataclasses.replace(recipe, phases=[of_workers(phase) for phase in recipe.phases])


def _row(push: Push, other_bytes: float, reduction_seconds: float, update_seconds: float) -> list[float]:
    """A push as numbers, for the others."""
    seconds = (reduction_seconds, update_seconds)
    return [push.block, push.step, *seconds, other_bytes, push.work.nonfinite_at, *push.work.sums, *push.work.position]


def _arrivals(own: Push, rows: Sequence[Sequence[float]]) -> list[Arrival]:
    """Everybody's push out of its row.

    The rank that comes last to a reduction waits for nobody, so what it spends there is the transfer, and what others
    spend there beyond that is their wait for it.
    """
    transfer = min(row[_REDUCTION] for row in rows)
    return [_arrival(rank, own, transfer, *row) for rank, row in enumerate(rows)]


def _arrival(
    rank: int, own: Push, transfer: float, weight: float, nonfinite_at: float, square: float, *numbers: float
) -> Arrival:
    block, step, reduction_seconds, update_seconds, other_bytes, local_nonfinite_at, *rest = numbers
    sums, position = Sums(*rest[: len(NO_SUMS)]), rest[len(NO_SUMS) :]
    sums = sums._replace(push_seconds=sums.push_seconds + transfer)
    work = Work(sums, int(local_nonfinite_at), own.version, own.work.clock, tuple(map(int, position)))
    push = own._replace(worker=rank, block=int(block), step=int(step), work=work)
    waits = Waits(reduction_seconds - transfer, update_seconds)
    return Arrival(push, waits, weight, int(nonfinite_at), square, int(other_bytes))


_REDUCTION = 5
"""Where a row of the table has the seconds of the reduction before."""
