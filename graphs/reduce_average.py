"""The reduce-average subgraph: payloads to one server update, computed where the server's variables live.

Whoever calls these functions calls them one at a time: there is one sequence of payloads, and between two calls the
servers are whole.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfnmt.optimizers.optimizers import Optimizer


class Shard:
    """One server's part of every vector.

    Attributes:
      device: where it lives; None for wherever the caller is.
      parameters: variable [size / shards], what workers pull.
      slots: variables of the same shape by name, of the server update.
      average: exponential moving average of the evaluated parameters; None when there is none.
      received: sum of the payloads received since the last update; None when every payload is an update.
    """

    def __init__(self, initial: tf.Tensor, device: str | None, averaged: bool):
        self.device = device
        with tf.device(device):
            self.parameters = tf.Variable(initial, trainable=False, name="parameters")
            self.average = tf.Variable(initial, trainable=False, name="average") if averaged else None
        self.slots: dict[str, tf.Variable] = {}
        self.received: tf.Variable | None = None

    def begin(self, slots: Mapping[str, float | None], summed: bool) -> None:
        """Makes new slots, each with its first value; one without starts as the parameters."""
        with tf.device(self.device):
            start = self.parameters.read_value()
            self.slots = {
                name: tf.Variable(
                    start if first is None else tf.fill(start.shape, tf.cast(first, start.dtype)), name=name
                )
                for name, first in slots.items()
            }
            self.received = tf.Variable(tf.zeros_like(start), trainable=False, name="received") if summed else None

    def vectors(self) -> dict[str, tf.Variable]:
        """Its part of each vector by name."""
        optional = {"average": self.average, "received": self.received}
        present = {name: variable for name, variable in optional.items() if variable is not None}
        return {"parameters": self.parameters, **self.slots, **present}


class Server:
    """What the servers hold together: the shards, and how many updates they have applied.

    Attributes:
      shards: one on each server.
      update: how the parameters move.
      version: updates applied so far, int64, on the first server.
      weight: of the payloads received since the last update, float64, on the first server.
    """

    def __init__(self, initial: tf.Tensor, devices: Sequence[str | None], averaged: bool = False):
        """Spreads the vector `initial` [size] over the devices in equal parts."""
        pieces = tf.split(initial, len(devices))
        self.shards = [Shard(piece, device, averaged) for piece, device in zip(pieces, devices)]
        self.update: Optimizer | None = None
        with tf.device(devices[0]):
            self.version = tf.Variable(0, dtype=tf.int64, trainable=False, name="version")
            self.weight = tf.Variable(0, dtype=tf.float64, trainable=False, name="weight")

    def begin(self, update: Optimizer, quorum: int) -> None:
        """From now on the parameters move by `update`, once for each `quorum` payloads."""
        self.update = update
        self.weight.assign(0)
        for shard in self.shards:
            shard.begin(update.slots, quorum > 1)

    @property
    def evaluated(self) -> str:
        """The name of the vector that is evaluated and saved as the model."""
        if self.shards[0].average is not None:
            return "average"
        return self.update.evaluated if self.update else "parameters"

    def received(self) -> list[tf.Variable]:
        """The shards of what was received; a quorum of more than one payload has them."""
        return [shard.received for shard in self.shards if shard.received is not None]

    def vectors(self) -> dict[str, list[tf.Variable]]:
        """The shards of each vector by its name: what a checkpoint holds of the servers beside the numbers."""
        per_shard = [shard.vectors() for shard in self.shards]
        return {name: [vectors[name] for vectors in per_shard] for name in per_shard[0]}


class Update(NamedTuple):
    """What became of one server update."""

    applied: tf.Tensor  # bool scalar; False when the payloads were not finite
    norm: tf.Tensor  # scalar, of the mean gradient or delta before clipping
    learning_rate: tf.Tensor  # scalar
    nonfinite_at: tf.Tensor  # int64 scalar: first element that is not finite; -1 when all are
    momentum_norm: tf.Tensor  # scalar, of the update that the servers carry on; 0 where they carry none


def receive(server: Server, payload: Sequence[tf.Variable], weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds one payload to those that the servers have received, unless it is not finite.

    Args:
      server: whose shards take it.
      payload: variables, each on the device of its shard.
      weight: what it counts when the sum is divided, a float64 scalar.

    Returns:
      Whether it was taken, and its first element that is not finite, -1 when all are.
    """
    pieces = _read(server, payload)
    taken = tf.math.is_finite(_norm(server, pieces))

    def take() -> tf.Tensor:
        for variable, piece in zip(server.received(), pieces):
            with tf.device(variable.device):
                variable.assign_add(piece)
        server.weight.assign_add(weight)
        return tf.constant(-1, tf.int64)

    return taken, tf.cond(taken, take, lambda: _first_nonfinite(server, pieces))


