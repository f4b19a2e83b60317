"""What one training step reads, and the token ids that every vocabulary shares."""

from typing import NamedTuple

import tensorflow as tf

PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID = 0, 1, 2, 3

START = (0, 0, -1)
"""The position before the first batch."""


class Batch(NamedTuple):
    """Sentence pairs of like length. Every sentence ends with END_ID and is filled up with PAD_ID."""

    source_ids: tf.Tensor  # int32 [B, S]
    target_ids: tf.Tensor  # int32 [B, T]
    position: tf.Tensor  # int64 [3]: epoch, pool and batch; the reader resumes behind it


def part_of(batch: Batch, number: int, parts: int) -> Batch:
    """Every `parts`-th sentence pair of a batch from `number` on; there may be none."""
    return batch._replace(source_ids=batch.source_ids[number::parts], target_ids=batch.target_ids[number::parts])


def is_token(ids: tf.Tensor) -> tf.Tensor:
    """True where `ids` holds a token rather than padding; the shape of `ids`."""
    return tf.not_equal(ids, PAD_ID)


def token_count(ids: tf.Tensor) -> tf.Tensor:
    """Number of tokens in `ids`, padding excluded; int32 scalar."""
    return tf.math.count_nonzero(ids, dtype=tf.int32)
