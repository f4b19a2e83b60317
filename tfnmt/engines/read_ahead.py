"""Batches that a worker reads before it pulls, where it asks the servers for the rows that these batches read."""

from collections.abc import Iterator

import tensorflow as tf

from graphs.block import LookAhead
from graphs.table_rows import ID, new_text, read, write
from tfnmt.batch import Batch, token_count

_PACKED = tf.int64
_SHAPES = 4  # numbers of the shapes of source and target, with which a batch begins in the text
_POSITION = 3  # numbers behind them


def new_texts() -> tuple[tf.Variable, tf.Variable]:
    """Texts on the device of the caller for the batches that are read ahead, and for the rows that they read."""
    return new_text(tf.zeros([0], _PACKED), "ahead"), new_text(tf.zeros([0], ID), "asked")


def reading_ahead(batches: Iterator[Batch], ahead: tf.Variable, steps: tf.Tensor, step_tokens: int) -> LookAhead:
    """What reads the batches of so many steps into a text.

    Args:
      batches: the worker's reader.
      ahead: see `new_texts`; `UsedInTurn` takes the batches out of it.
      steps: of a block, an int32 scalar.
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
            packed = packed.write(number, _packed(batch))
            rows = rows.write(number, tf.reshape(batch.source_ids, [-1]))
            done, tokens = done + tf.cast(ends, tf.int32), tf.where(ends, 0, tokens)
            return done, tokens, waited + seconds, number + 1, packed, rows

        packed, rows = (
            tf.TensorArray(dtype, 0, dynamic_size=True, infer_shape=False, element_shape=[None])
            for dtype in (_PACKED, ID)
        )
        start = (tf.constant(0), tf.constant(0), tf.constant(0.0, tf.float64), tf.constant(0), packed, rows)
        *_, waited, _, packed, rows = tf.while_loop(more_needed, one_more, start, parallel_iterations=1)
        with tf.control_dependencies([write(ahead, packed.concat())]):
            return tf.unique(rows.concat()).y, tf.identity(waited)

    return look_ahead


class UsedInTurn:
    """The batches in a text, in the order in which they were read, each of them once."""

    def __init__(self, ahead: tf.Variable):
        """Takes them out of the text."""
        self._ahead = ahead

    def __iter__(self) -> "UsedInTurn":
        return self

    def __next__(self) -> Batch:
        packed = read(self._ahead, _PACKED, [None])
        shapes, position, ids = tf.split(packed, [_SHAPES, _POSITION, -1])
        size = shapes[0] * shapes[1]
        behind = size + shapes[2] * shapes[3]
        source_ids, target_ids = tf.reshape(ids[:size], shapes[:2]), tf.reshape(ids[size:behind], shapes[2:])
        # Whoever reads the next one waits for this position, and then the text has no more of this batch.
        with tf.control_dependencies([write(self._ahead, ids[behind:])]):
            return Batch(tf.cast(source_ids, tf.int32), tf.cast(target_ids, tf.int32), tf.identity(position))


def _packed(batch: Batch) -> tf.Tensor:
    """The batch as one vector."""
    shapes = tf.concat([tf.shape(batch.source_ids), tf.shape(batch.target_ids)], axis=0)
    parts = (shapes, batch.position, tf.reshape(batch.source_ids, [-1]), tf.reshape(batch.target_ids, [-1]))
    return tf.concat([tf.cast(part, _PACKED) for part in parts], axis=0)


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
