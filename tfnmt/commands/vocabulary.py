"""Makes the vocabulary of a corpus, joint or one for each language, and shows what it does to the text.

tfnmt-vocabulary --data=data/software.en-de --vocabulary=data/vocabulary --vocabulary_size=8000
"""

import itertools
import unicodedata
from collections.abc import Sequence

from tfnmt.commands import application
from tfnmt.data.corpus import find_corpus
from tfnmt.data.files import read_pairs
from tfnmt.data.settings import TextSettings
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.data.vocabulary_training import VocabularySettings, train_vocabularies
from tfnmt.errors import UserError

_MEASURED_PAIRS = 20_000
_SHOWN_PAIRS = 3


def main() -> None:
    """Runs the console script."""
    application.run(_main, TextSettings, VocabularySettings)


def _main(text: TextSettings, settings: VocabularySettings) -> None:
    directory = settings.vocabulary or text.data
    if not directory:
        raise UserError("--vocabulary is missing: name the directory to write the vocabulary to.")
    corpus = find_corpus(text)
    pairs = corpus.inspect()["train"]
    every = settings.every(pairs)
    part = f"one of every {every:,} of {pairs:,}" if every > 1 else f"{pairs:,}"
    print(f"Making a {settings.vocabulary_type} vocabulary from {part} sentence pairs.", flush=True)
    vocabularies = train_vocabularies(corpus.train, directory, settings, every=every)
    for name, side, vocabulary in zip(("source", "target"), range(2), vocabularies):
        lines = [pair[side] for pair in itertools.islice(read_pairs(*corpus.train), _MEASURED_PAIRS)]
        where = f"; in the first {_MEASURED_PAIRS:,} pairs, " if pairs > _MEASURED_PAIRS else "; "
        print(f"{name}: {vocabulary.size:,} pieces in {vocabulary.path}{where}{_measure(vocabulary, lines)}")
    for pair in itertools.islice(read_pairs(*corpus.train), _SHOWN_PAIRS):
        for line, vocabulary in zip(pair, vocabularies):
            print(f"  {' '.join(vocabulary.segment(line))}")


def _measure(vocabulary: Vocabulary, lines: Sequence[str]) -> str:
    """Pieces per word, and the share of characters that the vocabulary can write."""
    known = set(vocabulary.pieces())
    pieces = [piece for line in lines for piece in vocabulary.segment(line)]
    words = sum(len(line.split()) for line in lines)
    unknown = sum(len(piece.lstrip("▁")) for piece in pieces if piece not in known)
    characters = sum(len(unicodedata.normalize("NFKC", line).replace(" ", "")) for line in lines)
    coverage = 1 - unknown / max(characters, 1)
    return f"{len(pieces) / max(words, 1):.2f} pieces a word, {coverage:.4%} of the characters covered"


if __name__ == "__main__":
    main()
