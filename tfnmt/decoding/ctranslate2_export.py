"""Exports a Transformer for CTranslate2, and refuses to leave an export that translates otherwise.

Both ways translate the same text greedily. In float32 the translations must be equal, but for a share of the sentences
in which two tokens are so nearly alike that the order of a sum decides. A quantized export must cost little BLEU; it
is made only where its float32 is equal, so that a fault of the conversion cannot pass for a cost of quantization. So it
is with a shortlist.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from absl import logging

from tfnmt.decoding.ctranslate2_format import FLOAT32, package, positions_of, write
from tfnmt.decoding.ctranslate2_translator import CTranslate2Translator
from tfnmt.decoding.loading import Trained
from tfnmt.decoding.settings import DecodingSettings, SearchSettings
from tfnmt.decoding.shortlist import Shortlist
from tfnmt.decoding.translator import Hypothesis, Report
from tfnmt.errors import UserError
from tfnmt.evaluation import Scores, evaluate
from tfnmt.models.transformer import Transformer, TransformerSettings
from tfnmt.progress import Progress

LARGEST_DIFFERENT_SHARE = 0.002
"""Sentences whose greedy float32 translations may differ, over all."""


_LENGTHS = ("max_length_factor", "max_length_constant", "longest_source_tokens")


class DifferentError(UserError):
    """The export translates otherwise than the model; nothing is left of it."""

    exit_code = 1


class CheckText(NamedTuple):
    """The text that both ways translate."""

    names: tuple[str, ...]  # its files
    sources: Sequence[str]
    references: Sequence[str]
    target_language: str | None


class Check(NamedTuple):
    """What came of the translations of an export."""

    text: CheckText
    equal: int  # sentences that both translate alike
    scores: Scores  # of the run's model
    exported_scores: Scores
    arithmetic: str  # what the export was computed in

    def __str__(self) -> str:
        """One line for a log."""
        return (
            f"{self.equal:,} of {len(self.text.sources):,} sentences are translated alike; BLEU "
            f"{self.exported_scores.bleu:.2f}, of the run itself {self.scores.bleu:.2f} (greedy, {self.arithmetic})"
        )


def refuse_what_cannot_be_exported(trained: Trained) -> None:
    """Refuses models that CTranslate2 does not have, before anything is loaded or written.

    Raises:
      UserError: an ensemble or no Transformer is to be exported, or the package is missing.
    """
    if len(trained.models) > 1:
        raise UserError(
            f"--format=ctranslate2: takes one model, and {' and '.join(trained.names)} are several. Average "
            "checkpoints of one run with tfnmt-average, or export the ensemble with --format=savedmodel."
        )
    if not isinstance(trained.models[0], Transformer):
        raise UserError(
            f"--format=ctranslate2: {trained.names[0]} is no Transformer, and CTranslate2 runs nothing else. Export "
            "with --format=savedmodel."
        )
    package()


class CheckedExport:
    """Writes a Transformer into directories, and translates with what it has written."""

    def __init__(self, trained: Trained, search: SearchSettings, text: CheckText, threads: int | None):
        """Translates the text with the model itself.

        Args:
          trained: one Transformer.
          search: the lengths of sentences that the export will have to translate.
          text: what both ways translate.
          threads: cores to compute on; None for all.
        """
        lengths = {name: getattr(search, name) for name in _LENGTHS}
        self._greedy = DecodingSettings(beam_size=1, **lengths)
        self._trained, self._text, self._threads = _in_float32(trained), text, threads
        translator = self._trained.translator(self._greedy)
        self._expected = self._translate(
            lambda lines, report: translator.translate(self._trained.vectors, lines, report=report)
        )
        self._scores = self._evaluate(self._expected)

    def write(
        self, directory: Path, quantization: str, largest_bleu_loss: float, shortlist: Shortlist | None = None
    ) -> Check:
        """Writes it in a quantization and with a shortlist that cost at most so much BLEU.

        Args:
          directory: an empty one; what is in it behind an error is of no use.
          quantization: one of `ctranslate2_format.QUANTIZATIONS`.
          largest_bleu_loss: BLEU that the export may be worse by, where it is quantized or has a shortlist.
          shortlist: the target subwords that it may choose among; None for all.

        Raises:
          DifferentError: it translates otherwise.
        """
        check, found = self._write(directory, FLOAT32)
        if len(found) - check.equal > LARGEST_DIFFERENT_SHARE * len(found):
            raise DifferentError(f"{self._first_difference(found)} Nothing was exported: {check}.")
        if quantization == FLOAT32 and shortlist is None:
            return check
        logging.info("In float32 %s.", check)
        for path in directory.iterdir():
            path.unlink()
        check, found = self._write(directory, quantization, shortlist)
        if check.scores.bleu - check.exported_scores.bleu > largest_bleu_loss:
            raise DifferentError(
                f"{_flags(quantization, shortlist)} more BLEU than --largest_bleu_loss={largest_bleu_loss:g}: "
                f"{check}. Nothing was exported; take {_remedy(quantization, shortlist)}, or allow more. "
                f"{self._first_difference(found)}"
            )
        return check

    def _write(self, directory: Path, quantization: str, shortlist: Shortlist | None = None) -> tuple[Check, list[str]]:
        """The export's check and translations."""
        trained = self._trained
        vocabularies = (trained.source_vocabulary, trained.target_vocabulary)
        write(
            directory,
            cast(TransformerSettings, trained.models[0].settings),
            trained.layouts[0].unpack_array(trained.vectors[0]),
            vocabularies,
            positions_of(self._greedy),
            quantization,
        )
        decoding = self._greedy
        if shortlist is not None:
            shortlist.write(directory, vocabularies)
            # Sentences of one batch share their candidates: alone, a sentence has the fewest.
            decoding = dataclasses.replace(decoding, decoding_batch_sentences=1)
        exported = CTranslate2Translator(directory, decoding, self._threads)
        found = self._translate(exported.translate)
        equal = sum(map(str.__eq__, self._expected, found))
        return Check(self._text, equal, self._scores, self._evaluate(found), exported.arithmetic), found

    def _translate(self, translate: Callable[[Sequence[str], Report], list[list[Hypothesis]]]) -> list[str]:
        sources = self._text.sources
        with Progress("Translating", len(sources), "sentences") as progress:
            found = translate(sources, lambda sentences, _: progress.advance(sentences))
        return [best.text for best, *_ in found]

    def _evaluate(self, translations: Sequence[str]) -> Scores:
        return evaluate(translations, self._text.references, target_language=self._text.target_language)

    def _first_difference(self, found: Sequence[str]) -> str:
        """The first sentence that is translated otherwise, both ways."""
        pairs = enumerate(zip(self._expected, found))
        place, (ours, theirs) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
        return f"Sentence {place + 1}, {self._text.sources[place]!r}, becomes {ours!r} and, exported, {theirs!r}."


def _flags(quantization: str, shortlist: Shortlist | None) -> str:
    """Subject and verb of a sentence about what costs BLEU."""
    flags = [f"--quantization={quantization}"] if quantization != FLOAT32 else []
    flags += [f"--shortlist={shortlist.best}"] if shortlist else []
    return f"{' with '.join(flags)} costs"


def _remedy(quantization: str, shortlist: Shortlist | None) -> str:
    remedies = ["another quantization"] if quantization != FLOAT32 else []
    return " or ".join(remedies + (["a longer shortlist"] if shortlist else []))


def _in_float32(trained: Trained) -> Trained:
    """The same parameters in a model that computes in float32, as the export does that must equal it."""
    settings = dataclasses.replace(cast(TransformerSettings, trained.models[0].settings), precision=FLOAT32)
    model = Transformer(settings, trained.source_vocabulary.size, trained.target_vocabulary.size)
    return trained._replace(models=[model])
