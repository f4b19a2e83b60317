"""The local engine: one process, one replica, the server beside it."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from graphs.broadcast import pull
from graphs.forward_backward import forward_backward
from graphs.reduce_average import Server, Update, server_update
from tfnmt.batch import Batch, token_count
from tfnmt.engines.report import BlockReport
from tfnmt.errors import UserError
from tfnmt.layout import Layout
from tfnmt.models.base import Model
from tfnmt.optimizers.optimizers import Optimizer
from tfnmt.optimizers.schedules import ScheduleSettings, learning_rate
from tfnmt.strategies import STRATEGIES, StrategySettings

MakeBatches = Callable[[tuple[int, ...] | None], tf.data.Dataset]
"""The position behind which to read, None for the beginning -> an endless dataset of `Batch`."""


class Totals(NamedTuple):
    """Sums over the batches of one update; float64 scalars, exact for every count that occurs."""

    loss: tf.Tensor
    cross_entropy: tf.Tensor
    target_tokens: tf.Tensor
    source_tokens: tf.Tensor
    positions: tf.Tensor
    sentences: tf.Tensor
    data_wait_seconds: tf.Tensor


class LocalEngine:
    """Runs a strategy of one worker. One update is one call of one graph, however many batches it takes."""

    name = "local"

    def __init__(
        self,
        model: Model,
        layout: Layout,
        optimizer: Optimizer,
        schedule: ScheduleSettings,
        settings: StrategySettings,
        make_batches: MakeBatches,
        dtype: tf.DType = tf.float32,
    ):
        """Builds the server and initialises its parameters from the seed.

        Raises:
          UserError: the strategy needs more than one worker.
        """
        if STRATEGIES[settings.strategy].workers != 1:
            runnable = ", ".join(name for name, row in STRATEGIES.items() if row.workers == 1)
            raise UserError(f"--strategy={settings.strategy}: --engine=local runs only {runnable}.")
        self._model, self._layout, self._optimizer = model, layout, optimizer
        self._schedule, self._settings, self._make_batches = schedule, settings, make_batches
        self._server = Server(layout.initialize(settings.seed, dtype), optimizer, averaged=settings.average_rate > 0)
        self._plateau_scale = tf.Variable(1, dtype=dtype, trainable=False, name="plateau_scale")
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self._position: tuple[int, ...] | None = None

    def blocks(self) -> Iterator[BlockReport]:
        """Trains for as long as the caller asks for the next report; one report for each server update."""
        batches = iter(self._make_batches(self._position))
        block = self._block.get_concrete_function(batches)
        while True:
            started = time.monotonic()
            update, totals, position = tf.nest.map_structure(lambda tensor: tensor.numpy(), block(batches))
            self._position = tuple(position.tolist())
            yield self._report(update, totals, int(position[0]), time.monotonic() - started)

    def snapshot(self) -> tf.Tensor:
        """The parameters [size] that are evaluated and saved: the moving average where there is one."""
        server = self._server
        return (server.parameters if server.average is None else server.average).read_value()

    def scale_learning_rate(self, factor: float) -> None:
        """Multiplies the rate of the plateau schedule."""
        self._plateau_scale.assign(self._plateau_scale * factor)

    def vectors(self) -> dict[str, np.ndarray]:
        """Every vector [size] that an exact resume needs, by name."""
        return {name: variable.numpy() for name, variable in self._server.vectors().items()}

    def counters(self) -> dict:
        """Everything else that an exact resume needs, ready for JSON."""
        return {
            "version": int(self._server.version.numpy()),
            "step": int(self._step.numpy()),
            "plateau_scale": float(self._plateau_scale.numpy()),
            "position": self._position,
        }

    def restore(self, vectors: Mapping[str, np.ndarray], counters: Mapping) -> None:
        """Takes up what `vectors` and `counters` returned; call it before `blocks`."""
        for name, variable in self._server.vectors().items():
            variable.assign(vectors[name])
        self._server.version.assign(counters["version"])
        self._step.assign(counters["step"])
        self._plateau_scale.assign(counters["plateau_scale"])
        self._position = counters["position"] and tuple(counters["position"])

    @tf.function
    def _block(self, batches: Iterator[Batch]) -> tuple[Update, Totals, tf.Tensor]:
        """Pull, step until the update has its tokens, push."""
        replica = pull(self._server.parameters)
        gradient_sum, totals, position = self._accumulate(replica, batches)
        update = server_update(
            self._server,
            self._optimizer,
            lambda version: learning_rate(self._schedule, version, self._plateau_scale),
            gradient_sum,
            tf.cast(totals.target_tokens, gradient_sum.dtype),
            self._settings.clip_norm,
            self._settings.average_rate,
        )
        return update, totals, position

    def _accumulate(self, replica: tf.Tensor, batches: Iterator[Batch]) -> tuple[tf.Tensor, Totals, tf.Tensor]:
        wanted = self._settings.global_batch_tokens
        if not wanted:
            return self._forward_backward(replica, batches)

        def step(gradient_sum, totals, _):
            more_gradient, more_totals, position = self._forward_backward(replica, batches)
            return gradient_sum + more_gradient, tf.nest.map_structure(tf.add, totals, more_totals), position

        nothing = Totals(*(tf.zeros([], tf.float64) for _ in Totals._fields))
        return tf.while_loop(
            lambda gradient_sum, totals, position: totals.target_tokens < wanted,
            step,
            (tf.zeros_like(replica), nothing, tf.zeros([3], tf.int64)),
        )

    def _forward_backward(self, replica: tf.Tensor, batches: Iterator[Batch]) -> tuple[tf.Tensor, Totals, tf.Tensor]:
        """One batch: its gradient sum [size], its sums and its position."""
        batch, waited = _next_batch(batches)
        step = self._step.assign_add(1, read_value=True)
        seed = tf.stack([tf.constant(self._settings.seed, tf.int32), tf.cast(step, tf.int32)])
        gradient_sum, sums = forward_backward(self._model.loss, self._layout, replica, batch, seed)
        totals = Totals(
            loss=sums.loss,
            cross_entropy=sums.cross_entropy,
            target_tokens=token_count(batch.target_ids),
            source_tokens=token_count(batch.source_ids),
            positions=tf.size(batch.source_ids) + tf.size(batch.target_ids),
            sentences=tf.shape(batch.target_ids)[0],
            data_wait_seconds=waited,
        )
        return gradient_sum, Totals(*(tf.cast(total, tf.float64) for total in totals)), batch.position

    def _report(self, update: Update, totals: Totals, epoch: int, seconds: float) -> BlockReport:
        counts = {
            name: int(getattr(totals, name)) for name in ("target_tokens", "source_tokens", "positions", "sentences")
        }
        return BlockReport(
            update=int(self._server.version.numpy()),
            epoch=epoch,
            loss=float(totals.loss),
            cross_entropy=float(totals.cross_entropy),
            gradient_norm=float(update.gradient_norm),
            learning_rate=float(update.learning_rate),
            seconds=seconds,
            data_wait_seconds=float(totals.data_wait_seconds),
            skipped=None if update.applied else self._why_skipped(int(update.nonfinite_at)),
            **counts,
        )

    def _why_skipped(self, element: int) -> str:
        what = "the gradient's norm" if element < 0 else f"the gradient of {self._layout.name_at(element)}"
        return f"{what} was not finite at step {int(self._step.numpy())}"


def _next_batch(batches: Iterator[Batch]) -> tuple[Batch, tf.Tensor]:
    """The next batch and the seconds that the graph waited for it."""
    started = tf.timestamp()
    with tf.control_dependencies([started]):
        batch = next(batches)
    with tf.control_dependencies([batch.position]):
        return batch, tf.timestamp() - started
