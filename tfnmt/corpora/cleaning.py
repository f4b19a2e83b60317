"""Brings pairs into one form and names what is wrong with those that teach nothing.

A rule is a predicate of a pair. The rules are asked in order, and the first that holds is the reason counted.
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Callable

import regex

from tfnmt.corpora.languages import letters_of
from tfnmt.corpora.markup import has_markup
from tfnmt.corpora.pairs import PLACEHOLDER, letters, replace_placeholders, skeleton
from tfnmt.corpora.texts import Chunk, Text
from tfnmt.corpora.workers import in_order
from tfnmt.progress import Progress
from tfnmt.settings import setting

Rule = Callable[[str, str], bool]

RULES = (
    *("empty", "markup", "addresses", "placeholders differ", "few letters", "same on both sides", "too long"),
    *("length ratio", "wrong script"),
)
"""The reasons to drop a pair for itself, in the order in which they are tried."""


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


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """How the pairs of one text are cleaned."""

    languages: tuple[str, str]  # codes of source and target
    settings: CleaningSettings
    ratio: float  # target characters for each source character, as `typical_ratio` measures it

    def reason(self, source: str, target: str) -> str | None:
        """The first rule that a pair in normal form breaks; None for one that is worth training on."""
        return next((name for name, holds in self._rules.items() if holds(source, target)), None)

    @functools.cached_property
    def _rules(self) -> dict[str, Rule]:
        settings, scripts = self.settings, [letters_of(language) for language in self.languages]
        rules: tuple[Rule, ...] = (
            lambda source, target: not source or not target,
            lambda source, target: has_markup(source) or has_markup(target),
            lambda source, target: has_address(source) or has_address(target),
            lambda source, target: _placeholders(source) != _placeholders(target),
            lambda source, target: min(_letter_share(source), _letter_share(target)) < settings.minimum_letters,
            lambda source, target: skeleton(source) == skeleton(target),
            lambda source, target: max(len(source), len(target)) > settings.maximum_characters,
            lambda source, target: _imbalance(source, target, self.ratio) > settings.maximum_length_ratio,
            lambda source, target: is_foreign(source, target, scripts[0]) or is_foreign(target, source, scripts[1]),
        )
        return dict(zip(RULES, rules, strict=True))


def typical_ratio(text: Text, processes: int) -> float:
    """Target characters for each source character over all pairs, in normal form, that have both."""
    source = target = 0
    with Progress("Measuring lengths", text.pairs, "pairs") as progress:
        for pairs, *characters in in_order(_characters, text.chunks(), processes):
            source, target = source + characters[0], target + characters[1]
            progress.advance(pairs)
    return target / source if source else 1.0


def _characters(chunk: Chunk) -> tuple[int, int, int]:
    """The pairs of a chunk, and the characters on both sides of those that have both."""
    pairs = normal_pairs(chunk)
    full = [pair for pair in pairs if all(pair)]
    return len(pairs), sum(len(source) for source, _ in full), sum(len(target) for _, target in full)


_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]|[\u202a-\u202e]|[\u2066-\u2069]")


def normal_text(text: str) -> str:
    """`text` with composed characters, single spaces and nothing invisible, on one line."""
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    return " ".join(text.split())


def normal_pairs(chunk: Chunk) -> list[tuple[str, str]]:
    """The pairs of a chunk in normal form."""
    return [(normal_text(source), normal_text(target)) for source, target in chunk.pairs()]


_ADDRESS = re.compile(r"https?:|www\.|\w@\w")


def has_address(text: str) -> bool:
    """Whether an address of the web or of mail is in `text`."""
    # The three signs are found many times as fast as the expression.
    return ("http" in text or "www." in text or "@" in text) and bool(_ADDRESS.search(text))


def _placeholders(text: str) -> list[str]:
    return sorted(PLACEHOLDER.findall(text)) if "{" in text or "%" in text else []


def _letter_share(text: str) -> float:
    """Share of letters and their marks among what is not space or placeholder; 0 where there are none."""
    rest = "".join(replace_placeholders(text, "").split())
    return len(letters(rest)) / max(len(rest), 1)


_SHORT = 10  # characters: short texts differ in length without being wrong


def _imbalance(source: str, target: str, ratio: float) -> float:
    """The number of times that one side is longer than `ratio` lets expect of the other, at least 1."""
    lengths = len(source) + _SHORT, len(target) / ratio + _SHORT
    return max(lengths) / min(lengths)


_OWN_SHARE = 0.25
_compiled = functools.cache(regex.compile)  # The package's own cache takes longer than most matches.
_LATIN_WORD = re.compile(r"[A-Za-z]\w*", re.ASCII)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def is_foreign(text: str, other: str, own_letters: str) -> bool:
    """Whether hardly any letter of `text` is in the scripts of its language; False where these are unknown.

    `own_letters` is a set as `letters_of` gives it. Names that a translation copies in Latin letters, words that are in
    the `other` side too, are not counted.
    """
    is_latin = "Latn" in own_letters
    if not own_letters or (is_latin and text.isascii()):
        return False
    own_letter = _compiled(own_letters)
    if is_latin and _all_match(own_letter, "".join(_NOT_ASCII.findall(text))):
        return False  # Every letter is an own one, whichever are left when copied words are not counted.
    copied = set(_LATIN_WORD.findall(other))
    rest = _LATIN_WORD.sub(lambda word: "" if word[0] in copied else word[0], replace_placeholders(text, ""))
    alphabetic = "".join(filter(str.isalpha, rest))
    own = len(own_letter.findall(alphabetic))
    return own < _OWN_SHARE * len(alphabetic) or (own == 0 and not is_latin)


def _all_match(own_letter: regex.Pattern, text: str) -> bool:
    """Whether all letters of `text` are own ones."""
    alphabetic = "".join(filter(str.isalpha, text))
    return len(own_letter.findall(alphabetic)) == len(alphabetic)
