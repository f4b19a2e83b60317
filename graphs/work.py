"""The counters of local steps: the graph sums them, and hands them to the engine as one vector."""

from collections.abc import Iterable
from typing import NamedTuple

import tensorflow as tf


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
    refused: tf.Tensor | float  # steps whose local update was left out: its gradient was not finite
    batches: tf.Tensor | float = 0.0  # a step reads several to have its share of --global_batch_tokens
    squares: tf.Tensor | float = 0.0  # squared norms of the gradient sums that are added up, for the noise scale
    squared_tokens: tf.Tensor | float = 0.0  # the same of their target tokens; 0 where nothing was measured
    step_seconds: tf.Tensor | float = 0.0  # in steps, `data_wait_seconds` included
    pull_seconds: tf.Tensor | float = 0.0  # until what was pulled is there
    push_seconds: tf.Tensor | float = 0.0  # until the payload is where it is pushed


NO_SUMS = Sums(*[0.0] * len(Sums._fields))


class Work(NamedTuple):
    """The counters of some local steps, and where the worker is behind them."""

    sums: Sums
    nonfinite_at: tf.Tensor | int  # first bad element of a refused local update or a pushed vector, -1 for none known
    version: tf.Tensor | int  # of the servers at the last pull, -1 without one
    clock: tf.Tensor | float  # time of the schedule of local updates, behind these steps
    position: tf.Tensor | tuple[int, ...]  # int64 [3], of the last batch that was read
    rows: tf.Tensor | tuple[int, ...] = ()  # [servers], that each was asked for; empty where everything travels


def no_work(clock: tf.Tensor | float = 0.0) -> Work:
    """The work of no step at all, in the graph."""
    return Work(
        Sums(*tf.unstack(tf.zeros([len(Sums._fields)], tf.float64))),
        tf.constant(-1, tf.int64),
        tf.constant(-1, tf.int64),
        tf.convert_to_tensor(clock, tf.float64),
        tf.constant([-1] * 3, tf.int64),
    )


def add_work(work: Work, more: Work) -> Work:
    """The work of both, as tensors in a graph; clock, version and position come from `more`, the later work."""
    nonfinite_at = tf.maximum(work.nonfinite_at, more.nonfinite_at)
    return more._replace(sums=add_sums(work.sums, more.sums), nonfinite_at=nonfinite_at, rows=work.rows)


def add_sums(sums: Sums, more: Sums) -> Sums:
    """The sums of both, as tensors in a graph: one addition of two vectors, and not one for each number."""
    return Sums(*tf.unstack(tf.stack(sums) + tf.stack(more)))


def stacked(work: Work) -> Work:
    """The same for a loop to carry: the sums are one vector, because each number would be a variable of the loop.

    A number that the loop's condition reads must be a variable beside it: TensorFlow 2.21's optimizer of loops breaks
    down where a condition unpacks a vector.
    """
    return work._replace(sums=tf.stack(work.sums))


def unstacked(work: Work) -> Work:
    """The work that `stacked` has made ready for a loop."""
    return work._replace(sums=Sums(*tf.unstack(work.sums)))


def gathered_work(work: Work, more: Work) -> Work:
    """The work of both, as Python numbers; clock and version come from `more`, the position from the last step."""
    return more._replace(
        sums=Sums(*(one + other for one, other in zip(work.sums, more.sums))),
        nonfinite_at=max(work.nonfinite_at, more.nonfinite_at),
        position=more.position if more.sums.steps else work.position,
        rows=more.rows or work.rows,
    )


def pack_scalars(scalars: Iterable[tf.Tensor]) -> tf.Tensor:
    """One float64 vector: one transfer, when the device is elsewhere."""
    return tf.stack([tf.cast(scalar, tf.float64) for scalar in scalars])


def pack_work(work: Work) -> tf.Tensor:
    """The work as one float64 vector, which `unpack_work` reads."""
    rows = tf.unstack(work.rows) if tf.is_tensor(work.rows) else work.rows
    return pack_scalars([*work.sums, work.nonfinite_at, work.version, work.clock, *tf.unstack(work.position), *rows])


def unpack_work(packed: tf.Tensor) -> Work:
    """The work that `pack_work` has packed, as Python numbers."""
    numbers = packed.numpy().tolist()
    count = len(Sums._fields)
    nonfinite_at, version, clock, *others = numbers[count:]
    position, rows = tuple(map(int, others[:3])), tuple(map(int, others[3:]))
    return Work(Sums(*numbers[:count]), int(nonfinite_at), int(version), clock, position, rows)
