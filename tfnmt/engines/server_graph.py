"""The servers' part of one row as graph functions: payloads in, updates out, everything that is held."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from graphs.block import Outbox
from graphs.broadcast import pull
from graphs.encodings import Encoding
from graphs.local_gradient import OwnGradient, unsent
from graphs.reduce_average import ServerVariables, Update, receive, update_from, update_from_received
from graphs.staleness import compensation
from graphs.table_rows import RowsOutbox
from graphs.work import pack_scalars
from tfnmt.engines.learning_rates import LearningRates
from tfnmt.strategies import Strategy


class Arrived(NamedTuple):
    """A payload that is on the servers, or a sum of payloads; float64 scalars but for the variables."""

    payload: Outbox
    weight: tf.Tensor  # with which it was encoded, and which divides it
    share: tf.Tensor  # of the payload and of its weight that counts
    pulled: Outbox = ()  # what the worker had pulled for it, where the row compensates staleness
    strength: tf.Tensor | float = 0.0  # of the compensation
    rows: RowsOutbox | None = None  # where of a table no more than rows have come


class Numbers(NamedTuple):
    """What an update needs to know of its payloads, scalars; the first three have the parameters' type."""

    share: tf.Tensor  # of the learning rate
    target_tokens: tf.Tensor  # of the gradient that the update averages
    plateau_scale: tf.Tensor
    batches: tf.Tensor  # of that gradient
    average_weight: tf.Tensor  # of the newest parameters in the moving average
    local_updates: tf.Tensor  # for each payload, the mean
    steps: tf.Tensor  # of each worker, the mean


class ServerGraph:
    """The functions of one row and one fragment, which are traced when they are first called.

    Attributes:
      receive: (encoding, arrived) -> what `graphs.reduce_average.receive` returns, in one vector.
      update_from: (encoding, arrived, numbers, square=None, own=None) -> an update in one vector, which `update_of`
        reads; `own` is of the worker whose replica alone moves.
      update_from_received: (numbers) -> the same.
    """

    def __init__(self, server: ServerVariables, strategy: Strategy, rates: LearningRates, clip_norm: float):
        """Takes the fragment's variables, the row, its learning rates, and the largest norm of a mean gradient."""
        self._server, self._rates, self._encoding = server, rates, strategy.encoding
        self._clip_norm = clip_norm if strategy.exchange.clips_at_servers else 0.0
        is_damped, is_weighted = strategy.staleness.exponent > 0, strategy.payload_weight is not None
        self._has_shares = is_damped or is_weighted
        # A damped payload is divided by its damped weight, which leaves its length: what it loses, the rate loses.
        # Servers that move by deltas read no rate.
        self._shortens = is_damped and strategy.exchange.trains_replicas
        self.receive: Any = tf.function(self._receiving, autograph=False)
        # A partial, so that TensorFlow does not take those of several replicas for one that is traced too often.
        self.update_from: Any = tf.function(functools.partial(self._updating_from), autograph=False)
        self.update_from_received: Any = tf.function(self._updating_from_received, autograph=False)

    def _receiving(self, encoding: Encoding, arrived: Arrived) -> tf.Tensor:
        share, correct = arrived.share if self._has_shares else None, self._correct(arrived)
        taken = receive(
            self._server, arrived.payload, arrived.weight, encoding, share=share, correct=correct, rows=arrived.rows
        )
        return pack_scalars(taken)

    def _updating_from(
        self,
        encoding: Encoding,
        arrived: Arrived,
        numbers: Numbers,
        square: tf.Tensor | None = None,
        own: OwnGradient | None = None,
    ) -> tf.Tensor:
        done = update_from(
            self._server,
            arrived.payload,
            arrived.weight,
            self._rate(numbers),
            self._clip_norm,
            numbers.average_weight,
            numbers.local_updates,
            numbers.steps,
            encoding=encoding,
            square=square,
            share=arrived.share if self._shortens else None,
            correct=self._correct(arrived),
            unsent=() if own is None else unsent(own, self._encoding, len(self._server.shards)),
            rows=arrived.rows,
        )
        return pack_scalars(done)

    def _updating_from_received(self, numbers: Numbers) -> tf.Tensor:
        others = (numbers.average_weight, numbers.local_updates, numbers.steps)
        return pack_scalars(update_from_received(self._server, self._rate(numbers), self._clip_norm, *others))

    def _correct(self, arrived: Arrived):
        return compensation(self._server.shards, arrived.pulled, arrived.weight, arrived.strength)

    def _rate(self, numbers: Numbers) -> Callable[[tf.Tensor], tf.Tensor]:
        of_gradient = (numbers.target_tokens, numbers.batches, numbers.plateau_scale)
        return lambda version: numbers.share * self._rates.of_server(version, *of_gradient)


def reading(server: ServerVariables) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
    """Every vector [size] by name, and the ages of the averaged and of the own slots."""
    vectors = {name: pull(shards) for name, shards in server.vectors().items()}
    return vectors, server.local_updates.read_value(), server.updates.read_value()


def update_of(packed: tf.Tensor) -> Update:
    """The update that a function has packed, as Python numbers."""
    return Update(*numbers_of(packed))


def numbers_of(packed: tf.Tensor) -> list[float]:
    """A vector of scalars as Python numbers."""
    return packed.numpy().tolist()
