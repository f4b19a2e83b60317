"""A lexical shortlist: the target subwords that a source sentence may become; the output layer computes no others.

It is Marian's (https://marian-nmt.github.io/docs/cmd/marian-decoder/, `--shortlist`), the idea is in Jean et al. 2015,
"On Using Very Large Target Vocabulary for Neural Machine Translation": candidates are the subwords that are most
frequent, and of each source subword the most probable translations, by p(target | source) in the word alignments of
the training text. eflomal (Östling & Tiedemann 2016) aligns the subwords. Two things are ours:

- Links of both directions are counted, and those that both have count twice.
- A source subword may be copied, where the target vocabulary has it. (Marian has this for joint vocabularies.)

CTranslate2 reads the candidates from `vmap.txt`, a line for each source subword, `SOURCE<TAB>TARGET TARGET ...`, and
one for the empty text whose subwords are always allowed; unknown token and end are, too. Sentences of one batch share
their candidates. PAD_ID must be none of them: CTranslate2 4 keeps the place that END_ID had among the sorted
candidates of the first batch, so that no smaller id may come or go.
"""

import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from tfnmt import installation
from tfnmt.batch import END_ID
from tfnmt.data.corpus import count_pairs, find_corpus
from tfnmt.data.files import TextPair, inspect_pairs, read_pairs
from tfnmt.data.filters import KEPT, verdicts
from tfnmt.data.settings import DataSettings
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.decoding.source_text import split_rows
from tfnmt.decoding.streams import chunks
from tfnmt.errors import UserError, refuse
from tfnmt.progress import Progress

NAME = "vmap.txt"
LARGEST_SAMPLE = 1_000_000
"""Sentence pairs that are aligned, at most: of more, every second, third or later one."""

_CHUNK_PAIRS = 10_000

Vocabularies = tuple[Vocabulary, Vocabulary]
"""Source and target."""


class Shortlist(NamedTuple):
    """Which target subwords are candidates."""

    best: int  # translations of each source subword at most, and frequent subwords
    pairs: int  # sentence pairs that were aligned
    frequent: list[int]  # target ids that are always candidates
    translations: dict[int, list[int]]  # source id -> target ids, the most probable first

    def write(self, directory: Path, vocabularies: Vocabularies) -> None:
        """Writes the map that CTranslate2 reads into `directory`."""
        source, target = (vocabulary.pieces() for vocabulary in vocabularies)
        target_ids = {piece: number for number, piece in enumerate(target)}
        lines = [_line("", self.frequent, target)]
        for number, piece in enumerate(source[END_ID + 1 :], start=END_ID + 1):
            copy = [target_ids[piece]] if piece in target_ids else []
            lines.append(_line(piece, dict.fromkeys(copy + self.translations.get(number, [])), target))
        (directory / NAME).write_text("".join(lines), "utf-8")


def _line(source: str, ids: Iterable[int], target: Sequence[str]) -> str:
    return f"{source}\t{' '.join(target[number] for number in ids if number > END_ID)}\n"


def package() -> Any:
    """The package eflomal.

    Raises:
      UserError: it is not installed, or does not work here.
    """
    try:
        import eflomal
    except ImportError as error:
        named = {each.name: each for each in installation.requirements()}
        remedy = installation.remedy(named.get("eflomal"))
        raise UserError(
            f"--shortlist: the package eflomal, which aligns words, cannot be used ({error}); install it with {remedy}."
        ) from error
    return eflomal


def training_files(data: DataSettings) -> tuple[TextPair, ...]:
    """The text of a run that is aligned.

    Raises:
      UserError: it is gone, damaged, or came through a pipe.
    """
    remedy = "--shortlist aligns the words of the run's training text; export without it."
    if data.train_pipe:
        raise UserError(f"--train_pipe={data.train_pipe}: the training text came through a pipe. {remedy}")
    try:
        files = find_corpus(data).train
    except UserError as error:
        raise UserError(*error.faults, remedy) from error
    _, faults = inspect_pairs(files)
    refuse(faults)
    return files