def update_from_received(
    server: Server,
    learning_rate: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    clip_norm: float,
    average_weight: tf.Tensor | float,
) -> Update:
    """One server update of all the payloads received, of which none are left; see `update_from`."""
    received = server.received()
    update = _update(
        server, _read(server, received), server.weight.read_value(), learning_rate, clip_norm, average_weight
    )
    with tf.control_dependencies(update):
        for variable in received:
            with tf.device(variable.device):
                variable.assign(tf.zeros_like(variable))
        server.weight.assign(0)
    return update


def update_from(
    server: Server,
    payload: Sequence[tf.Variable],
    weight: tf.Tensor,
    learning_rate: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    clip_norm: float = 0.0,
    average_weight: tf.Tensor | float = 0.0,
) -> Update:
    """One server update of one payload: divides it by its weight, clips it, and moves the parameters.

    A payload that is not finite, or weighs nothing, moves nothing.

    Args:
      server: what is moved, in place.
      payload: variables, each on the device of its shard: a gradient sum or a delta.
      weight: the target tokens of the sum, or one for a delta; a float64 scalar.
      learning_rate: (version, weight) -> scalar.
      clip_norm: largest norm of the mean; 0 for no clipping.
      average_weight: of the newest parameters in the moving average, a scalar.
    """
    return _update(server, _read(server, payload), weight, learning_rate, clip_norm, average_weight)


def clip_factor(norm: tf.Tensor, clip_norm: float) -> tf.Tensor:
    """What a vector of this norm is multiplied by to be no longer than `clip_norm`; 0 is no limit."""
    return tf.minimum(clip_norm / norm, 1) if clip_norm else tf.ones_like(norm)


def first_nonfinite(vector: tf.Tensor) -> tf.Tensor:
    """The first element that is not finite, an int64 scalar; -1 when all are."""
    broken = tf.logical_not(tf.math.is_finite(vector))
    return tf.where(tf.reduce_any(broken), tf.argmax(broken, output_type=tf.int64), tf.constant(-1, tf.int64))


def _update(server, pieces, weight, learning_rate, clip_norm, average_weight) -> Update:
    assert server.update is not None
    version, weight = server.version.read_value(), tf.cast(weight, pieces[0].dtype)
    norm = _norm(server, pieces) / tf.maximum(weight, 1)
    rate = learning_rate(version, weight)
    applied = tf.math.is_finite(norm) & (weight > 0)

    def apply() -> tuple[tf.Tensor, tf.Tensor]:
        # One factor for the mean and the clipping: the vector is passed over once.
        factor = clip_factor(norm, clip_norm) / weight
        for shard, piece in zip(server.shards, pieces):
            with tf.device(shard.device):
                slots = {name: slot.handle for name, slot in shard.slots.items()}
                server.update.apply(shard.parameters.handle, slots, piece * factor, rate, version)
                _move_average(shard, server.update.evaluated, average_weight)
        server.version.assign_add(1)
        return tf.constant(-1, tf.int64), _momentum_norm(server, norm.dtype)

    def refuse() -> tuple[tf.Tensor, tf.Tensor]:
        return _first_nonfinite(server, pieces), tf.zeros_like(norm)

    return Update(applied, norm, rate, *tf.cond(applied, apply, refuse))


def _momentum_norm(server: Server, dtype: tf.DType) -> tf.Tensor:
    assert server.update is not None
    name = server.update.momentum
    return _norm(server, _read(server, [shard.slots[name] for shard in server.shards])) if name else tf.zeros([], dtype)


def _move_average(shard: Shard, evaluated: str, weight: tf.Tensor | float) -> None:
    """a ← a + d (θ - a)."""
    if shard.average is None:
        return
    newest = shard.slots.get(evaluated, shard.parameters)
    shard.average.assign_add(tf.cast(weight, newest.dtype) * (newest - shard.average))


def _read(server: Server, variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
    pieces = []
    for shard, variable in zip(server.shards, variables):
        with tf.device(shard.device):
            pieces.append(variable.read_value())
    return pieces


def _norm(server: Server, pieces: Sequence[tf.Tensor]) -> tf.Tensor:
    """The norm of a vector in pieces: each server sums its own squares."""
    halves = []
    for shard, piece in zip(server.shards, pieces):
        with tf.device(shard.device):
            halves.append(tf.nn.l2_loss(piece))
    with tf.device(server.shards[0].device):
        return tf.sqrt(2 * tf.add_n(halves))


def _first_nonfinite(server: Server, pieces: Sequence[tf.Tensor]) -> tf.Tensor:
    """The place in the whole vector; -1 when every element is finite."""
    first, start = tf.constant(-1, tf.int64), 0
    for shard, piece in zip(server.shards, pieces):
        with tf.device(shard.device):
            place = first_nonfinite(piece)
            first = tf.where((first < 0) & (place >= 0), start + place, first)
        start += piece.shape[0]
    return first
