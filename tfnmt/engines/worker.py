"""One worker: the graph functions of its blocks, which all workers share; its own variables, reader and progress."""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from graphs.actions import FETCH, PULL, PUSH, WHOLE, Block, Meeting, Steps
from graphs.block import BlockGraph, LocalTraining, Outbox, Reduce
from graphs.encodings import DENSE
from graphs.error_feedback import KNOWN
from graphs.forward_backward import Pack, forward_backward
from graphs.local_steps import REPLICA, Replica
from graphs.reduce_average import ServerVariables
from graphs.work import (
    NO_SUMS,
    Sums,
    Work,
    add_work,
    gathered_work,
    no_work,
    pack_work,
    stacked,
    unpack_work,
    unstacked,
)
from tfnmt.batch import Batch, token_count
from tfnmt.engines.learning_rates import LearningRates
from tfnmt.engines.read_ahead import UsedInTurn, new_texts, next_batch, reading_ahead
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.streams import in_streams
from tfnmt.strategies import RESET, Strategy

WORKER_VECTOR = "worker_"
"""How the names of the vectors begin that a checkpoint holds of the workers."""


class WorkerGraph:
    """The graph of one strategy's blocks, which all workers share; what differs between them comes in as arguments.

    Attributes:
      strategy: the row.
      first_step: steps that each worker had done when the row began.
    """

    def __init__(
        self,
        recipe: Recipe,
        server: ServerVariables,
        strategy: Strategy,
        rates: LearningRates,
        workers: int,
        first_step: int,
        pack: Pack | None = None,
        reduce: Reduce | None = None,
    ):
        """Takes everything that the workers have in common; each has its share of `--global_batch_tokens`.

        Args:
          recipe: what is trained.
          server: where they pull from.
          strategy: the row.
          rates: of the local update.
          workers: how many.
          first_step: steps that each worker had done when the row began.
          pack: see `forward_backward`.
          reduce: see `BlockGraph`.
        """
        self.strategy, self._copies, self._sparse = strategy, server.copies, bool(server.tables)
        self._recipe, self._settings = recipe, recipe.settings
        self._loss, self._pack = in_streams(recipe.model.loss, recipe.streams), pack
        self._block = BlockGraph(
            server,
            strategy.encoding,
            strategy.pull_encoding,
            strategy.exchange,
            _local_training(strategy, rates, first_step),
            recipe.settings.clip_norm,
            strategy.fragments,
            reduce,
            strategy.meetings.most_seconds,
        )
        self.first_step = first_step
        self._functions: dict[Block, Any] = {}
        self._without_pulls: dict[Block, Any] = {}
        if recipe.functions is not None and not (pack or reduce or server.tables):
            phase = [each.strategy for each in recipe.phases].index(strategy)
            self._without_pulls = recipe.functions.setdefault((phase, first_step, workers), {})
        self._traced_gradient = tf.function(self._gradient_behind, autograph=False)
        self.read: Any = tf.function(self._reading, autograph=False)
        self._step_tokens = -(-recipe.settings.global_batch_tokens // workers)
        # Of a payload that is one gradient the servers know the norm.
        adds_up = self._step_tokens > 0 or strategy.meetings.steps_per_push > 1
        self._measures = adds_up and strategy.sums_gradients

    def pulling_from(self, server: ServerVariables) -> "WorkerGraph":
        """The same for a worker who pulls from other servers than the rest."""
        if server is self._block.server:
            return self
        other = copy.copy(self)
        other._block, other._functions = dataclasses.replace(self._block, server=server), {}
        return other

    def new_replica(self, number: int) -> Replica:
        """Fresh vectors and slots on the device of the caller; the first block of the worker fills them."""
        local, size, dtype = self.strategy.local_update, self._recipe.layout.size, self._recipe.dtype

        def filled(value: float, name: str) -> tf.Variable:
            return tf.Variable(tf.fill([size], tf.constant(value, dtype)), trainable=False, name=name)

        vectors = {name: filled(0.0, name) for name in (REPLICA, *self.strategy.keeps)}
        slots = {name: filled(first or 0.0, name) for name, first in (local.slots if local else {}).items()}
        updates = tf.Variable(0, dtype=tf.float64, trainable=False, name="updates")
        copies, texts = self._copies[number] if self._copies else (), new_texts() if self._sparse else ()
        return Replica(vectors, slots, updates, copies, texts)

    def function(self, block: Block) -> Any:
        """The graph function of one block; `unpack_work` reads what it returns.

        Its arguments: the worker's replica, outbox and reader; its number and the steps that it has done before, int64
        scalars; the clock of its local updates, a float64 scalar, which a pull sets; what the plateau schedule has
        come to, a scalar; the sums of the block's earlier parts, float64 [len(Sums)]; which fragment it pushes, an
        int32 scalar; and most steps, an int64 scalar, which is read where blocks vary.
        """
        functions = self._functions_like(block)
        if block not in functions:
            # A partial each: of many functions with one code, TensorFlow would warn that it traces one too often.
            functions[block] = tf.function(functools.partial(self._run, block), autograph=False)
        return functions[block]

    def _functions_like(self, block: Block) -> dict[Block, Any]:
        """Where the function of a block is kept: those that pull depend on the servers."""
        pulls = any(isinstance(action, Meeting) and action.kind != PUSH for action in block)
        return self._functions if pulls else self._without_pulls

    def _run(
        self, block, replica, outbox, batches, worker, step, clock, plateau_scale, earlier, fragment, most_steps
    ) -> tf.Tensor:
        gradient, limit = self._gradient, most_steps if self.strategy.meetings.blocks_vary else None
        if sum(isinstance(action, Steps) for action in block) > 1:
            gradient = self._traced_gradient  # the model once, and not for all steps of a block
        look_ahead = None
        if self._sparse:
            (ahead, _), steps = replica.texts, self.strategy.meetings.steps_per_push if limit is None else limit
            look_ahead = reading_ahead(batches, ahead, tf.cast(steps, tf.int32), self._step_tokens)
            batches = UsedInTurn(ahead)

        def step_gradient(parameters, step):
            return gradient(parameters, batches, worker, step)

        numbers = (step, clock, plateau_scale, Sums(*tf.unstack(earlier)), fragment, limit)
        return pack_work(self._block.run(block, replica, outbox, step_gradient, *numbers, look_ahead))

    def trace(self, outbox: Outbox, batches: Iterator[Batch]) -> None:
        """Traces the whole program once, wherever it is going to run: a trace belongs to the device of its caller."""
        whole, clock = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.float64)
        scalar, sums = tf.TensorSpec([], self._recipe.dtype), tf.TensorSpec([len(Sums._fields)], tf.float64)
        replica = self.new_replica(0)
        numbers = (whole, whole, clock, scalar, sums, tf.TensorSpec([], tf.int32), whole)
        first, *others = self.strategy.program()
        for block in {first, self.strategy.beginning(first), *others}:
            traced = self.function(block).get_concrete_function(replica, outbox, batches, *numbers)
            self._functions_like(block)[block] = traced
        self.read = self.read.get_concrete_function(replica)

    def kept(self, replica: Replica) -> dict[str, tf.Variable]:
        """What a worker holds that outlives a block: vectors, slots and, where there are such, the age of these."""
        vectors = {name: replica.vectors[name] for name in self.strategy.saved}
        slots = replica.slots if self.strategy.saves_slots else {}
        return {**vectors, **slots, **({"updates": replica.updates} if slots else {})}

    def _reading(self, replica: Replica) -> dict[str, tf.Tensor]:
        return {name: variable.read_value() for name, variable in self.kept(replica).items()}

    def _gradient_behind(self, parameters, batches, worker, step) -> tuple[tf.Tensor, Work]:
        """The same, for a function of its own: what its call waits for does not hold back the reader in it."""
        with tf.control_dependencies([step]):
            return self._gradient(parameters, batches, worker, step)

    def _gradient(self, parameters, batches, worker, step) -> tuple[tf.Tensor, Work]:
        """The gradient sum [size] of one step: one batch, or as many as hold the worker's share of the tokens."""
        seed = tf.cast(tf.stack([tf.constant(self._settings.seed, tf.int64), step]), tf.int32)
        seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(worker, tf.int32))
        if not self._step_tokens:
            return self._of_batch(parameters, batches, seed)

        def more_needed(tokens: tf.Tensor, *_) -> tf.Tensor:
            return tokens < self._step_tokens

        def one_more(tokens: tf.Tensor, gradient_sum: tf.Tensor, work: Work, number: tf.Tensor) -> tuple[Any, ...]:
            batch_seed = tf.random.experimental.stateless_fold_in(seed, number)
            with tf.control_dependencies([gradient_sum]):  # the reader is asked when nothing else is to be done
                more_gradient, more_work = self._of_batch(parameters, batches, batch_seed)
            work = add_work(unstacked(work), more_work)
            return work.sums.target_tokens, gradient_sum + more_gradient, stacked(work), number + 1

        nothing = no_work()
        start = (nothing.sums.target_tokens, tf.zeros_like(parameters), stacked(nothing), tf.constant(0))
        _, gradient_sum, work, _ = tf.while_loop(more_needed, one_more, start)
        work = unstacked(work)
        return gradient_sum, work._replace(sums=work.sums._replace(steps=tf.constant(1.0, tf.float64)))

    def _of_batch(self, parameters: tf.Tensor, batches: Iterator[Batch], seed: tf.Tensor) -> tuple[tf.Tensor, Work]:
        batch, waited = next_batch(batches)
        gradient_sum, sums = forward_backward(self._loss, self._recipe.layout, parameters, batch, seed, self._pack)
        zero, one = (tf.constant(number, tf.float64) for number in (0, 1))
        tokens, square = token_count(batch.target_ids), 2 * tf.nn.l2_loss(gradient_sum) if self._measures else zero
        counted = Sums(
            loss=sums.loss,
            cross_entropy=sums.cross_entropy,
            target_tokens=tokens,
            source_tokens=token_count(batch.source_ids),
            positions=tf.size(batch.source_ids) + tf.size(batch.target_ids),
            sentences=tf.shape(batch.target_ids)[0],
            data_wait_seconds=waited,
            steps=one,
            refused=zero,
            batches=one,
            squares=square,
            squared_tokens=tf.cast(tokens, tf.float64) ** 2 if self._measures else zero,
        )
        counted = Sums(*(tf.cast(number, tf.float64) for number in counted))
        return gradient_sum, no_work()._replace(sums=counted, position=batch.position)


