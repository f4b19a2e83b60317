"""Text in, text out: tokenization, batches, search and detokenization around a model."""

import concurrent.futures
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfnmt import runtime
from tfnmt.batch import PAD_ID
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.decoding.batching import batches_of, pad
from tfnmt.decoding.beam_search import beam_search
from tfnmt.decoding.ensemble import Ensemble
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.decoding.source_text import tokenize_sources
from tfnmt.errors import UserError, refuse
from tfnmt.layout import Layout
from tfnmt.models.base import Model
from tfnmt.settings import faults_of

Report = Callable[[int, int], None]
"""Called with the sentences and the target tokens of each batch that is done."""


class Hypothesis(NamedTuple):
    """One translation of a sentence."""

    text: str
    score: float  # log-probability / length penalty: what hypotheses of a sentence are compared by
    log_probability: float  # of all tokens, END_ID included; nats
    tokens: tuple[int, ...]  # END_ID included
    attention: np.ndarray | None = None  # float32 [T, S]: a row for each token over the source's, when asked for


NOTHING = Hypothesis("", 0.0, 0.0, ())
"""The translation of an empty line."""


class Translator:
    """Translates lines with one or several sets of parameters; several are an ensemble.

    Its graph is traced once: neither new parameters nor other lengths trace again.
    """

    def __init__(
        self,
        models: Sequence[Model],
        layouts: Sequence[Layout],
        source_vocabulary: Vocabulary,
        target_vocabulary: Vocabulary,
        settings: DecodingSettings,
    ):
        """Translates by a model and a layout for each parameter vector.

        Raises:
          UserError: the settings are impossible.
        """
        refuse(faults_of(settings))
        self.settings = settings
        self._models, self._layouts = models, layouts
        self.source_vocabulary = source_vocabulary
        self._target_vocabulary = target_vocabulary
        self._graphs: dict[bool, Any] = {}

    def translate(
        self,
        vectors: Sequence[tf.Tensor],
        lines: Sequence[str],
        *,
        with_attention: bool = False,
        report: Report | None = None,
    ) -> list[list[Hypothesis]]:
        """The best translations of each line, best first, in the order of `lines`; an empty line's is empty.

        There is one parameter vector for each model. `report` is told of each batch that is done.

        Raises:
          UserError: the parameters give no usable probabilities.
        """
        vectors = [tf.convert_to_tensor(vector) for vector in vectors]
        sentences = tokenize_sources(self.source_vocabulary, lines, self.settings.longest_source_tokens)
        results = [[NOTHING] for _ in lines]
        search = self.graph(with_attention)

        def translate_batch(numbers: Sequence[int]) -> list[list[Hypothesis]]:
            batch = [sentences[number] for number in numbers]
            return list(self._hypotheses(search(vectors, pad(batch)), list(map(len, batch)), with_attention))

        # One batch has many small operations that use one core each: batches side by side keep all of them busy.
        side_by_side = self.settings.concurrent_batches or max(2, runtime.streams())
        executor = concurrent.futures.ThreadPoolExecutor(side_by_side)
        try:
            most = (self.settings.decoding_batch_sentences, self.settings.decoding_batch_positions)
            batches = batches_of(sentences, *most)
            for numbers, translated in zip(batches, executor.map(translate_batch, batches)):
                for number, hypotheses in zip(numbers, translated):
                    results[number] = hypotheses
                if report is not None:
                    report(len(numbers), sum(len(hypotheses[0].tokens) for hypotheses in translated))
        finally:
            executor.shutdown(cancel_futures=True)
        return results

    def graph(self, with_attention: bool = False) -> Any:
        """The graph function (vectors, source_ids [B, S]) -> (texts, ids, scores, attention), traced once.

        All that it returns begins with the dimensions [B, N].
        """
        if with_attention not in self._graphs:
            vectors = [tf.TensorSpec([layout.size], tf.float32) for layout in self._layouts]
            search = functools.partial(self._search, with_attention)
            signature = [vectors, tf.TensorSpec([None, None], tf.int32)]
            self._graphs[with_attention] = tf.function(search, input_signature=signature, autograph=False)
        return self._graphs[with_attention]

    def _search(
        self, with_attention: bool, vectors: Sequence[tf.Tensor], source_ids: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        pieces = tf.constant(self._target_vocabulary.texts()) if self.settings.nbest > 1 else None
        members = zip(self._models, self._layouts, vectors, strict=True)
        views = [model.cast(layout.unpack(vector)) for model, layout, vector in members]
        options = (source_ids, self.settings, with_attention, pieces)
        if len(views) == 1:
            best = beam_search(self._models[0], views[0], *options)
        else:
            best = beam_search(Ensemble(self._models), views, *options)
        sentences, results, length = tf.unstack(tf.shape(best.ids))
        texts = self._target_vocabulary.detokenize(tf.reshape(best.ids, [sentences * results, length]))
        return (tf.reshape(texts, [sentences, results]), best.ids, best.scores, best.attention)

    def _hypotheses(self, results: Sequence[tf.Tensor], source_lengths: Sequence[int], with_attention: bool):
        """The hypotheses of each sentence of a batch, best first, from what the graph returns."""
        texts, ids, scores, attention = (tensor.numpy() for tensor in results)
        if not np.isfinite(scores[:, 0]).all():
            raise UserError(
                "The parameters of this checkpoint give no usable probabilities (not a number, or infinite): "
                "training has diverged. Choose an earlier one with --checkpoint."
            )
        for row, source_length in enumerate(source_lengths):
            yield [
                self._hypothesis(
                    texts[row, rank],
                    ids[row, rank],
                    scores[row, rank],
                    attention[row, rank, :, :source_length] if with_attention else None,
                )
                for rank in np.flatnonzero(np.isfinite(scores[row]))
            ]

    def _hypothesis(self, text: bytes, ids: np.ndarray, score: float, attention: np.ndarray | None) -> Hypothesis:
        tokens = tuple(ids[ids != PAD_ID].tolist())
        log_probability = float(score) * ((5 + len(tokens)) / 6) ** self.settings.length_penalty
        rows = None if attention is None else attention[: len(tokens)]
        return Hypothesis(text.decode("utf-8", "replace"), float(score), log_probability, tokens, rows)
