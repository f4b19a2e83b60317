"""The block: a worker's pulls, local steps and push, from behind one push to the next, as one graph.

The graph knows no strategy. An `Exchange` says what a pull, a step and a push do to the vectors that a worker holds;
`BlockGraph.run` calls its functions.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from graphs.actions import FETCH, FETCHED, MERGE, PUSH, WHOLE, Action, Block, Meeting, Steps, fetched
from graphs.broadcast import pull
from graphs.encodings import DENSE, Encoding, slot_encoding
from graphs.error_feedback import KNOWN, RESIDUAL, pull_change, pull_whole, send
from graphs.exchange import Exchange, Gradient, Vectors
from graphs.fragments import WHOLE_VECTOR, Fragment, Held
from graphs.local_steps import REPLICA, LocalUpdate, Replica, move_replica
from graphs.reduce_average import ServerVariables
from graphs.staleness import pulled_of
from graphs.table_rows import ID, pull_rows, push_rows, read, rows_of, write
from graphs.work import Sums, Work, add_sums, add_work, no_work, stacked, unstacked
from tfnmt.optimizers.optimizers import Optimizer

Outbox = Sequence[tf.Variable]
"""Where a worker puts its payload: a variable for each shard of each of its vectors, on the shard's server.

Behind them, for a row that compensates staleness, there is one for each shard of what the worker has pulled, and last,
where rows of a table travel, two for each shard: those of the payload, and for which the worker has asked. What it has
pulled and asked for is part of the outbox, because a worker may pull again while its last payload waits.
"""

Reduce = Callable[[Outbox, tf.Tensor], Any]
"""(outbox, weight of the payload in it) -> what is there once all workers' payloads are summed."""

LookAhead = Callable[[], tuple[tf.Tensor, tf.Tensor]]
"""Reads the batches of a block: the different rows [R] that they read, and the seconds that it waited for them."""


@dataclasses.dataclass(frozen=True)
class LocalTraining:
    """How workers move their replicas.

    Attributes:
      optimizer: the equation of a local update.
      learning_rate: (clock, target tokens, batches, plateau scale) -> rate of one step.
      last_step: steps of a worker after which it moves its replica no more; None for never.
      resets: whether each pull begins the optimizer's slots anew.
      averaged: names of the optimizer's slots that are pulled and pushed too, because the servers hold their means.
    """

    optimizer: Optimizer
    learning_rate: Callable[..., tf.Tensor]
    last_step: int | None
    resets: bool
    averaged: Sequence[str]


