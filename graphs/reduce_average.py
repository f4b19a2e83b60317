"""The reduce-average subgraph: payloads to one server update, computed where the server's variables live.

The caller runs these functions one at a time: there is one sequence of payloads, and no update runs beside another.
"""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from graphs.encodings import DENSE, Encoding, slot_encoding
from graphs.fragments import Fragment
from graphs.table_rows import RowsOutbox, TableRows, TableServer, whole_payload
from tfnmt.optimizers.optimizers import Optimizer


class ServerShard:
    """One server's part of every vector.

    Attributes:
      device: of its variables; None for the caller's.
      parameters: variable [size / shards], which workers pull.
      slots: variables of the same shape by name, of the server update.
      local_slots: variables of the same shape by name: the means of the workers' own slots, where they are averaged.
      average: exponential moving average of the evaluated parameters; None when there is none.
      received: sum of the payloads received since the last update, a variable for each of their vectors by name; none
        when every payload is an update.
    """

    def __init__(self, initial: tf.Tensor, device: str | None, averaged: bool):
        self.device = device
        with tf.device(device):
            self.parameters = tf.Variable(initial, trainable=False, name="parameters")
            self.average = tf.Variable(initial, trainable=False, name="average") if averaged else None
        self.slots: dict[str, tf.Variable] = {}
        self.local_slots: dict[str, tf.Variable] = {}
        self.received: dict[str, tf.Variable] = {}

    def begin(self, slots: Mapping[str, float | None], local_slots: Mapping[str, float | None], summed: bool) -> None:
        """Makes new vectors, each with its first value; a vector whose first value is None starts as the parameters."""
        self.slots, self.local_slots = self._new(slots), self._new(local_slots)
        parts = ("received", *(f"received_{name}" for name in local_slots))
        self.received = self._new(dict.fromkeys(parts, 0.0)) if summed else {}

    def vectors(self) -> dict[str, tf.Variable]:
        """The shard's part of each vector, by name."""
        local_slots = {f"local_{name}": variable for name, variable in self.local_slots.items()}
        average = {} if self.average is None else {"average": self.average}
        return {"parameters": self.parameters, **self.slots, **local_slots, **average, **self.received}

    def copy(self) -> tf.Variable:
        """A variable with the parameters, beside them."""
        return self._new({"copy": None})["copy"]

    def _new(self, vectors: Mapping[str, float | None]) -> dict[str, tf.Variable]:
        with tf.device(self.device):
            start = self.parameters.read_value()
            firsts = {
                name: start if first is None else tf.fill(start.shape, tf.cast(first, start.dtype))
                for name, first in vectors.items()
            }
            return {name: tf.Variable(first, trainable=False, name=name) for name, first in firsts.items()}


