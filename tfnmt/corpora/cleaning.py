"""Brings pairs into one form and drops those that teach nothing, counting the reasons.

A rule is a predicate of a pair. The rules are asked in order, and the first that holds is the reason counted;
what was met before is a duplicate, whatever it was dropped for.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Sequence

import regex

from tfnmt.corpora.languages import letters_of
from tfnmt.corpora.markup import has_markup
from tfnmt.corpora.pairs import PLACEHOLDER, Pair, skeleton
from tfnmt.corpora.report import Step
from tfnmt.progress import Progress
from tfnmt.settings import setting

Rule = Callable[[Pair], bool]


@dataclasses.dataclass(frozen=True)
class CleaningSettings:
    """What may stay in a corpus."""

    maximum_characters: int = setting(500, "Longest sentence kept by cleaning, in characters.", minimum=1)
    maximum_length_ratio: float = setting(
        2.5, "Cleaning drops pairs in which one side is this many times longer than the other usually is.", minimum=1.0
    )
    minimum_letters: float = setting(
        0.5, "Cleaning drops pairs with a smaller share of letters on either side.", minimum=0, maximum=1
    )


def clean(pairs: Sequence[Pair], languages: tuple[str, str], settings: CleaningSettings) -> tuple[list[Pair], Step]:
    """The pairs worth training on, each once, in order and in normal form; and the counts.

    `languages` are the codes of source and target.
    """
    pairs = [Pair(normal_text(pair.source), normal_text(pair.target), pair.origin) for pair in pairs]
    step = Step("clean", read=len(pairs))
    rules = _rules(languages, settings, _typical_ratio(pairs))
    seen: set[tuple[str, str]] = set()
    kept = []
    with Progress("Cleaning", len(pairs), "pairs") as progress:
        for pair in pairs:
            reason = "duplicates" if pair[:2] in seen else _reason(pair, rules)
            seen.add(pair[:2])
            if reason is None:
                kept.append(pair)
            else:
                step.dropped[reason] += 1
            progress.advance()
    return kept, step


def _reason(pair: Pair, rules: dict[str, Rule]) -> str | None:
    """The first rule that `pair` breaks."""
    return next((name for name, holds in rules.items() if holds(pair)), None)


_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]|[\u202a-\u202e]|[\u2066-\u2069]")


def normal_text(text: str) -> str:
    """`text` with composed characters, single spaces and nothing invisible, on one line."""
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def _rules(languages: tuple[str, str], settings: CleaningSettings, ratio: float) -> dict[str, Rule]:
    letters = [letters_of(language) for language in languages]
    return {
        "empty": lambda pair: not pair.source or not pair.target,
        "markup": lambda pair: has_markup(pair.source) or has_markup(pair.target),
        "addresses": lambda pair: bool(_ADDRESS.search(pair.source) or _ADDRESS.search(pair.target)),
        "placeholders differ": lambda pair: _placeholders(pair.source) != _placeholders(pair.target),
        "few letters": lambda pair: min(map(_letter_share, pair[:2])) < settings.minimum_letters,
        "same on both sides": lambda pair: skeleton(pair.source) == skeleton(pair.target),
        "too long": lambda pair: max(len(pair.source), len(pair.target)) > settings.maximum_characters,
        "length ratio": lambda pair: _imbalance(pair, ratio) > settings.maximum_length_ratio,
        "wrong script": lambda pair: (
            _is_foreign(pair.source, pair.target, letters[0]) or _is_foreign(pair.target, pair.source, letters[1])
        ),
    }


_ADDRESS = re.compile(r"https?:|www\.|\w@\w")


def _placeholders(text: str) -> list[str]:
    return sorted(PLACEHOLDER.findall(text))


def _letter_share(text: str) -> float:
    """Share of letters and their marks among what is not space or placeholder; 0 where there are none."""
    rest = "".join(PLACEHOLDER.sub("", text).split())
    return sum(unicodedata.category(character)[0] in "LM" for character in rest) / max(len(rest), 1)


def _typical_ratio(pairs: Sequence[Pair]) -> float:
    """Target characters for each source character over all pairs that have both."""
    full = [pair for pair in pairs if pair.source and pair.target]
    source, target = (sum(len(pair[side]) for pair in full) for side in (0, 1))
    return target / source if source else 1.0


_SHORT = 10  # characters: short texts differ in length without being wrong


def _imbalance(pair: Pair, ratio: float) -> float:
    """The number of times that one side is longer than `ratio` lets expect of the other, at least 1."""
    source, target = len(pair.source) + _SHORT, len(pair.target) / ratio + _SHORT
    return max(source, target) / min(source, target)


_OWN_SHARE = 0.25
_LATIN_WORD = re.compile(r"[A-Za-z]\w*", re.ASCII)


def _is_foreign(text: str, other: str, own_letters: str) -> bool:
    """Whether hardly any letter of `text` is in the scripts of its language; False where these are unknown.

    Names that a translation copies in Latin letters, words that are in the `other` side too, are not counted.
    """
    is_latin = "Latn" in own_letters
    if not own_letters or (is_latin and text.isascii()):
        return False
    copied = set(_LATIN_WORD.findall(other))
    rest = _LATIN_WORD.sub(lambda word: "" if word[0] in copied else word[0], PLACEHOLDER.sub("", text))
    letters = "".join(filter(str.isalpha, rest))
    own = len(regex.findall(own_letters, letters))
    return own < _OWN_SHARE * len(letters) or (own == 0 and not is_latin)
