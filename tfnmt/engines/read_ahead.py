"""Batches that a worker reads before it pulls, where it asks the servers for the rows that these batches read."""

from collections.abc import Iterator

import tensorflow as tf

from graphs.block import LookAhead
from graphs.table_rows import ID
from tfnmt.batch import Batch, token_count

_TYPES = Batch(tf.int32, tf.int32, tf.int64)
_SHAPES = Batch([None, None], [None, None], [3])


def new_variables() -> tuple[tf.Variable, tf.Variable]:
    """Variables on the device of the caller for the batches that are read ahead, and for the rows that they read."""
    packed = tf.Variable(
        tf.zeros([0, len(_TYPES)], tf.string), shape=[None, len(_TYPES)], trainable=False, name="ahead"
    )
    return packed, tf.Variable(tf.zeros([0], ID), shape=[None], trainable=False, name="asked")


def reading_ahead(batches: Iterator[Batch], ahead: tf.Variable, steps: int, step_tokens: int) -> LookAhead:
    """What reads the batches of so many steps into the variable.

    Args:
      batches: the worker's reader.
      ahead: see `new_variables`; `UsedInTurn` takes the batches out of it.
      steps: of a block.
      step_tokens: the target tokens that a step has at least; 0 for one batch.
    """

    def look_ahead() -> tuple[tf.Tensor, tf.Tensor]:
        def more_needed(done: tf.Tensor, *_) -> tf.Tensor:
            return done < steps

        def one_more(done, tokens, waited, number, packed, rows):
            with tf.control_dependencies([waited]):  # the reader is asked for one batch at a time
                batch, seconds = next_batch(batches)
            tokens += token_count(batch.target_ids)
            ends = tokens >= step_tokens
            packed = packed.write(number, tf.stack([tf.io.serialize_tensor(part) for part in batch]))
            rows = rows.write(number, tf.reshape(batch.source_ids, [-1]))
            done, tokens = done + tf.cast(ends, tf.int32), tf.where(ends, 0, tokens)
            return done, tokens, waited + seconds, number + 1, packed, rows

        packed = tf.TensorArray(tf.string, 0, dynamic_size=True, element_shape=[len(_TYPES)])
        rows = tf.TensorArray(ID, 0, dynamic_size=True, infer_shape=False, element_shape=[None])
        start = (tf.constant(0), tf.constant(0), tf.constant(0.0, tf.float64), tf.constant(0), packed, rows)
        *_, waited, _, packed, rows = tf.while_loop(more_needed, one_more, start, parallel_iterations=1)
        with tf.control_dependencies([ahead.assign(packed.stack(), read_value=False)]):
            return tf.unique(rows.concat()).y, tf.identity(waited)

    return look_ahead


class UsedInTurn:
    """The batches in a variable, in the order in which they were read, each of them once."""

    def __init__(self, ahead: tf.Variable):
        """Takes them out of the variable."""
        self._ahead = ahead

    def __iter__(self) -> "UsedInTurn":
        return self

    def __next__(self) -> Batch:
        packed = self._ahead.read_value()
        parts = [tf.io.parse_tensor(packed[0, number], dtype) for number, dtype in enumerate(_TYPES)]
        batch = Batch(*(tf.ensure_shape(part, shape) for part, shape in zip(parts, _SHAPES)))
        # Whoever reads the next one waits for this position, and then the variable has no more of this batch.
        with tf.control_dependencies([self._ahead.assign(packed[1:], read_value=False)]):
            return batch._replace(position=tf.identity(batch.position))


def next_batch(batches: Iterator[Batch]) -> tuple[Batch, tf.Tensor]:
    """The next batch and the seconds that the graph waited for it."""
    started = tf.timestamp()
    with tf.control_dependencies([started]):
        batch = next(batches)
    with tf.control_dependencies([batch.position]):
        ended = tf.timestamp()
    # On a single thread the clock would be read whenever that has time: behind the model, for all that anybody knows.
    with tf.control_dependencies([ended]):
        return Batch(*map(tf.identity, batch)), ended - started
