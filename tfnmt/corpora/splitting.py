"""Divides a corpus into training, validation and test pairs without leakage.

A pair may be held out only if no other pair has the skeleton of its source or that of its target. So a model
cannot have seen a held-out sentence in training, not even in other letter case or with another number in it.
"""

import collections
import dataclasses
from collections.abc import Collection, Sequence

from tfnmt.corpora.pairs import Pair, skeleton, stable_order, word_count
from tfnmt.corpora.report import Step
from tfnmt.errors import UserError
from tfnmt.settings import setting

Splits = dict[str, list[Pair]]
"""Name of the split ("train", "validation", "test") -> its pairs."""

_LARGEST_SHARE = 10  # neither held-out split takes more than a tenth of the corpus


@dataclasses.dataclass(frozen=True)
class SplittingSettings:
    """How much is held out."""

    validation_pairs: int = setting(
        1000, "Sentence pairs held out for validation, a tenth of the corpus at most.", minimum=1
    )
    test_pairs: int = setting(1000, "Sentence pairs held out for the test, a tenth of the corpus at most.", minimum=1)
    minimum_words: int = setting(4, "Fewest words on either side of a pair that is held out.", minimum=1)


def split(pairs: Sequence[Pair], settings: SplittingSettings, *, held_out: Collection[str]) -> tuple[Splits, Step]:
    """The splits of a corpus, and the counts.

    `held_out` names the splits to take from the corpus, of "validation" and "test". Pairs are held out in an order that
    depends on their sources alone, so that it is the same every time.

    Raises:
      UserError: nothing can be held out, or nothing is left.
    """
    candidates = sorted(_separable(pairs, settings.minimum_words), key=lambda pair: stable_order(pair.source))
    wanted = {"test": settings.test_pairs, "validation": settings.validation_pairs}
    splits: Splits = {}
    start = 0
    for name in held_out:
        count = min(wanted[name], len(pairs) // _LARGEST_SHARE)
        splits[name] = candidates[start : start + count]
        start += count
        if not splits[name]:
            raise UserError(_nothing_to_hold_out(name, pairs, candidates, settings))
    taken = set(candidates[:start])
    splits["train"] = [pair for pair in pairs if pair not in taken]
    counts = {f"held out for {name}": len(splits[name]) for name in held_out}
    return splits, Step("split", read=len(pairs), dropped=collections.Counter(counts))


def without_leaks(pairs: Sequence[Pair], held_out: Sequence[Pair]) -> tuple[list[Pair], Step]:
    """The `pairs` that share neither source nor target with a pair `held_out`, and the counts."""
    sources = {skeleton(pair.source) for pair in held_out}
    targets = {skeleton(pair.target) for pair in held_out}
    step = Step("separate", read=len(pairs))
    kept = []
    for pair in pairs:
        if skeleton(pair.source) in sources or skeleton(pair.target) in targets:
            step.dropped["also in validation or test"] += 1
        else:
            kept.append(pair)
    return kept, step


def shuffled(pairs: Sequence[Pair]) -> list[Pair]:
    """`pairs` in an order of their own, so that every stretch is a fair sample of the whole."""
    return sorted(pairs, key=lambda pair: (stable_order(pair.source), pair))


def _separable(pairs: Sequence[Pair], minimum_words: int) -> list[Pair]:
    """The pairs of enough words whose two skeletons are theirs alone."""
    sources = collections.Counter(skeleton(pair.source) for pair in pairs)
    targets = collections.Counter(skeleton(pair.target) for pair in pairs)
    return [
        pair
        for pair in pairs
        if sources[skeleton(pair.source)] == targets[skeleton(pair.target)] == 1
        and min(word_count(pair.source), word_count(pair.target)) >= minimum_words
    ]


def _nothing_to_hold_out(
    name: str, pairs: Sequence[Pair], candidates: Sequence[Pair], settings: SplittingSettings
) -> str:
    return (
        f"No pair is left to hold out for {name}: of {len(pairs):,} pairs, {len(candidates):,} have at least "
        f"{settings.minimum_words} words and sentences of their own, and a tenth of the corpus may be held out; "
        "give more text, or lower --minimum_words."
    )
