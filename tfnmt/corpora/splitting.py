"""Decides where every pair of a corpus goes: into training, validation or test, or out, and for which reason.

A pair may be held out only if no other pair has the skeleton of its source or that of its target. So a model
cannot have seen a held-out sentence in training, not even in other letter case or with another number in it.

What is known of a pair meanwhile is 26 bytes: two in memory and, on disk, three keys of its texts, of which one column
is in memory at a time.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfnmt.corpora.cleaning import RULES, Cleaning, normal_pairs
from tfnmt.corpora.keys import KeyColumn, contained, first_occurrences, key_of, smallest, unique
from tfnmt.corpora.pairs import Pair, has_words, skeleton
from tfnmt.corpora.report import Step
from tfnmt.corpora.texts import Chunk, Text
from tfnmt.corpora.workers import in_order
from tfnmt.errors import UserError
from tfnmt.progress import Progress
from tfnmt.settings import setting

FATES = ("train", "test", "validation", *RULES, "duplicates", "also in validation or test")
"""What can become of a pair: the first three are splits, the others reasons to drop it."""

TRAIN, TEST, VALIDATION = range(3)

_LARGEST_SHARE = 10  # neither held-out split takes more than a tenth of the corpus


@dataclasses.dataclass(frozen=True)
class SplittingSettings:
    """How much is held out."""

    validation_pairs: int = setting(
        1000, "Sentence pairs held out for validation, a tenth of the corpus at most.", minimum=1
    )
    test_pairs: int = setting(1000, "Sentence pairs held out for the test, a tenth of the corpus at most.", minimum=1)
    minimum_words: int = setting(4, "Fewest words on either side of a pair that is held out.", minimum=1)


class _Examined(NamedTuple):
    """What is known of the pairs of a chunk; arrays with an element for each."""

    fates: np.ndarray  # uint8, places in FATES
    is_long: np.ndarray  # bool: whether it is long enough to be held out
    pairs: np.ndarray  # uint64, keys of whole pairs
    sources: np.ndarray  # uint64, keys of the skeletons of sources
    targets: np.ndarray  # uint64, keys of the skeletons of targets


@dataclasses.dataclass(frozen=True)
class Examiner:
    """Looks at the pairs of a chunk one by one, in any process."""

    cleaning: Cleaning | None  # None where nothing is cleaned
    minimum_words: int

    def __call__(self, chunk: Chunk) -> _Examined:
        """What is known of the pairs of the chunk, whatever the others are."""
        pairs = normal_pairs(chunk) if self.cleaning else chunk.pairs()
        columns = zip(*(self._examine(*pair) for pair in pairs))
        return _Examined(*map(np.array, columns, (np.uint8, bool, np.uint64, np.uint64, np.uint64)))

    def _examine(self, source: str, target: str) -> tuple[int, bool, int, int, int]:
        reason = self.cleaning.reason(source, target) if self.cleaning else None
        # No sentence has an end of line, so that no two pairs are joined to one text.
        whole = key_of(f"{source}\n{target}") if self.cleaning else 0
        is_long = reason is None and all(has_words(text, self.minimum_words) for text in (source, target))
        return FATES.index(reason or "train"), is_long, whole, key_of(skeleton(source)), key_of(skeleton(target))


class Allotted(NamedTuple):
    """Where every pair of a text goes."""

    fates: np.ndarray  # uint8, a place in FATES for each pair
    held_out: dict[str, np.ndarray]  # name of the split -> the numbers of its pairs, in the order of its lines


class Allotment:
    """Decides where the pairs of a text go; each decision is about those that are to be trained on so far.

    Attributes:
      allotted: the decisions.
    """

    def __init__(self, text: Text, examiner: Examiner, directory: Path, processes: int):
        """Reads the `text` once; the keys are in `directory` until `close`."""
        self.allotted = Allotted(np.full(text.pairs, TRAIN, np.uint8), {})
        self._examiner, self._processes = examiner, processes
        self._is_long = np.zeros(text.pairs, bool)
        with contextlib.ExitStack() as stack:
            columns = [stack.enter_context(contextlib.closing(KeyColumn(directory))) for _ in range(3)]
            self._pairs, self._sources, self._targets = columns
            start = 0
            for examined in _examined(text, examiner, processes):
                rows = slice(start, start + len(examined.fates))
                self._fates[rows], self._is_long[rows], *keys = examined
                for column, some in zip(columns, keys):
                    column.append(some)
                start = rows.stop
            self.close = stack.pop_all().close

    def drop_unclean(self) -> Step:
        """Drops the duplicates; what was met before is one, whatever it was dropped for."""
        self._fates[~first_occurrences(self._pairs.read())] = FATES.index("duplicates")
        return self._step("clean", len(self._fates), range(VALIDATION + 1, len(FATES)))

    def drop_leaks(self, held_out: Sequence[Text]) -> Step:
        """Drops the pairs that share a source or a target with pairs of the texts `held_out`."""
        examiner = dataclasses.replace(self._examiner, cleaning=None)
        examined = [each for text in held_out for each in _examined(text, examiner, self._processes)]
        read, leaks = self._training.sum(), np.zeros(len(self._fates), bool)
        for column, others in ((self._sources, "sources"), (self._targets, "targets")):
            leaks |= contained(column.read(), np.unique(np.concatenate([getattr(each, others) for each in examined])))
        fate = FATES.index("also in validation or test")
        self._fates[leaks & self._training] = fate
        return self._step("separate", read, [fate])

    def hold_out(self, names: Collection[str], settings: SplittingSettings) -> Step:
        """Holds out the splits of these names, of "test" and "validation".

        Pairs are held out in an order that depends on their sources alone, so that it is the same every time.

        Raises:
          UserError: nothing can be held out, or nothing is left.
        """
        training = self._training
        read = int(training.sum())
        candidates = training & self._is_long & unique(self._targets.read(), training)
        sources = self._sources.read()
        candidates &= unique(sources, training)
        wanted = {"test": settings.test_pairs, "validation": settings.validation_pairs}
        counts = [min(wanted[name], read // _LARGEST_SHARE) for name in names]
        chosen = smallest(sources, candidates, sum(counts))
        for name, rows in zip(names, np.split(chosen, np.cumsum(counts)[:-1])):
            self.allotted.held_out[name] = rows
            if not rows.size:
                raise UserError(_nothing_to_hold_out(name, read, int(candidates.sum()), settings))
            self._fates[rows] = FATES.index(name)
        step = Step("split", read=read)
        step.dropped.update({f"held out for {name}": len(rows) for name, rows in self.allotted.held_out.items()})
        return step

    @property
    def _fates(self) -> np.ndarray:
        return self.allotted.fates

    @property
    def _training(self) -> np.ndarray:
        return self._fates == TRAIN

    def _step(self, name: str, read: int, fates: Collection[int]) -> Step:
        counts = np.bincount(self._fates, minlength=len(FATES)).tolist()
        dropped = {FATES[fate]: counts[fate] for fate in fates if counts[fate]}
        return Step(name, read=int(read), dropped=collections.Counter(dropped))


def _examined(text: Text, examiner: Examiner, processes: int) -> Iterator[_Examined]:
    """The chunks of `text`, examined."""
    with Progress("Examining", text.pairs, "pairs") as progress:
        for examined in in_order(examiner, text.chunks(), processes):
            yield examined
            progress.advance(len(examined.fates))


def _nothing_to_hold_out(name: str, pairs: int, candidates: int, settings: SplittingSettings) -> str:
    return (
        f"No pair is left to hold out for {name}: of {pairs:,} pairs, {candidates:,} have at least "
        f"{settings.minimum_words} words and sentences of their own, and a tenth of the corpus may be held out; "
        "give more text, or lower --minimum_words."
    )


def shuffled(pairs: Iterable[Pair], form: Callable[[str], str]) -> list[Pair]:
    """`pairs` in an order of their own, so that every stretch is a fair sample of the whole.

    The order is that of the keys of what `form` makes of their sources.
    """

    def order(pair: Pair) -> tuple[int, str, str]:
        source, target = form(pair.source), form(pair.target)
        return key_of(skeleton(source)), source, target

    return sorted(pairs, key=order)