class ServerVariables:
    """What the servers hold together: the shards, and how many updates they have applied.

    Attributes:
      shards: one on each server or, with fragments, one for each of these on each server.
      update: the optimizer by which the parameters move.
      version: updates applied so far, int64, on the first server.
      updates: updates since the slots began, int64, on the first server.
      steps: local steps that each worker has done for the updates so far, the mean, float64, on the first server.
      weight: of the payloads received since the last update, float64, on the first server.
      local_updates: local updates since the workers' own slots began, the mean, where slots are averaged, float64, on
        the first server.
      copies: of each worker, what it knows of the parameters, a variable for each shard; empty where nobody asks.
      whole: the shards of all fragments, where these are the servers for one.
      tables: the rows of each shard that travel where they are asked for; empty where payloads are whole.
    """

    def __init__(
        self, initial: tf.Tensor, devices: Sequence[str | None], averaged: bool, tables: Sequence[TableRows] = ()
    ):
        """Spreads the vector `initial` [size] in equal parts, a shard for each of the devices; some may be the same."""
        self.tables = tables
        pieces = tf.split(initial, len(devices))
        self.shards = self.whole = [ServerShard(piece, device, averaged) for piece, device in zip(pieces, devices)]
        self.update: Optimizer | None = None
        self.copies: list[list[tf.Variable]] = []
        with tf.device(devices[0]):
            self.version = tf.Variable(0, dtype=tf.int64, trainable=False, name="version")
            self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
            self.steps = tf.Variable(0, dtype=tf.float64, trainable=False, name="steps")
            self.weight = tf.Variable(0, dtype=tf.float64, trainable=False, name="weight")
            self.local_updates = tf.Variable(0, dtype=tf.float64, trainable=False, name="local_updates")

    def begin(
        self,
        update: Optimizer,
        summed: bool,
        local_slots: Mapping[str, float | None] | None = None,
        copies: int = 0,
    ) -> None:
        """From now on the parameters move by `update`.

        Slots and their count stay where `update` continues the optimizer before (`goes_on`): behind a warm start, fresh
        moments would forget what it has learned.

        Args:
          update: the optimizer.
          summed: whether payloads may be received for a later update.
          local_slots: names and first values of the workers' own slots that follow the first vector of a payload.
          copies: workers of which the servers remember what they know.
        """
        kept = [shard.slots for shard in self.shards] if goes_on(self.update, update) else None
        self.update = update
        self.weight.assign(0)
        self.local_updates.assign(0)
        self.copies = [[shard.copy() for shard in self.shards] for _ in range(copies)]
        for shard in self.shards:
            shard.begin({} if kept else update.slots, local_slots or {}, summed)
        if kept is None:
            self.updates.assign(0)
        else:
            for shard, slots in zip(self.shards, kept):
                shard.slots = slots

    def of(self, fragment: Fragment) -> "ServerVariables":
        """The servers as a fragment sees them: its shards alone, beside what is counted for all."""
        seen = copy.copy(self)
        seen.shards = list(fragment.shards(self.shards))
        return seen

    def table_servers(self) -> list[TableServer]:
        """The servers as rows of a table see them; none where everything travels."""
        return [TableServer(shard.device, shard.parameters, table) for shard, table in zip(self.shards, self.tables)]

    @property
    def evaluated(self) -> str:
        """The name of the vector that is evaluated and saved as the model."""
        if self.shards[0].average is not None:
            return "average"
        return self.update.evaluated if self.update else "parameters"

    def received(self) -> list[tf.Variable]:
        """The variables that sum received payloads, in the order of a payload; none where payloads are not summed."""
        return [shard.received[name] for name in self.shards[0].received for shard in self.shards]

    def local_slots(self) -> list[tf.Variable]:
        """The means of the workers' own slots, in the order of a payload."""
        return [shard.local_slots[name] for name in self.shards[0].local_slots for shard in self.shards]

    def vectors(self) -> dict[str, list[tf.Variable]]:
        """The shards of each vector by its name; a checkpoint holds these and the counters."""
        per_shard = [shard.vectors() for shard in self.shards]
        return {name: [vectors[name] for vectors in per_shard] for name in per_shard[0]}


def goes_on(before: Optimizer | None, after: Optimizer | None) -> bool:
    """Whether an optimizer can go on with the slots of the one before: they are of one class with the same slots."""
    return before is not None and type(before) is type(after) and before.slots == after.slots


class Update(NamedTuple):
    """The outcome of one server update."""

    applied: tf.Tensor  # bool scalar; False when the payloads were not finite
    norm: tf.Tensor  # scalar, of the mean gradient or delta before clipping
    learning_rate: tf.Tensor  # scalar
    nonfinite_at: tf.Tensor  # int64 scalar: first element that is not finite; -1 when all are
    momentum_norm: tf.Tensor  # scalar, of the momentum that the servers carry from update to update; 0 for none


Correct = Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]]
"""The pieces of a payload as they arrived, each on its server -> as they count."""


