"""Translation by a folder that tfnmt-export has made for CTranslate2."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfnmt import runtime
from tfnmt.batch import BEGIN_ID, END_ID, PAD_ID
from tfnmt.data.vocabulary import load_vocabularies
from tfnmt.decoding import shortlist
from tfnmt.decoding.batching import batches_of, pad
from tfnmt.decoding.ctranslate2_format import length_limit, package, positions_of
from tfnmt.decoding.settings import DecodingSettings
from tfnmt.decoding.source_text import tokenize_sources
from tfnmt.decoding.translator import NOTHING, Hypothesis, Report
from tfnmt.errors import UserError, refuse
from tfnmt.settings import faults_of

MODEL, CONFIGURATION = "model.bin", "config.json"


class CTranslate2Translator:
    """Translates lines as `Translator` does, with an exported model and its shortlist, if it has one.

    Attributes:
      arithmetic: what this machine computes the products in, such as "int8_float32".
    """

    def __init__(self, directory: str | Path, settings: DecodingSettings, threads: int | None = None):
        """Loads the model in `directory`, to be computed on so many cores, or on all.

        Raises:
          UserError: there is no such model, it cannot be read, or the settings are impossible or too long for it.
        """
        ctranslate2 = package()
        refuse(faults_of(settings) or _faults(Path(directory), settings))
        self._source_vocabulary, self._target_vocabulary = load_vocabularies(directory)
        self._pieces = self._source_vocabulary.pieces()
        self._target_pieces = self._target_vocabulary.pieces()
        self._target_ids = {piece: number for number, piece in enumerate(self._target_pieces)}
        self._settings = settings
        cores = threads or runtime.usable_cores()
        side_by_side = settings.concurrent_batches or cores
        # Batches side by side on a core each beat one that shares the cores.
        places = {"inter_threads": side_by_side, "intra_threads": max(1, cores // side_by_side)}
        try:
            self._model = ctranslate2.Translator(str(directory), device="cpu", **places)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"--exported={directory}: cannot be loaded: {error}") from error
        self.arithmetic = self._model.compute_type
        self._has_shortlist = Path(directory, shortlist.NAME).is_file()

    def translate(self, lines: Sequence[str], report: Report | None = None) -> list[list[Hypothesis]]:
        """See `Translator.translate`."""
        sentences = tokenize_sources(self._source_vocabulary, lines, self._settings.longest_source_tokens)
        results = [[NOTHING] for _ in lines]
        begun = [(numbers, self._begin([sentences[number] for number in numbers])) for numbers in self._cut(sentences)]
        for numbers, pending in begun:
            limits = [length_limit(len(sentences[number]), self._settings) for number in numbers]
            found = [self._best(each.result(), limit) for each, limit in zip(pending, limits)]
            for number, hypotheses in zip(numbers, self._with_texts(found)):
                results[number] = hypotheses
            if report is not None:
                report(len(numbers), sum(len(results[number][0].tokens) for number in numbers))
        return results

    def _cut(self, sentences: Sequence[np.ndarray]) -> list[list[int]]:
        return batches_of(sentences, self._settings.decoding_batch_sentences, self._settings.decoding_batch_positions)

    def _begin(self, batch: Sequence[np.ndarray]) -> Sequence[Any]:
        """The results to come of a batch; the package adds END_ID to the sources."""
        settings, special = self._settings, self._target_pieces
        return self._model.translate_batch(
            [[self._pieces[token] for token in sentence[:-1]] for sentence in batch],
            beam_size=settings.beam_size,
            num_hypotheses=settings.beam_size,  # The package has another length penalty: all are scored anew.
            length_penalty=settings.length_penalty,
            max_decoding_length=max(length_limit(len(sentence), settings) for sentence in batch),
            max_input_length=0,
            disable_unk=not settings.allow_unknown,
            suppress_sequences=[[special[PAD_ID]], [special[BEGIN_ID]]],
            use_vmap=self._has_shortlist,
            return_scores=True,
            return_end_token=True,
            asynchronous=True,
        )

    def _best(self, result: Any, limit: int) -> list[Hypothesis]:
        """The hypotheses of a sentence, best first, of `limit` tokens at most; their texts are still empty."""
        settings, found = self._settings, []
        for pieces, score in zip(result.hypotheses, result.scores):
            tokens = tuple(self._target_ids[piece] for piece in pieces)
            log_probability = score * len(tokens) ** settings.length_penalty
            # One batch has one limit, so that a sentence may go beyond its own.
            ended = len(tokens) <= limit and tokens[-1] == END_ID
            found.append((ended, tokens if ended else (*tokens[: limit - 1], END_ID), log_probability))
        ended_alone = [each for each in found if each[0]] or found[:1]
        penalties = [((5 + len(tokens)) / 6) ** settings.length_penalty for _, tokens, _ in ended_alone]
        hypotheses = [
            Hypothesis("", log_probability / penalty, log_probability, tokens)
            for penalty, (_, tokens, log_probability) in zip(penalties, ended_alone)
        ]
        hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
        return hypotheses if settings.nbest > 1 else hypotheses[:1]  # Several may spell one text.

    def _with_texts(self, found: Sequence[Sequence[Hypothesis]]) -> Iterator[list[Hypothesis]]:
        """The N best of each sentence with their texts, none of which is there twice."""
        ids = pad([np.array(hypothesis.tokens, np.int32) for hypotheses in found for hypothesis in hypotheses])
        texts = iter(self._target_vocabulary.detokenize(ids).numpy())
        for hypotheses in found:
            distinct: dict[str, Hypothesis] = {}
            for hypothesis in hypotheses:
                text = next(texts).decode("utf-8", "replace")
                distinct.setdefault(text.strip(), hypothesis._replace(text=text))
            yield list(distinct.values())[: self._settings.nbest]


def _faults(directory: Path, settings: DecodingSettings) -> list[str]:
    """A folder of another kind, and sentences that are longer than the positions that were exported."""
    remedy = "tfnmt-export --format=ctranslate2 makes such folders"
    if not (directory / MODEL).is_file():
        return [f"--exported={directory}: found no {MODEL}; {remedy}."]
    try:
        positions = json.loads((directory / CONFIGURATION).read_text("utf-8"))["positions"]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"--exported={directory}: {CONFIGURATION} is damaged or was made by another program; {remedy}."]
    wanted = positions_of(settings)
    if wanted <= positions:
        return []
    return [
        f"--longest_source_tokens={settings.longest_source_tokens}: with --max_length_factor and --max_length_constant "
        f"a sentence may have {wanted} tokens, and {directory} was exported for {positions}; export it with these "
        "flags, or give smaller ones."
    ]
