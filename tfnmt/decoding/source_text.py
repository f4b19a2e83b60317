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


def tokenize_sources(vocabulary: Vocabulary, lines: Sequence[str], longest: int) -> list[np.ndarray]:
    """The ids of each line to translate, int32, END_ID included, cut to the `longest`; none for a line without text."""
    if not lines:
        return []
    sentences = split_rows(vocabulary.tokenize(tf.constant(list(lines))))
    lengths = [len(sentence) for sentence in sentences if len(sentence) > longest]
    if lengths:
        logging.warning(
            "%d of %d sentences cut to %d tokens (--longest_source_tokens); the longest has %d.",
            *(len(lengths), len(sentences), longest, max(lengths)),
        )
    return [_cut(sentence, longest) if line.strip() else NO_TOKENS for line, sentence in zip(lines, sentences)]


def _cut(sentence: np.ndarray, longest: int) -> np.ndarray:
    """The sentence within the limit; nothing when it has no token but END_ID."""
    if len(sentence) <= longest:
        return sentence if len(sentence) > 1 else NO_TOKENS
    return np.append(sentence[: longest - 1], np.int32(END_ID))
