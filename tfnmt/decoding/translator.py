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
from tfnmt.decoding.batching import cut_batches, pad
from tfnmt.decoding.beam_search import beam_search
from tfnmt.decoding.ensemble import Ensemble
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.decoding.source_text import SourceText
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
    """Translates lines with one or several sets of parameters.

    Its graph is traced once for each number of parameter vectors: neither new parameters nor other lengths trace again.

    Attributes:
      settings: the search and its batches.
      source_vocabulary: cuts the lines.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        layout: Layout | Sequence[Layout],
        source_vocabulary: Vocabulary,
        target_vocabulary: Vocabulary,
        settings: DecodingSettings,
    ):
        """Prepares the graphs.

        Args:
          model: the model of every parameter vector, or a model for each.
          layout: the layout of every parameter vector, or a layout for each.
          source_vocabulary: cuts the lines.
          target_vocabulary: joins the translations' pieces.
          settings: the search and its batches.

        Raises:
          UserError: the settings are impossible.
        """
        refuse(faults_of(settings))
        self.settings = settings
        self._models = [model] if isinstance(model, Model) else list(model)
        self._layouts = [layout] if isinstance(layout, Layout) else list(layout)
        self.source_vocabulary = source_vocabulary
        self._source = SourceText(source_vocabulary, settings.longest_source_tokens)
        self._target_vocabulary = target_vocabulary
        self._graphs: dict[tuple[int, bool], Any] = {}

    def translate(
        self,
        vectors: Sequence[tf.Tensor],
        lines: Sequence[str],
        *,
        with_attention: bool = False,
        report: Report | None = None,
    ) -> list[list[Hypothesis]]:
        """The best translations of each line, best first, in the order of `lines`; an empty line's is empty.

        Args:
          vectors: parameter vectors; several are an ensemble.
          lines: sentences.
          with_attention: whether hypotheses carry their attention.
          report: is told about progress.

        Raises:
          UserError: the parameters give no usable probabilities.
        """
        vectors = [tf.convert_to_tensor(vector) for vector in vectors]
        sentences = self._source.tokenize(lines)
        results = [[NOTHING] for _ in lines]
        search = self.graph(len(vectors), with_attention)

        def translate_batch(places: Sequence[int]) -> list[list[Hypothesis]]:
            found = search(vectors, pad([sentences[place] for place in places]))
            return list(self._hypotheses(found, [len(sentences[place]) for place in places], with_attention))

        # One batch has many small operations that use one core each: batches side by side keep all of them busy.
        side_by_side = self.settings.concurrent_batches or max(2, runtime.streams())
        executor = concurrent.futures.ThreadPoolExecutor(side_by_side)
        try:
            batches = self._batches(sentences)
            for places, translated in zip(batches, executor.map(translate_batch, batches)):
                for place, hypotheses in zip(places, translated):
                    results[place] = hypotheses
                if report is not None:
                    report(len(places), sum(len(hypotheses[0].tokens) for hypotheses in translated))
        finally:
            executor.shutdown(cancel_futures=True)
        return results

    def _batches(self, sentences: Sequence[np.ndarray]) -> list[list[int]]:
        """The places of the sentences in each batch; sentences without tokens are in none."""
        places = [place for place, ids in enumerate(sentences) if len(ids)]
        lengths = [len(sentences[place]) for place in places]
        most = (self.settings.decoding_batch_sentences, self.settings.decoding_batch_positions)
        return [[places[index] for index in batch] for batch in cut_batches(lengths, *most)]

    def graph(self, members: int, with_attention: bool = False) -> Any:
        """The graph function (vectors, source_ids [B, S]) -> (texts, ids, scores, attention), traced once.

        Of `members` parameter vectors; all that it returns begins with the dimensions [B, N].
        """
        key = (members, with_attention)
        if key not in self._graphs:
            models = self._models * members if len(self._models) == 1 else self._models
            layouts = self._layouts * members if len(self._layouts) == 1 else self._layouts
            if len(models) != members:
                raise ValueError(f"{members} parameter vectors for {len(models)} models.")
            vectors = [tf.TensorSpec([layout.size], tf.float32) for layout in layouts]
            search = functools.partial(self._search, models, layouts, with_attention)
            signature = [vectors, tf.TensorSpec([None, None], tf.int32)]
            self._graphs[key] = tf.function(search, input_signature=signature, autograph=False)
        return self._graphs[key]

    def _search(
        self,
        models: Sequence[Model],
        layouts: Sequence[Layout],
        with_attention: bool,
        vectors: Sequence[tf.Tensor],
        source_ids: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        pieces = tf.constant(self._target_vocabulary.texts()) if self.settings.nbest > 1 else None
        members = zip(models, layouts, vectors)
        views = [model.cast(layout.unpack(vector)) for model, layout, vector in members]
        options = (source_ids, self.settings, with_attention, pieces)
        if len(models) == 1:
            found = beam_search(models[0], views[0], *options)
        else:
            found = beam_search(Ensemble(models), views, *options)
        sentences, results, length = tf.unstack(tf.shape(found.ids))
        texts = self._target_vocabulary.detokenize(tf.reshape(found.ids, [sentences * results, length]))
        return (tf.reshape(texts, [sentences, results]), found.ids, found.scores, found.attention)

    def _hypotheses(self, found: Sequence[tf.Tensor], source_lengths: Sequence[int], with_attention: bool):
        """The hypotheses of each sentence of a batch, best first."""
        texts, ids, scores, attention = (tensor.numpy() for tensor in found)
        if not np.isfinite(scores[:, 0]).all():
            raise UserError(
                "The parameters of this checkpoint give no usable probabilities (not a number, or infinite): "
                "training has diverged. Choose an earlier one with --checkpoint."
            )
        for row, source_length in enumerate(source_lengths):
            yield [
                self._hypothesis(
                    texts[row, place],
                    ids[row, place],
                    scores[row, place],
                    attention[row, place, :, :source_length] if with_attention else None,
                )
                for place in np.flatnonzero(np.isfinite(scores[row]))
            ]

    def _hypothesis(self, text: bytes, ids: np.ndarray, score: float, attention: np.ndarray | None) -> Hypothesis:
        tokens = tuple(ids[ids != PAD_ID].tolist())
        log_probability = float(score) * ((5 + len(tokens)) / 6) ** self.settings.length_penalty
        rows = None if attention is None else attention[: len(tokens)]
        return Hypothesis(text.decode("utf-8", "replace"), float(score), log_probability, tokens, rows)
