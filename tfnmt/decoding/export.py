"""A trained model as a SavedModel: one graph from text to text, which needs none of this project's code."""

from collections.abc import Sequence

import tensorflow as tf

from tfnmt.batch import END_ID, PAD_ID
from tfnmt.decoding.candidates import IMPOSSIBLE
from tfnmt.decoding.translator import Translator


class ExportedTranslator(tf.Module):
    """Translates a batch of sentences, as the `Translator` does whose search it has."""

    def __init__(self, translator: Translator, vectors: Sequence[tf.Tensor]):
        """Holds the parameter vectors; several are an ensemble."""
        super().__init__()
        self._parameters = [tf.Variable(vector, trainable=False) for vector in vectors]
        self._search, self._translator = translator.graph(), translator

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")], autograph=False)
    def translate(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """The best translations of each sentence, best first; those of an empty one are empty.

        Args:
          text: UTF-8 strings [B], which are translated as one batch.

        Returns:
          `translations`, UTF-8 strings [B, N], and `scores`, float32 [B, N]: log-probability over length penalty, and
          -infinity where a sentence has fewer than N translations.
        """
        ids = self._translator.source_vocabulary.tokenize(text)
        places = tf.where(ids.row_lengths() > 1)  # END_ID is always there
        results = self._translator.settings.nbest
        nothing = (
            tf.fill([tf.size(text), results], ""),
            tf.fill([tf.size(text), 1], 0.0) + tf.constant([0.0] + [IMPOSSIBLE] * (results - 1)),
        )

        def search() -> tuple[tf.Tensor, tf.Tensor]:
            source_ids = self._cut(tf.gather(ids, places[:, 0]))
            vectors = [variable.read_value() for variable in self._parameters]
            texts, _, scores, _ = self._search(vectors, source_ids)
            return tuple(
                tf.tensor_scatter_nd_update(empty, places, full) for empty, full in zip(nothing, (texts, scores))
            )

        translations, scores = tf.cond(tf.size(places) > 0, search, lambda: nothing)
        return {"translations": translations, "scores": scores}

    def _cut(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """int32 [B, S]: the sentences, the longest of them within the limit, filled up with PAD_ID."""
        longest = self._translator.settings.longest_source_tokens
        padded = ids.to_tensor(PAD_ID)[:, :longest]
        is_cut = (ids.row_lengths() > longest)[:, None] & (tf.range(tf.shape(padded)[1]) == longest - 1)
        return tf.where(is_cut, END_ID, padded)
