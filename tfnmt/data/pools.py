"""From lines to sorted token ids that are ready to be cut into batches."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from tfnmt.batch import Batch
from tfnmt.data import batching, filters
from tfnmt.data.settings import DataSettings
from tfnmt.data.vocabulary import Vocabulary


class Pool(NamedTuple):
    """Pairs sorted by length, and where they are cut into batches."""

    address: tf.Tensor  # int64 [2]: epoch and pool
    source_ids: tf.RaggedTensor  # int32 [B, None]
    target_ids: tf.RaggedTensor  # int32 [B, None]
    borders: tf.Tensor  # int32 [batches + 1]
    verdicts: tf.Tensor  # int32 [lines]: what became of each pair; see `filters.VERDICTS`

    @property
    def batches(self) -> tf.Tensor:
        """Number of batches; int64 scalar."""
        return tf.size(self.borders, tf.int64) - 1

    def batch(self, number: tf.Tensor, turn: tf.Tensor) -> Batch:
        """Batch `number` by length, which is the `turn`-th that the pool gives."""
        start, end = self.borders[number], self.borders[number + 1]
        position = tf.concat([self.address, [turn]], axis=0)
        return Batch(self.source_ids[start:end].to_tensor(), self.target_ids[start:end].to_tensor(), position)


@dataclasses.dataclass(frozen=True)
class PoolBuilder:
    """Tokenizes lines, leaves out what training cannot use, and sorts the rest by length."""

    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    settings: DataSettings

    def every_pair(self, address: tf.Tensor, source_lines: tf.Tensor, target_lines: tf.Tensor) -> Pool:
        """A pool of all the lines [B], as validation needs it."""
        source_ids = self.source_vocabulary.tokenize(source_lines)
        target_ids = self.target_vocabulary.tokenize(target_lines)
        return self._pool(address, source_ids, target_ids, tf.zeros([source_ids.nrows()], tf.int32))

    def for_training(
        self, address: tf.Tensor, source_lines: tf.Tensor, target_lines: tf.Tensor, seed: tf.Tensor
    ) -> Pool:
        """A pool of those of the lines [B] that pass the filters, in an order that `seed` [2] varies slightly."""
        sampling = self.settings.subword_nbest, self.settings.subword_alpha
        source_ids = self.source_vocabulary.tokenize(source_lines, *sampling)
        target_ids = self.target_vocabulary.tokenize(target_lines, *sampling)
        verdicts = filters.verdicts(_lengths(source_ids), _lengths(target_ids), self.settings)
        return self._pool(address, source_ids, target_ids, verdicts, seed)

    def _pool(
        self,
        address: tf.Tensor,
        source_ids: tf.RaggedTensor,
        target_ids: tf.RaggedTensor,
        verdicts: tf.Tensor,
        seed: tf.Tensor | None = None,
    ) -> Pool:
        kept = tf.squeeze(tf.where(verdicts == filters.KEPT), axis=1)
        order = batching.length_order(
            tf.gather(_lengths(source_ids), kept), tf.gather(_lengths(target_ids), kept), seed
        )
        rows = tf.gather(kept, order)
        source_ids, target_ids = tf.gather(source_ids, rows), tf.gather(target_ids, rows)
        borders = batching.cut(
            _lengths(source_ids), _lengths(target_ids), self.settings.source_budget, self.settings.batch_positions
        )
        return Pool(address, source_ids, target_ids, borders, verdicts)


def _lengths(ids: tf.RaggedTensor) -> tf.Tensor:
    return tf.cast(ids.row_lengths(), tf.int32)
