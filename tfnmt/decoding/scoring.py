"""Forced scoring: how likely given translations are."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfnmt.batch import Batch
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.decoding.batching import cut_batches, pad
from tfnmt.decoding.ensemble import Ensemble
from tfnmt.decoding.source_text import split_rows
from tfnmt.decoding.translator import Report
from tfnmt.layout import Layout
from tfnmt.models.base import Model


class PairScore(NamedTuple):
    """How likely one translation is."""

    log_probability: float  # sum over the tokens, nats
    tokens: int  # END_ID included

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token."""
        return self.log_probability / self.tokens


class Scorer:
    """Scores pairs of lines with one or several sets of parameters (an ensemble)."""

    def __init__(
        self,
        models: Sequence[Model],
        layouts: Sequence[Layout],
        source_vocabulary: Vocabulary,
        target_vocabulary: Vocabulary,
        *,
        batch_sentences: int,
        batch_positions: int,
    ):
        """Scores by a model and a layout for each parameter vector.

        A batch has at most `batch_sentences` pairs, and at most `batch_positions` positions of the longer side, padding
        included.
        """
        self._models, self._layouts = models, layouts
        self._vocabularies = (source_vocabulary, target_vocabulary)
        self._batch_sentences, self._batch_positions = batch_sentences, batch_positions
        ids = tf.TensorSpec([None, None], tf.int32)
        vectors = [tf.TensorSpec([layout.size], tf.float32) for layout in layouts]
        self._graph = tf.function(self._log_probabilities, input_signature=[vectors, ids, ids], autograph=False)

    def score(
        self,
        vectors: Sequence[tf.Tensor],
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        report: Report | None = None,
    ) -> list[PairScore]:
        """The score of each pair, in order; nothing is cut, and empty lines count as sentences of END_ID alone."""
        vectors = [tf.convert_to_tensor(vector) for vector in vectors]
        source_ids, target_ids = (
            split_rows(vocabulary.tokenize(tf.constant(list(lines))))
            for vocabulary, lines in zip(self._vocabularies, (sources, targets))
        )
        lengths = [max(len(source), len(target)) for source, target in zip(source_ids, target_ids)]
        scores: dict[int, PairScore] = {}
        for numbers in cut_batches(lengths, self._batch_sentences, self._batch_positions):
            batch = [pad([side[number] for number in numbers]) for side in (source_ids, target_ids)]
            sums = self._graph(vectors, *batch).numpy()
            scores |= {number: PairScore(float(total), len(target_ids[number])) for number, total in zip(numbers, sums)}
            if report is not None:
                report(len(numbers), sum(len(target_ids[number]) for number in numbers))
        return [scores[number] for number in range(len(lengths))]

    def _log_probabilities(
        self, vectors: Sequence[tf.Tensor], source_ids: tf.Tensor, target_ids: tf.Tensor
    ) -> tf.Tensor:
        """Log-probability of each target, float32 [B]."""
        views = [layout.unpack(vector) for layout, vector in zip(self._layouts, vectors)]
        batch = Batch(source_ids, target_ids, tf.zeros([3], tf.int64))
        return tf.reduce_sum(Ensemble(self._models).log_probabilities(views, batch), axis=1)