def receive(
    server: ServerVariables,
    payload: Sequence[tf.Variable],
    weight: tf.Tensor,
    encoding: Encoding = DENSE,
    *,
    share: tf.Tensor | None = None,
    correct: Correct | None = None,
    rows: RowsOutbox | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adds one payload to those that the servers have received, unless it is not finite.

    Args:
      server: whose shards take it.
      payload: variables, each on the device of its shard, of one vector behind the other.
      weight: what the payload adds to the divisor of the sum, a float64 scalar; a payload of weight 0 is left out.
      encoding: how the payload has travelled.
      share: of the payload and of its weight that counts, a float64 scalar; None for all.
      correct: changes the payload; None for nothing.
      rows: what has come of tables of which rows travel; None where everything does.

    Returns:
      Whether it was taken; its first element that is not finite, -1 when all are; and its norm.
    """
    pieces = _decoded(server, payload, weight, encoding, correct, rows)
    norm = _norm(server, pieces)
    taken = tf.math.is_finite(norm)

    def take() -> tf.Tensor:
        for variable, piece in zip(server.received(), pieces):
            with tf.device(variable.device):
                variable.assign_add(piece if share is None else piece * tf.cast(share, piece.dtype))
        server.weight.assign_add(weight if share is None else weight * share)
        return tf.constant(-1, tf.int64)

    return taken, tf.cond(taken & (weight > 0), take, lambda: _first_nonfinite(server, pieces)), norm


def update_from_received(
    server: ServerVariables,
    learning_rate: Callable[[tf.Tensor], tf.Tensor],
    clip_norm: float,
    average_weight: tf.Tensor | float,
    local_updates: tf.Tensor | float,
    steps: tf.Tensor | float,
) -> Update:
    """One server update of the sum of all received payloads, which is zero behind it; see `update_from`."""
    received, weight = server.received(), server.weight.read_value()
    numbers = (clip_norm, average_weight, local_updates, steps)
    update = _update(server, _read(server, received), weight, learning_rate, *numbers)
    with tf.control_dependencies(update):
        forget_received(server)
    return update


def forget_received(server: ServerVariables) -> None:
    """Begins the sum of received payloads anew."""
    for variable in server.received():
        with tf.device(variable.device):
            variable.assign(tf.zeros_like(variable))
    server.weight.assign(0)


def update_from(
    server: ServerVariables,
    payload: Sequence[tf.Variable],
    weight: tf.Tensor,
    learning_rate: Callable[[tf.Tensor], tf.Tensor],
    clip_norm: float,
    average_weight: tf.Tensor | float,
    local_updates: tf.Tensor | float,
    steps: tf.Tensor | float,
    *,
    encoding: Encoding = DENSE,
    square: tf.Tensor | None = None,
    share: tf.Tensor | None = None,
    correct: Correct | None = None,
    unsent: Sequence[tf.Tensor] = (),
    rows: RowsOutbox | None = None,
) -> Update:
    """One server update of one payload: divides it by its weight, clips it, and moves the parameters.

    A payload that is not finite, or of weight 0, moves nothing. The sums of the workers' own slots behind its first
    vector are divided by the weight too, and become the means that the servers hold.

    Args:
      server: its variables are moved in place.
      payload: variables, each on the device of its shard: a gradient sum or a delta; behind it, sums of slots.
      weight: the target tokens of the sum, or one for a delta; a float64 scalar.
      learning_rate: version -> scalar.
      clip_norm: largest norm of the mean; 0 for no clipping.
      average_weight: weight of the newest parameters in the moving average, a scalar.
      local_updates: local updates of a worker for its payload, the mean over the payloads, a float64 scalar.
      steps: local steps of each worker for the payload, the mean over all workers, a float64 scalar.
      encoding: how the payload has travelled.
      square: squared norm of the whole payload, where these servers have a part of it; None where they have all.
      share: of the mean by which the servers move, a scalar; None for all.
      correct: changes the payload; None for nothing.
      unsent: what these servers alone add to the sum, in pieces; none where all servers move alike.
      rows: what has come of tables of which rows travel; None where everything does.
    """
    numbers = (clip_norm, average_weight, local_updates, steps)
    pieces = _decoded(server, payload, weight, encoding, correct, rows)
    return _update(server, pieces, weight, learning_rate, *numbers, square, share, unsent)


def clip_factor(norm: tf.Tensor, clip_norm: float) -> tf.Tensor:
    """The factor, one at most, that shortens a vector of this norm to `clip_norm`; 0 is no limit."""
    return tf.minimum(clip_norm / norm, 1) if clip_norm else tf.ones_like(norm)


def first_nonfinite(vector: tf.Tensor) -> tf.Tensor:
    """The index of the first element that is not finite, an int64 scalar; -1 when all are finite."""
    broken = tf.logical_not(tf.math.is_finite(vector))
    return tf.where(tf.reduce_any(broken), tf.argmax(broken), tf.constant(-1, tf.int64))


def _update(
    server,
    pieces,
    weight,
    learning_rate,
    clip_norm,
    average_weight,
    local_updates,
    steps,
    square=None,
    share=None,
    unsent=(),
) -> Update:
    assert server.update is not None
    own, slots_of_workers = pieces[: len(server.shards)], pieces[len(server.shards) :]
    divisor = tf.where(weight > 0, weight, tf.ones_like(weight))
    version = server.version.read_value()
    weight, divisor = (tf.cast(number, pieces[0].dtype) for number in (weight, divisor))
    norm = (_norm(server, own) if square is None else tf.cast(tf.sqrt(square), weight.dtype)) / divisor
    rate = learning_rate(version)
    applied = tf.math.is_finite(norm) & (weight > 0)
    if slots_of_workers:
        applied &= tf.math.is_finite(_norm(server, slots_of_workers))
    if unsent:  # not before: by the sum that all replicas know, they agree on whether they move
        own = [piece + rest for piece, rest in zip(own, unsent)]
        norm = _norm(server, own) / divisor

    def apply() -> tuple[tf.Tensor, tf.Tensor]:
        # One factor for the mean and the clipping: the vector is passed over once.
        factor = clip_factor(norm, clip_norm) / (1 if server.update.reads_sum else weight)
        factor = factor if share is None else factor * tf.cast(share, factor.dtype)
        updates = server.updates.read_value()
        for shard, piece in zip(server.shards, own):
            with tf.device(shard.device):
                slots = {name: slot.handle for name, slot in shard.slots.items()}
                server.update.apply(shard.parameters.handle, slots, piece * factor, rate, updates)
        for shard in server.whole:  # of all fragments: it counts time by updates, whatever these move
            with tf.device(shard.device):
                _move_average(shard, server.update.evaluated, average_weight)
        for mean, piece in zip(server.local_slots(), slots_of_workers):
            with tf.device(mean.device):
                mean.assign(piece / weight)
        if slots_of_workers:
            server.local_updates.assign_add(local_updates)
        # The version is counted last, which nothing else ensures: a worker that pulls meanwhile must not read a version
        # whose parameters are not there yet.
        with tf.control_dependencies(_read(server, [shard.parameters for shard in server.shards])):
            server.updates.assign_add(1)
            server.steps.assign_add(tf.cast(steps, tf.float64))
            server.version.assign_add(1)
        return tf.constant(-1, tf.int64), _momentum_norm(server, norm.dtype)

    def refuse() -> tuple[tf.Tensor, tf.Tensor]:
        return _first_nonfinite(server, pieces), tf.zeros_like(norm)

    return Update(applied, norm, rate, *tf.cond(applied, apply, refuse))


def _momentum_norm(server: ServerVariables, dtype: tf.DType) -> tf.Tensor:
    assert server.update is not None
    name = server.update.momentum
    return _norm(server, _read(server, [shard.slots[name] for shard in server.shards])) if name else tf.zeros([], dtype)


def _move_average(shard: ServerShard, evaluated: str, weight: tf.Tensor | float) -> None:
    """a ← a + d (θ - a)."""
    if shard.average is None:
        return
    newest = shard.slots.get(evaluated, shard.parameters)
    shard.average.assign_add(tf.cast(weight, newest.dtype) * (newest - shard.average))


def _decoded(
    server: ServerVariables,
    payload: Sequence[tf.Variable],
    weight,
    encoding: Encoding,
    correct: Correct | None,
    rows: RowsOutbox | None,
) -> Sequence[tf.Tensor]:
    """The pieces of a payload as they were before they travelled, and corrected, each on its server."""
    dtype, decoded = server.shards[0].parameters.dtype, []
    if rows is not None:
        decoded = whole_payload(server.table_servers(), payload, rows)
        return correct(decoded) if correct else decoded
    for number, (shard, piece) in enumerate(zip(itertools.cycle(server.shards), _read(server, payload))):
        of_vector = encoding if number < len(server.shards) else slot_encoding(encoding)
        with tf.device(shard.device):
            decoded.append(of_vector.decode(piece, weight, shard.parameters.shape[0], dtype))
    return correct(decoded) if correct else decoded


def _read(server: ServerVariables, variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
    pieces = []
    for shard, variable in zip(itertools.cycle(server.shards), variables):
        with tf.device(shard.device):
            pieces.append(variable.read_value())
    return pieces


def _norm(server: ServerVariables, pieces: Sequence[tf.Tensor]) -> tf.Tensor:
    """The norm of vectors in pieces: each server sums its own squares."""
    halves = []
    for shard, piece in zip(itertools.cycle(server.shards), pieces):
        with tf.device(shard.device):
            halves.append(tf.nn.l2_loss(piece))
    with tf.device(server.shards[0].device):
        return tf.sqrt(2 * tf.add_n(halves))


def _first_nonfinite(server: ServerVariables, pieces: Sequence[tf.Tensor]) -> tf.Tensor:
    """The index in the whole payload of the first element that is not finite; -1 when all are finite."""
    first, start = tf.constant(-1, tf.int64), 0
    for shard, piece in zip(itertools.cycle(server.shards), pieces):
        with tf.device(shard.device):
            place = first_nonfinite(piece)
            first = tf.where((first < 0) & (place >= 0), start + place, first)
        start += piece.shape[0]
    return first