def make(files: Sequence[TextPair], data: DataSettings, vocabularies: Vocabularies, best: int) -> Shortlist:
    """Aligns the pairs in `files` that training with `data` keeps, and counts the links.

    It takes some minutes for `LARGEST_SAMPLE` pairs. Alignments are drawn at random, from a generator that cannot be
    seeded, so that two shortlists of one text differ a little.

    Raises:
      UserError: there are no such pairs, or eflomal fails.
    """
    every = max(1, -(-count_pairs(files) // LARGEST_SAMPLE))
    with tempfile.TemporaryDirectory(prefix="tfnmt-shortlist-") as name:
        place = Path(name)
        frequencies, pairs = _write_ids(place, read_pairs(*files, every=every), data, vocabularies)
        if not pairs:
            raise UserError("--shortlist: the training text has no pairs that training keeps; export without it.")
        _align(place, pairs)
        links, counts = _count_links(place, vocabularies[1].size, pairs)
    frequent = [number for number in np.argsort(-frequencies, kind="stable")[:best].tolist() if frequencies[number]]
    return Shortlist(best, pairs, frequent, most_counted(links, counts, vocabularies[1].size, best))


def most_counted(links: np.ndarray, counts: np.ndarray, target_size: int, best: int) -> dict[int, list[int]]:
    """The `best` targets of each source, the most counted first and, of equal ones, the smallest id.

    Args:
      links: distinct pairs of ids as numbers, source id times `target_size` plus target id, int64 [L].
      counts: how often each was counted, [L].
      target_size: size of the target vocabulary.
      best: targets of one source, at most.
    """
    sources, targets = np.divmod(links, target_size)
    found: dict[int, list[int]] = {}
    for place in np.lexsort((targets, -counts, sources)).tolist():
        of_source = found.setdefault(int(sources[place]), [])
        if len(of_source) < best:
            of_source.append(int(targets[place]))
    return found


def _write_ids(
    place: Path, pairs: Iterable[tuple[str, str]], data: DataSettings, vocabularies: Vocabularies
) -> tuple[np.ndarray, int]:
    """Writes the pairs that training keeps as lines of ids; the target ids' frequencies [V], and how many pairs.

    eflomal puts words into lower case and cuts at every kind of space, neither of which changes a number.
    """
    frequencies, kept_pairs = np.zeros([vocabularies[1].size], np.int64), 0
    with ExitStack() as stack:
        progress = stack.enter_context(Progress("Cutting the text into subwords", unit="pairs"))
        files = [stack.enter_context((place / side).open("w", encoding="ascii")) for side in ("source", "target")]
        for chunk in chunks(pairs, _CHUNK_PAIRS):
            ids = [vocabulary.tokenize(tf.constant(lines)) for vocabulary, lines in zip(vocabularies, zip(*chunk))]
            lengths = [tf.cast(each.row_lengths(), tf.int32) for each in ids]
            is_kept = verdicts(lengths[0], lengths[1], data).numpy() == KEPT
            for each, file in zip(ids, files):
                rows = [row[:-1] for row, keep in zip(split_rows(each), is_kept) if keep]
                file.writelines(" ".join(map(str, row.tolist())) + "\n" for row in rows)
            kept_pairs += len(rows)
            frequencies += np.bincount(np.concatenate([*rows, np.zeros([0], int)]), minlength=len(frequencies))
            progress.advance(len(chunk))
    return frequencies, kept_pairs


def _align(place: Path, pairs: int) -> None:
    """Writes the links of both directions, a line for each pair."""
    logging.info("Aligning the subwords of %s sentence pairs; this takes a few minutes for a million.", f"{pairs:,}")
    aligner = package().Aligner()
    with ExitStack() as stack:
        source, target = (stack.enter_context((place / side).open()) for side in ("source", "target"))
        progress, pool = stack.enter_context(Progress("Aligning")), stack.enter_context(ThreadPoolExecutor(1))
        work = pool.submit(aligner.align, source, target, str(place / "forward"), str(place / "reverse"))
        while not wait([work], timeout=1.0).done:
            progress.show(0)  # that it goes on: eflomal does not say how far it has come
        try:
            work.result()
        except (OSError, subprocess.CalledProcessError) as error:
            remedy = f"{installation.reinstallation('eflomal')} --no-binary eflomal --no-cache-dir"
            raise UserError(f"--shortlist: eflomal failed ({error}); build it anew with {remedy}.") from error


def _count_links(place: Path, target_size: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct links, numbered as `most_counted` says, and how often each was there, int64 [L] both."""
    links, counts = np.zeros([0], np.int64), np.zeros([0], np.int64)
    with Progress("Counting links", pairs, "pairs") as progress:
        for chunk in chunks(_links(place, target_size), _CHUNK_PAIRS):
            new = np.concatenate(chunk)
            links, places = np.unique(np.concatenate([links, new]), return_inverse=True)
            weights = np.concatenate([counts, np.ones_like(new)])
            counts = np.bincount(places, weights).astype(np.int64)
            progress.advance(len(chunk))
    return links, counts


def _links(place: Path, target_size: int) -> Iterator[np.ndarray]:
    """The links of each pair, numbered as `most_counted` says, int64 [links of both directions]."""
    with ExitStack() as stack:
        names = ("source", "target", "forward", "reverse")
        for source, target, *directions in zip(*(stack.enter_context((place / name).open()) for name in names)):
            ids = [np.array(line.split(), np.int64) for line in (source, target)]
            places = np.array(" ".join(directions).replace("-", " ").split(), np.int64)
            yield ids[0][places[::2]] * target_size + ids[1][places[1::2]]
