"""One worker: pull, local steps, push. The same graph runs in every engine, whole blocks or step by step."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from graphs.broadcast import pull
from graphs.forward_backward import Pack, forward_backward
from graphs.local_steps import LocalUpdate, Replica, move_replica
from graphs.reduce_average import Server
from tfnmt.batch import Batch, token_count
from tfnmt.engines.learning_rates import LearningRates
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.streams import in_streams
from tfnmt.strategies import DELTA, KEEP, RESET, Block, Strategy

WORKER_VECTOR = "worker_"
"""How the names of the vectors begin that a checkpoint holds of the workers."""

Outbox = Sequence[tf.Variable]
"""Where a worker's payload goes: a variable for each shard, on the shard's server; further vectors' behind them."""


class Sums(NamedTuple):
    """Sums over local steps: float64 scalars, exact for every count that occurs."""

    loss: tf.Tensor | float
    cross_entropy: tf.Tensor | float
    target_tokens: tf.Tensor | float
    source_tokens: tf.Tensor | float
    positions: tf.Tensor | float
    sentences: tf.Tensor | float
    data_wait_seconds: tf.Tensor | float
    steps: tf.Tensor | float
    refused: tf.Tensor | float  # local updates whose gradient was not finite


NO_SUMS = Sums(*[0.0] * len(Sums._fields))


class Work(NamedTuple):
    """What some local steps came to."""

    sums: Sums
    nonfinite_at: tf.Tensor | int  # first bad element of a refused local update, -1 for none
    version: tf.Tensor | int  # of the servers before the first of them
    position: tf.Tensor | tuple[int, ...]  # int64 [3] of the last batch