class Push(NamedTuple):
    """One payload on its way to the servers, and what it is made of."""

    worker: int
    block: int  # the worker's pushes so far, this one included
    step: int  # the worker's steps so far
    version: int  # of the servers at the last pull
    pulls: int  # since the last push
    payload: Outbox
    work: Work  # numbers, summed since the last push
    whole_pulls: int = 0  # the same of those that are not encoded though the row's are, and of all fragments
    fragment: int = 0  # which travels
    gradient: tf.Variable | None = None  # that was encoded, where the worker's own replica moves by all of it


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
        clock: float,
    ):
        """A worker that has come as far as `progress`, at that clock; everything that it owns is given."""
        self.number, self.replica, self._graph = number, replica, graph
        self._block, self.step = progress.block, progress.step
        self.outbox, self._batches = outbox, batches
        self._program = itertools.cycle(graph.strategy.program())
        self._fragment = (progress.step - graph.first_step) // graph.strategy.meetings.steps_per_push
        self._fragment %= graph.strategy.fragments  # that the block pushes
        self._holds_nothing, self._has_pushed = True, False
        self._work: Work | None = None
        self._version = self._pulls = self._whole_pulls = 0
        self._clock = clock  # of the local updates

    def next_block(self) -> Block:
        """What the program says to do next."""
        block = next(self._program)
        if self._holds_nothing:
            block, self._holds_nothing = self._graph.strategy.beginning(block), False
        return block

    def run(
        self, block: Block, plateau_scale: float, most_steps: int | None = None, *, ends: bool = True
    ) -> tuple[Work, Push | None]:
        """Does one block, or a part of one, with which the block `ends`: what that came to, and its push if it has one.

        Where blocks vary it has `most_steps`, None for all. The steps that go on while a push travels belong to it: a
        worker that pushes has come as far as its block goes.
        """
        most_steps = most_steps or self._graph.strategy.meetings.steps_per_push
        # Made here, not where the caller's device is: to be sent to a worker that is silent, with Python's global lock.
        with tf.device(None):
            arguments = (
                tf.constant(self.number, tf.int64),
                tf.constant(self.step, tf.int64),
                tf.constant(self._clock, tf.float64),
                tf.constant(plateau_scale, self.replica.parameters.dtype),
                tf.constant(self._work.sums if self._work else NO_SUMS, tf.float64),
                tf.constant(self._fragment),
                tf.constant(most_steps, tf.int64),
            )
        packed = self._graph.function(block)(self.replica, self.outbox, self._batches, *arguments)
        work = unpack_work(packed)
        self.step += int(work.sums.steps)
        self._clock = work.clock
        if work.version >= 0:
            self._version = work.version
            if self._work and self._graph.strategy.exchange.trains_replicas:  # steps of the block's earlier parts
                self._clock += self._work.sums.steps
        meetings = [action for action in block if isinstance(action, Meeting)]
        self._pulls += sum(meeting.kind in (PULL, FETCH) for meeting in meetings)
        self._whole_pulls += sum(meeting.kind == WHOLE for meeting in meetings)
        self._has_pushed |= any(meeting.kind == PUSH for meeting in meetings)
        self._work = work if self._work is None else gathered_work(self._work, work)
        if not (self._has_pushed and ends):
            return work, None
        self._block, self._has_pushed = self._block + 1, False
        gathered, self._work = self._work, None
        pulls, whole_pulls, self._pulls, self._whole_pulls = self._pulls, self._whole_pulls, 0, 0
        fragment, self._fragment = self._fragment, (self._fragment + 1) % self._graph.strategy.fragments
        numbers = (self.number, self._block, self.step, self._version, pulls)
        strategy = self._graph.strategy
        whole = strategy.exchange.push(self.replica.vectors)[0] if strategy.local_gradient else None
        return work, Push(*numbers, self.outbox, gathered, whole_pulls, fragment, whole)

    def vectors(self) -> dict[str, np.ndarray]:
        """What the worker holds for a checkpoint, by name."""
        values = self._graph.read(self.replica) if self._graph.kept(self.replica) else {}
        return {worker_vector(self.number, name): value.numpy() for name, value in values.items()}

    def restore(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Takes up what `vectors` returned, as far as it is there.

        Slots that were saved without their age are taken to be as old as the worker.
        """
        kept = self._graph.kept(self.replica)
        saved = {worker_vector(self.number, name): variable for name, variable in kept.items()}
        found = {name: vectors[name] for name in saved if name in vectors}
        if found:
            self.replica.updates.assign(self.step)
        for name, value in found.items():
            saved[name].assign(value)
        holds = REPLICA if self._graph.strategy.pull_encoding is DENSE else KNOWN
        if worker_vector(self.number, holds) in found:
            self._holds_nothing = False


def worker_vector(worker: int, name: str) -> str:
    """The name of a worker's vector in a checkpoint."""
    return f"{WORKER_VECTOR}{worker}_{name}"


def _local_training(strategy: Strategy, rates: LearningRates, first_step: int) -> LocalTraining | None:
    if strategy.local_update is None:
        return None
    steps = strategy.local_update_steps
    last_step = None if steps is None else first_step + steps
    resets = strategy.local_slots == RESET
    return LocalTraining(strategy.local_update, rates.of_worker, last_step, resets, tuple(strategy.averaged_slots))
