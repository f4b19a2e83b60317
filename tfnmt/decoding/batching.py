"""Which sentences are translated together."""

from collections.abc import Sequence

import numpy as np

from tfnmt.batch import PAD_ID


def cut_batches(lengths: Sequence[int], sentences: int, tokens: int) -> list[list[int]]:
    """Cuts sentences into batches of like length, the longest first, so that too little memory shows at once.

    Args:
      lengths: tokens of each sentence; equal ones keep their order.
      sentences: most sentences in a batch.
      tokens: most positions in a batch, padding included; a longer sentence is a batch of its own.

    Returns:
      The places of the sentences in each batch.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        fits = batches and len(batches[-1]) < min(sentences, tokens // lengths[batches[-1][0]])
        if fits:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def pad(sentences: Sequence[np.ndarray]) -> np.ndarray:
    """int32 [B, S]: the sentences, filled up with PAD_ID."""
    ids = np.full([len(sentences), max(map(len, sentences))], PAD_ID, np.int32)
    for row, sentence in zip(ids, sentences):
        row[: len(sentence)] = sentence
    return ids