class WorkerGraph:
    """The graph of one strategy's blocks, which all workers share; what differs between them comes in as arguments."""

    def __init__(
        self,
        recipe: Recipe,
        server: Server,
        strategy: Strategy,
        rates: LearningRates,
        workers: int,
        pack: Pack | None = None,
    ):
        """Takes everything that the workers have in common; each has its share of `--global_batch_tokens`.

        Args:
          recipe: what is trained.
          server: where they pull from.
          strategy: the row.
          rates: of the local update.
          workers: how many.
          pack: see `forward_backward`.
        """
        self._loss, self._pack = in_streams(recipe.model.loss, recipe.streams), pack
        self.strategy = strategy
        self._recipe, self._settings, self._server, self._rates = recipe, recipe.settings, server, rates
        self._functions: dict[Block, Any] = {}
        self.read: Any = tf.function(self._reading)
        self._step_tokens = -(-recipe.settings.global_batch_tokens // workers)

    def new_replica(self) -> Replica:
        """A replica with fresh slots, on the device of the caller; the first pull fills it."""
        local, size, dtype = self.strategy.local_update, self._recipe.layout.size, self._recipe.dtype

        def filled(value: float, name: str) -> tf.Variable:
            return tf.Variable(tf.fill([size], tf.constant(value, dtype)), trainable=False, name=name)

        slots = {name: filled(first or 0.0, name) for name, first in (local.slots if local else {}).items()}
        updates = tf.Variable(0, dtype=tf.float64, trainable=False, name="updates")
        return Replica(filled(0, "replica"), filled(0, "gathered"), slots, updates)

    def function(self, block: Block) -> Any:
        """The graph function of one block; `unpack_work` reads what it returns.

        Its arguments: the worker's replica, outbox and reader; its number and the steps that it has done before, int64
        scalars; and what the plateau schedule has come to, a scalar.
        """
        if block not in self._functions:
            self._functions[block] = tf.function(functools.partial(self._block, block))
        return self._functions[block]

    def trace(self, outbox: Outbox, batches: Iterator[Batch]) -> None:
        """Traces the whole program once, wherever it is going to run: a trace belongs to the device of its caller."""
        whole, scalar = tf.TensorSpec([], tf.int64), tf.TensorSpec([], self._recipe.dtype)
        replica = self.new_replica()
        for block in set(self.strategy.cycle()):
            traced = self.function(block).get_concrete_function(replica, outbox, batches, whole, whole, scalar)
            self._functions[block] = traced
        self.read = self.read.get_concrete_function(replica)

    def kept(self, replica: Replica) -> dict[str, tf.Variable]:
        """The slots that outlive a pull and, where there are such, their age."""
        slots = replica.slots if self.strategy.local_slots == KEEP else {}
        return {**slots, "updates": replica.updates} if slots else {}

    def _reading(self, replica: Replica) -> dict[str, tf.Tensor]:
        return {name: variable.read_value() for name, variable in self.kept(replica).items()}

    def _block(
        self,
        block: Block,
        replica: Replica,
        outbox: Outbox,
        batches: Iterator[Batch],
        worker: tf.Tensor,
        step: tf.Tensor,
        plateau_scale: tf.Tensor,
    ) -> tf.Tensor:
        version = self._server.version.read_value()
        if block.pull:
            with tf.control_dependencies([version]):
                self._pull(replica)
        work = self._steps(replica, batches, worker, step, plateau_scale, block) if block.steps else _no_work()
        if block.push:
            self._push(replica, outbox)
        return packed([*work.sums, work.nonfinite_at, version, *tf.unstack(work.position)])

    def _pull(self, replica: Replica) -> None:
        pulled = pull([shard.parameters for shard in self._server.shards])
        replica.parameters.assign(pulled)
        if self.strategy.payload == DELTA:
            replica.gathered.assign(pulled)
        if self.strategy.local_update is not None and self.strategy.local_slots == RESET:
            for name, first in self.strategy.local_update.slots.items():
                replica.slots[name].assign((first or 0.0) * tf.ones_like(replica.slots[name]))
            replica.updates.assign(0)
        for name in self.strategy.averaged_slots:
            replica.slots[name].assign(pull([shard.local_slots[name] for shard in self._server.shards]))
            replica.updates.assign(self._server.local_updates)

    def _push(self, replica: Replica, outbox: Outbox) -> None:
        payload = replica.gathered.read_value()
        if self.strategy.payload == DELTA:
            payload = replica.parameters - payload
        vectors = [payload, *(replica.slots[name].read_value() for name in self.strategy.averaged_slots)]
        shards = len(self._server.shards)
        pieces = itertools.chain(*(tf.split(vector, shards) if shards > 1 else [vector] for vector in vectors))
        for variable, piece in zip(outbox, pieces):
            variable.assign(piece)

    def _steps(self, replica, batches, worker, step, plateau_scale, block) -> Work:
        """As many steps as the block has or, with a limit of time, as many as fit, but one at least."""
        if block.steps == 1:
            return self._step(replica, batches, worker, step, plateau_scale, first=block.begins)
        if block.begins and self.strategy.payload != DELTA:
            replica.gathered.assign(tf.zeros_like(replica.gathered))
        started = tf.timestamp()

        def more(work: Work, now: tf.Tensor) -> tf.Tensor:
            wanted = work.sums.steps < block.steps
            if self.strategy.push_after_seconds:
                wanted &= (now - started < self.strategy.push_after_seconds) | (work.sums.steps == 0)
            return wanted

        def one_more(work: Work, _: tf.Tensor) -> tuple[Work, tf.Tensor]:
            done = tf.cast(work.sums.steps, tf.int64)
            work = _add(work, self._step(replica, batches, worker, step + done, plateau_scale, first=False))
            with tf.control_dependencies([work.position]):
                return work, tf.timestamp()

        return tf.while_loop(more, one_more, (_no_work(), started))[0]

    def _step(self, replica, batches, worker, step, plateau_scale, first: bool) -> Work:
        """One local step: its gradient is gathered, or moves the replica, or both."""
        gradient_sum, work = self._gradient(replica.parameters.read_value(), batches, worker, step)
        if self.strategy.payload != DELTA:
            if first:
                replica.gathered.assign(gradient_sum)
            else:
                replica.gathered.assign_add(gradient_sum)
        if self.strategy.local_update is None:
            return work
        local = LocalUpdate(
            self.strategy.local_update,
            lambda step, tokens: self._rates.of_worker(step, tokens, plateau_scale),
            self._settings.clip_norm,
            self.strategy.local_update_steps,
        )
        refused, nonfinite_at = move_replica(local, replica, gradient_sum, work.sums.target_tokens, step)
        return work._replace(sums=_refused_if(refused, work.sums), nonfinite_at=nonfinite_at)

    def _gradient(self, replica, batches, worker, step) -> tuple[tf.Tensor, Work]:
        """The gradient sum [size] of one step: one batch, or as many as hold the worker's share of the tokens."""
        seed = tf.cast(tf.stack([tf.constant(self._settings.seed, tf.int64), step]), tf.int32)
        seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(worker, tf.int32))
        if not self._step_tokens:
            return self._of_batch(replica, batches, seed)

        def more_needed(_, work: Work, number: tf.Tensor) -> tf.Tensor:
            return work.sums.target_tokens < self._step_tokens

        def one_more(gradient_sum: tf.Tensor, work: Work, number: tf.Tensor) -> tuple[tf.Tensor, Work, tf.Tensor]:
            batch_seed = tf.random.experimental.stateless_fold_in(seed, number)
            more_gradient, more_work = self._of_batch(replica, batches, batch_seed)
            return gradient_sum + more_gradient, _add(work, more_work), number + 1

        start = (tf.zeros_like(replica), _no_work(), tf.constant(0))
        gradient_sum, work, _ = tf.while_loop(more_needed, one_more, start)
        return gradient_sum, work._replace(sums=work.sums._replace(steps=tf.constant(1.0, tf.float64)))

    def _of_batch(self, replica: tf.Tensor, batches: Iterator[Batch], seed: tf.Tensor) -> tuple[tf.Tensor, Work]:
        batch, waited = _next_batch(batches)
        gradient_sum, sums = forward_backward(self._loss, self._recipe.layout, replica, batch, seed, self._pack)
        counted = Sums(
            loss=sums.loss,
            cross_entropy=sums.cross_entropy,
            target_tokens=token_count(batch.target_ids),
            source_tokens=token_count(batch.source_ids),
            positions=tf.size(batch.source_ids) + tf.size(batch.target_ids),
            sentences=tf.shape(batch.target_ids)[0],
            data_wait_seconds=waited,
            steps=tf.constant(1),
            refused=tf.constant(0),
        )
        counted = Sums(*(tf.cast(number, tf.float64) for number in counted))
        return gradient_sum, _no_work()._replace(sums=counted, position=batch.position)