@dataclasses.dataclass(frozen=True)
class BlockGraph:
    """Everything that the blocks of all workers have in common.

    Attributes:
      server: from whose variables workers pull.
      encoding: how payloads travel to the servers.
      pull_encoding: how changes of the parameters travel to the workers.
      exchange: what pulls, steps and pushes do.
      local: how workers move their replicas; None where they do not.
      clip_norm: largest norm of a step's mean gradient; 0 for no clipping.
      fragments: parts of the vectors, one of which travels at a time.
      reduce: how the workers sum their payloads among themselves within the block, beside the steps behind the push;
        None where payloads are fetched from the outbox.
      most_seconds: seconds after which no further step of a block begins; 0 for no such limit.

    Where the servers have tables of which rows travel, a block is a pull, steps and a push.
    """

    server: ServerVariables
    encoding: Encoding
    pull_encoding: Encoding
    exchange: Exchange
    local: LocalTraining | None
    clip_norm: float
    fragments: int = 1
    reduce: Reduce | None = None
    most_seconds: float = 0.0

    def run(
        self,
        block: Block,
        replica: Replica,
        outbox: Outbox,
        step_gradient: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, Work]],
        step: tf.Tensor,
        clock: tf.Tensor,
        plateau_scale: tf.Tensor,
        earlier: Sums,
        fragment: tf.Tensor,
        most_steps: tf.Tensor | None = None,
        look_ahead: LookAhead | None = None,
    ) -> Work:
        """Does one block of one worker, or a part of one.

        Args:
          block: its actions.
          replica: the worker's variables, changed in place.
          outbox: the worker's variables on the servers, which take the payload.
          step_gradient: (parameters [size], steps before) -> the gradient sum [size] and the work of one step.
          step: steps of the worker before the block, an int64 scalar.
          clock: time of the schedule of local updates, a float64 scalar: versions of the servers or, where replicas are
            trained, steps of a worker. A pull sets it.
          plateau_scale: the plateau schedule's factor of the learning rate, a scalar.
          earlier: sums of the block's parts before this one.
          fragment: which the block pushes, an int32 scalar.
          most_steps: of any `Steps`, an int64 scalar; None for as many as they say.
          look_ahead: reads before a pull; None where everything travels.
        """
        work, began = no_work(clock), tf.timestamp()
        travelling: list[Any] = []  # while steps go on
        for number, action in enumerate(block):
            # The variables that actions change put them in order, but would not hold a pull back behind steps. The
            # first action waits for nothing: servers would wait for a word from the worker before they are read.
            with tf.control_dependencies([began] if number else []):
                if isinstance(action, Steps):
                    before = tf.cast(work.sums.steps, tf.int64)
                    numbers = (step + before, work.clock, plateau_scale)
                    more = self._steps(action, replica, step_gradient, *numbers, most_steps)
                    work, done = add_work(work, more._replace(version=work.version)), [more.position]
                elif action.kind == PUSH:
                    weight = self.exchange.weight(add_sums(earlier, work.sums))
                    part = self._fragment(action, fragment)
                    nonfinite_at, sent, done = self._push(part, replica, outbox, weight)
                    work = work._replace(nonfinite_at=tf.maximum(work.nonfinite_at, nonfinite_at))
                    travelling, done = (sent, done) if number < len(block) - 1 else ([], [*done, *sent])
                elif action.kind == MERGE:
                    part = self._fragment(action, fragment)
                    travelling, done = [], self._merge(part, replica, travelling)
                else:
                    part = self._fragment(action, fragment)
                    places: Sequence[tf.Tensor] = ()
                    if look_ahead is not None:
                        with tf.control_dependencies([began]):
                            rows, waited = look_ahead()
                        # A wait for the reader is none for the servers, to whom the worker has not spoken yet.
                        work, began = _waited(work, waited), began + waited
                        places, work = self._asking(rows, replica, work)
                    # Not before the worker knows what it asks for: while it reads, the version would grow old.
                    with tf.control_dependencies(places):
                        version, clock, done = self._pull(action.kind, part, replica, began, outbox, places)
                    work = work._replace(version=version, clock=self._clock(clock, work.sums))
                    travelling, done = (done, [began]) if action.kind == FETCH else ([], done)
            with tf.control_dependencies(done):
                ended = tf.timestamp()
            work, began = _timed(work, action, ended - began), ended
        if travelling:
            with tf.control_dependencies([began, *travelling]):
                work = _timed(work, Meeting(PUSH), tf.timestamp() - began)
        return work

    def _clock(self, servers: tf.Tensor, sums: Sums) -> tf.Tensor:
        """The clock of the servers, and the steps of this block, which they do not know yet."""
        return servers + (sums.steps if self.exchange.trains_replicas else 0.0)

    @property
    def _payload_vectors(self) -> int:
        return 1 + len(self.local.averaged if self.local else ())

    def _asking(self, rows: tf.Tensor, replica: Replica, work: Work) -> tuple[Sequence[tf.Tensor], Work]:
        """The places of the rows that each server is asked for; the worker holds their numbers until its push."""
        _, asked = replica.texts
        with tf.control_dependencies([write(asked, rows)]):
            places = [table.places(rows) for table in self.server.tables]
        return places, work._replace(rows=tf.stack([tf.size(of_server) for of_server in places]))

    def _pull(
        self,
        kind: str,
        fragment: Fragment,
        replica: Replica,
        began: tf.Tensor,
        outbox: Outbox,
        places: Sequence[tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Operation]]:
        """Pulls; the servers' version and the clock that goes with it, and the last operations.

        Both are read before the parameters. So while others push, the version is that of the parameters or an older
        one, and staleness is never too small.
        """
        version, steps = self.server.version.read_value(), self.server.steps.read_value()
        held = Held(replica.vectors, fragment)
        with tf.control_dependencies([version, steps]):
            servers = self._server_parameters(kind, fragment, replica, outbox, places)
        with tf.control_dependencies([began]):
            servers = tf.identity(servers)
        if kind == FETCH:
            changed: Vectors = {FETCHED: servers}
        elif kind == WHOLE:
            begun = dict.fromkeys((REPLICA, *self.exchange.keeps), servers)
            changed = {REPLICA: servers, **self.exchange.pull(begun, servers)}
        else:
            changed = self.exchange.pull(held, servers)
        done = replica.assign(held.whole(changed if self.pull_encoding is DENSE else {**changed, KNOWN: servers}))
        if self.local is not None:
            done += self._pull_slots(self.local, kind, fragment, replica)
        # The servers' schedule counts versions. Where replicas are trained it counts steps, the mean over all workers:
        # by their own steps, workers of unequal speed would have unequal rates.
        return version, steps if self.exchange.trains_replicas else tf.cast(version, tf.float64), done

    def _fragment(self, meeting: Meeting, pushed: tf.Tensor) -> Fragment:
        """What travels: for a worker that holds nothing, everything."""
        if meeting.kind == WHOLE or self.fragments == 1:
            return WHOLE_VECTOR
        return Fragment((pushed - meeting.back) % self.fragments, self.fragments)

    def _server_parameters(
        self, kind: str, fragment: Fragment, replica: Replica, outbox: Outbox, places: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """The fragment of the server parameters or, where changes are encoded, of what the worker knows of them now.

        Where rows travel, there are zeros in those at other places. The outbox's variables for what is pulled, if there
        are any, take the same, but all rows.
        """
        shards, tables = self.server.shards, self.server.tables
        pulled = pulled_of(outbox, self._payload_vectors, len(shards), len(tables))
        if tables:
            asked = rows_of(outbox, len(tables)).asked
            return pull_rows(self.server.table_servers(), places, asked, pulled)
        if self.pull_encoding is DENSE:
            return pull_whole(shards, pulled) if pulled else pull([shard.parameters for shard in shards], fragment)
        if kind == WHOLE:
            servers = pull_whole(shards, replica.copies)
        else:
            known = fragment.take(replica.vectors[KNOWN].read_value())
            servers = pull_change(self.pull_encoding, shards, replica.copies, known, fragment)
        for copy, variable in zip(replica.copies, pulled):
            with tf.device(variable.device):
                variable.assign(copy.read_value())
        return servers

    def _merge(self, fragment: Fragment, replica: Replica, came: Sequence[Any]) -> list[Any]:
        """Does with what was fetched what a pull would have done at once; the last operations."""
        held = Held(replica.vectors, fragment)
        with tf.control_dependencies(came):
            done = replica.assign(held.whole(self.exchange.pull(held, held[FETCHED])))
            for name in self.local.averaged if self.local else ():
                slot = fragment.put(replica.slots[name], held[fetched(name)])
                done.append(replica.slots[name].assign(slot, read_value=False))
        return done

    def _pull_slots(self, local: LocalTraining, kind: str, fragment: Fragment, replica: Replica) -> list[Any]:
        if local.resets:
            for name, first in local.optimizer.slots.items():
                replica.slots[name].assign((first or 0.0) * tf.ones_like(replica.slots[name]))
            replica.updates.assign(0)
        done = []
        for name in local.averaged:
            variable = replica.vectors[fetched(name)] if kind == FETCH else replica.slots[name]
            slot = fragment.put(variable, self._mean_slot(name, kind, fragment))
            done.append(variable.assign(slot, read_value=False))
            if fragment.of == 1 and kind != FETCH:  # or the slots are of several ages: a worker goes by its own steps
                replica.updates.assign(self.server.local_updates)
        return done

    def _mean_slot(self, name: str, kind: str, fragment: Fragment) -> tf.Tensor:
        """What the servers hold of a slot's fragment."""
        slots = [shard.local_slots[name] for shard in self.server.shards]
        if kind == WHOLE or self.pull_encoding is DENSE:
            return pull(slots, fragment)
        encoding, one, dtype = slot_encoding(self.pull_encoding), tf.ones([], tf.float64), slots[0].dtype

        def give(slot: tf.Variable) -> tf.Tensor:
            with tf.device(slot.device):
                return encoding.encode(slot.read_value(), one)

        pieces = [encoding.decode(each, one, slots[0].shape[0], dtype) for each in fragment.on_each_server(give, slots)]
        return tf.concat(pieces, axis=0)

    def _push(
        self, fragment: Fragment, replica: Replica, outbox: Outbox, weight: tf.Tensor
    ) -> tuple[tf.Tensor, list[Any], list[Any]]:
        """Pushes; the first element that is known not to be finite, or -1; what sends the payload, and what makes it.

        Steps behind the push may begin once the payload is made: they change what it is made of.
        """
        held = Held(replica.vectors, fragment)
        payload, changed = self.exchange.push(held)
        payload, place = tf.convert_to_tensor(payload), tf.constant(-1, tf.int64)
        slots = [
            fragment.take(replica.slots[name].read_value()) for name in (self.local.averaged if self.local else ())
        ]
        encoding = slot_encoding(self.encoding)
        of_slots = [encoding.encode(part, weight) for slot in slots for part in self._split(slot)]
        if self.encoding.keeps_rest:
            found = send(self.encoding, self._split, payload, tf.convert_to_tensor(held[RESIDUAL]), weight)
            parts, changed, place = found.parts, {**changed, RESIDUAL: found.residual}, found.nonfinite_at
            if fragment.of > 1:
                first = tf.cast(fragment.place(0, replica.parameters.shape[0]), place.dtype)
                place = tf.where(place < 0, place, first + place)
        else:
            parts = [self.encoding.encode(part, weight) for part in self._split(payload)]
        sent: list[Any] = []
        if servers := self.server.table_servers():
            _, asked = replica.texts
            parts, sent = push_rows(servers, parts, read(asked, ID, [None]), rows_of(outbox, len(servers)))
        parts = [*parts, *of_slots]
        sent += [variable.assign(part, read_value=False) for variable, part in zip(outbox, parts)]
        if self.reduce is not None:
            with tf.control_dependencies(sent):
                sent = [self.reduce(outbox, weight)]
        return place, sent, [*parts, *replica.assign(held.whole(changed))]

    def _split(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """The parts of what travels for the servers."""
        shards = len(self.server.shards) // self.fragments
        return tf.split(vector, shards) if shards > 1 else [vector]

    def _steps(self, steps: Steps, replica, step_gradient, step, clock, plateau_scale, most_steps) -> Work:
        """`steps.count` steps, or `most_steps`; with a limit of time, at least one and as many as begin within it."""
        if steps.count == 1:
            return self._step(replica, step_gradient, step, clock, plateau_scale, steps.first)
        if steps.first:  # clears what was gathered: a first step before the loop would be a second copy of the model
            nothing = Gradient(tf.zeros_like(replica.parameters), tf.ones([], replica.parameters.dtype), 0.0)
            replica.assign(self.exchange.gather(replica.vectors, nothing, first=True))
        started = tf.timestamp()

        def more(done: tf.Tensor, work: Work, now: tf.Tensor) -> tf.Tensor:
            wanted = done < steps.count
            if most_steps is not None:
                wanted &= tf.cast(done, tf.int64) < most_steps
            if self.most_seconds:
                wanted &= (now - started < self.most_seconds) | (done == 0)
            return wanted

        def one_more(done: tf.Tensor, work: Work, now: tf.Tensor) -> tuple[tf.Tensor, Work, tf.Tensor]:
            number = step + tf.cast(done, tf.int64)
            with tf.control_dependencies([now]):  # or the reader would be asked for a batch during the step before
                more = self._step(replica, step_gradient, number, work.clock, plateau_scale, False)
            work = add_work(unstacked(work), more)
            with tf.control_dependencies([work.position]):
                return work.sums.steps, stacked(work), tf.timestamp()

        start = no_work(clock)
        return unstacked(tf.while_loop(more, one_more, (start.sums.steps, stacked(start), started))[1])

    def _step(self, replica, step_gradient, step, clock, plateau_scale, first: bool) -> Work:
        """One local step: the exchange gathers its gradient, the local optimizer moves the replica by it, or both."""
        gradient_sum, work = step_gradient(replica.parameters.read_value(), step)
        work = work._replace(clock=clock + 1 if self.exchange.trains_replicas else clock)
        tokens = tf.cast(work.sums.target_tokens, gradient_sum.dtype)
        gradient = Gradient(gradient_sum, tokens, self.clip_norm)
        done = replica.assign(self.exchange.gather(replica.vectors, gradient, first))
        if self.local is None:
            # Not behind the sum itself: where a loop has added it up, the position comes from that loop as well, and
            # TensorFlow removes the dependency as superfluous. Then it takes the loop apart, and it is not.
            return _behind(done, work)
        rate = self.local.learning_rate(clock, tokens, work.sums.batches, plateau_scale)
        update = LocalUpdate(self.local.optimizer, rate, self.clip_norm, self.local.last_step)
        moved, refused, nonfinite_at = move_replica(update, replica, gradient_sum, tokens, step)
        return _behind([*done, moved], work._replace(sums=_refused_if(refused, work.sums), nonfinite_at=nonfinite_at))


def _timed(work: Work, action: Action, seconds: tf.Tensor) -> Work:
    """The work behind an action that has taken so long."""
    sums = work.sums
    if isinstance(action, Steps):
        return work._replace(sums=sums._replace(step_seconds=sums.step_seconds + seconds))
    if action.kind == PUSH:
        return work._replace(sums=sums._replace(push_seconds=sums.push_seconds + seconds))
    return work._replace(sums=sums._replace(pull_seconds=sums.pull_seconds + seconds))


def _waited(work: Work, seconds: tf.Tensor) -> Work:
    """The work behind a wait for the reader before a pull; it belongs to the steps, as any other does."""
    waited, steps = work.sums.data_wait_seconds + seconds, work.sums.step_seconds + seconds
    return work._replace(sums=work.sums._replace(data_wait_seconds=waited, step_seconds=steps))


def _behind(done: Sequence[tf.Tensor], work: Work) -> Work:
    """The same work, whose position is there once all of `done` is: the reader has it as soon as it has the batch."""
    with tf.control_dependencies(done):
        return work._replace(position=tf.identity(work.position))


def _refused_if(refused: tf.Tensor, sums: Sums) -> Sums:
    """The sums of a step; for a refused one, zeros but for the step itself and the seconds that it waited for data."""
    counted = Sums(*tf.unstack(tf.where(refused, tf.zeros([], tf.float64), tf.stack(sums))))
    kept = {"steps": sums.steps, "data_wait_seconds": sums.data_wait_seconds}
    return counted._replace(refused=tf.cast(refused, tf.float64), **kept)
