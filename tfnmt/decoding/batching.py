"""Which sentences are translated together."""

from collections.abc import Sequence

import numpy as np

from tfnmt.batch import PAD_ID


def cut_batches(lengths: Sequence[int], sentences: int, tokens: int) -> list[list[int]]:
    """The numbers of the sentences in each batch: of like length, the longest first, so that too little memory shows.

    A batch has at most so many `sentences` and so many positions of `tokens`, padding included; a longer sentence is a
    batch of its own. Sentences of equal lengths keep their order.
    """
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        fits = batches and len(batches[-1]) < min(sentences, tokens // lengths[batches[-1][0]])
        if fits:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def batches_of(sentences: Sequence[np.ndarray], most_sentences: int, most_positions: int) -> list[list[int]]:
    """`cut_batches` of the sentences that have tokens; the others are in no batch."""
    numbers = [number for number, ids in enumerate(sentences) if len(ids)]
    lengths = [len(sentences[number]) for number in numbers]
    return [[numbers[index] for index in batch] for batch in cut_batches(lengths, most_sentences, most_positions)]


def pad(sentences: Sequence[np.ndarray]) -> np.ndarray:
    """int32 [B, S]: the sentences, filled up with PAD_ID."""
    ids = np.full([len(sentences), max(map(len, sentences))], PAD_ID, np.int32)
    for row, sentence in zip(ids, sentences):
        row[: len(sentence)] = sentence
    return ids
