"""Lines as token ids."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from tfnmt.batch import END_ID
from tfnmt.data.vocabulary import Vocabulary

NO_TOKENS = np.zeros([0], np.int32)


def split_rows(ids: tf.RaggedTensor) -> list[np.ndarray]:
    """The rows of `ids` [B, None]."""
    return np.split(ids.flat_values.numpy(), np.cumsum(ids.row_lengths())[:-1])


class SourceText:
    """Tokenizes lines to translate: within a limit of length, and empty lines to nothing."""

    def __init__(self, vocabulary: Vocabulary, longest: int):
        """Cuts lines with `vocabulary` into at most `longest` tokens."""
        self.vocabulary = vocabulary
        self.longest = longest

    def tokenize(self, lines: Sequence[str]) -> list[np.ndarray]:
        """The ids of each line, int32, END_ID included; none for a line without text."""
        if not lines:
            return []
        sentences = split_rows(self.vocabulary.tokenize(tf.constant(list(lines))))
        self._warn_of_long(sentences)
        return [self._cut(sentence) if line.strip() else NO_TOKENS for line, sentence in zip(lines, sentences)]

    def _cut(self, sentence: np.ndarray) -> np.ndarray:
        """The sentence within the limit; nothing when it has no token but END_ID."""
        if len(sentence) <= self.longest:
            return sentence if len(sentence) > 1 else NO_TOKENS
        return np.append(sentence[: self.longest - 1], np.int32(END_ID))

    def _warn_of_long(self, sentences: Sequence[np.ndarray]) -> None:
        lengths = [len(sentence) for sentence in sentences if len(sentence) > self.longest]
        if lengths:
            logging.warning(
                "%d of %d sentences cut to %d tokens (--longest_source_tokens); the longest has %d.",
                *(len(lengths), len(sentences), self.longest, max(lengths)),
            )