class Push(NamedTuple):
    """One payload on its way to the servers, and what it is made of."""

    worker: int
    block: int  # the worker's pushes so far, this one included
    step: int  # the worker's steps so far
    version: int  # of the servers at the last pull
    pulls: int  # since the last push
    payload: Outbox
    work: Work  # numbers, summed since the last push


class Progress(NamedTuple):
    """How far a worker has come, as far as the servers know."""

    block: int = 0
    step: int = 0
    position: tuple[int, ...] | None = None


class Worker:
    """One worker's variables, reader and place in its program.

    Attributes:
      number: from 0.
      step: steps so far.
      replica: its variables.
      outbox: where its next payload goes.
    """

    def __init__(
        self,
        graph: WorkerGraph,
        number: int,
        progress: Progress,
        replica: Replica,
        outbox: Outbox,
        batches: Iterator[Batch],
    ):
        """A worker that has come as far as `progress` and pulls first; everything that it owns is given."""
        self.number, self.replica, self._graph = number, replica, graph
        self._block, self.step = progress.block, progress.step
        self.outbox, self._batches = outbox, batches
        self._program = itertools.cycle(graph.strategy.cycle())
        self._work: Work | None = None
        self._version = self._pulls = 0

    def next_block(self) -> Block:
        """What the program says to do next."""
        return next(self._program)

    def run(self, block: Block, plateau_scale: float = 1.0) -> tuple[Work, Push | None]:
        """Does one block, or a part of one: what that came to, and the push when there is one."""
        dtype = self.replica.parameters.dtype
        packed = self._graph.function(block)(
            self.replica,
            self.outbox,
            self._batches,
            tf.constant(self.number, tf.int64),
            tf.constant(self.step, tf.int64),
            tf.constant(plateau_scale, dtype),
        )
        work = unpack_work(packed)
        self.step += int(work.sums.steps)
        if block.pull:
            self._version, self._pulls = work.version, self._pulls + 1
        self._work = work if self._work is None else _gathered(self._work, work)
        if not block.push:
            return work, None
        self._block += 1
        gathered, self._work, pulls, self._pulls = self._work, None, self._pulls, 0
        return work, Push(self.number, self._block, self.step, self._version, pulls, self.outbox, gathered)

    def vectors(self) -> dict[str, np.ndarray]:
        """The state of the local update by name, for a checkpoint."""
        values = self._graph.read(self.replica) if self._graph.kept(self.replica) else {}
        return {self._name(name): value.numpy() for name, value in values.items()}

    def restore(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Takes up what `vectors` returned, as far as it is there.

        Slots that were saved without their age are taken to be as old as the worker.
        """
        saved = {self._name(name): variable for name, variable in self._graph.kept(self.replica).items()}
        found = {name: vectors[name] for name in saved if name in vectors}
        if found:
            self.replica.updates.assign(self.step)
        for name, value in found.items():
            saved[name].assign(value)

    def _name(self, slot: str) -> str:
        """A slot's in a checkpoint."""
        return f"{WORKER_VECTOR}{self.number}_{slot}"


def unpack_work(packed: tf.Tensor) -> Work:
    """What a function of `WorkerGraph` returned, as Python numbers."""
    numbers = packed.numpy().tolist()
    count = len(Sums._fields)
    nonfinite_at, version, *position = (int(number) for number in numbers[count:])
    return Work(Sums(*numbers[:count]), nonfinite_at, version, tuple(position))


def packed(scalars: Iterable[tf.Tensor]) -> tf.Tensor:
    """One float64 vector: one transfer, when the device is elsewhere."""
    return tf.stack([tf.cast(scalar, tf.float64) for scalar in scalars])


def _refused_if(refused: tf.Tensor, sums: Sums) -> Sums:
    """The sums of a step; of a refused one nothing counts but that it was one, and its time."""
    counted = Sums(*(tf.where(refused, tf.zeros_like(number), number) for number in sums))
    kept = {"steps": sums.steps, "data_wait_seconds": sums.data_wait_seconds}
    return counted._replace(refused=tf.cast(refused, tf.float64), **kept)


def _no_work() -> Work:
    return Work(
        Sums(*(tf.zeros([], tf.float64) for _ in Sums._fields)),
        tf.constant(-1, tf.int64),
        tf.constant(0, tf.int64),
        tf.fill([3], tf.constant(-1, tf.int64)),
    )


def _add(work: Work, more: Work) -> Work:
    """Both together; in the graph."""
    sums = Sums(*(one + other for one, other in zip(work.sums, more.sums)))
    return Work(sums, tf.maximum(work.nonfinite_at, more.nonfinite_at), work.version, more.position)


def _gathered(work: Work, more: Work) -> Work:
    """Both together, in Python."""
    sums = Sums(*(one + other for one, other in zip(work.sums, more.sums)))
    position = more.position if more.sums.steps else work.position
    return Work(sums, max(work.nonfinite_at, more.nonfinite_at), work.version, position)


def _next_batch(batches: Iterator[Batch]) -> tuple[Batch, tf.Tensor]:
    """The next batch and the seconds that the graph waited for it."""
    started = tf.timestamp()
    with tf.control_dependencies([started]):
        batch = next(batches)
    with tf.control_dependencies([batch.position]):
        return batch, tf.timestamp() - started
