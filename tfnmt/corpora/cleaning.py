"""Brings pairs into one form and drops those that teach nothing, counting the reasons.

A rule is a predicate of a pair. The rules are asked in order, and the first that holds is the reason counted.
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence

from tfnmt.corpora.languages import script_of, scripts_of
from tfnmt.corpora.pairs import PLACEHOLDER, Pair, skeleton
from tfnmt.corpora.report import Step
from tfnmt.settings import setting

Rule = Callable[[Pair], bool]


@dataclasses.dataclass(frozen=True)
class CleaningSettings:
    """What may stay in a corpus."""

    maximum_characters: int = setting(500, "Longest sentence kept by cleaning, in characters.", minimum=1)
    maximum_length_ratio: float = setting(
        3.0,
        "Cleaning drops pairs in which one side is this many times longer than the other usually is.",
        minimum=1.0,
    )
    minimum_letters: float = setting(
        0.5, "Cleaning drops pairs with a smaller share of letters on either side.", minimum=0, maximum=1
    )


def clean(pairs: Sequence[Pair], languages: tuple[str, str], settings: CleaningSettings) -> tuple[list[Pair], Step]:
    """The pairs worth training on, each once.

    Args:
      pairs: as they were read.
      languages: codes of source and target.
      settings: the limits.

    Returns:
      The pairs kept, in order, in normal form; and the counts.
    """
    pairs = [Pair(normal_text(pair.source), normal_text(pair.target), pair.origin) for pair in pairs]
    step = Step("clean", read=len(pairs))
    rules = _rules(languages, settings, _typical_ratio(pairs))
    kept: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        reason = next((name for name, holds in rules.items() if holds(pair)), None)
        if reason is None and pair[:2] in kept:
            reason = "duplicates"
        if reason is None:
            kept[pair[:2]] = pair
        else:
            step.dropped[reason] += 1
    return list(kept.values()), step


_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]|[\u202a-\u202e]|[\u2066-\u2069]")


def normal_text(text: str) -> str:
    """`text` with composed characters, single spaces and nothing invisible, on one line."""
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def strip_accelerator(text: str, mark: str) -> str:
    """`text` without the mark before the underlined letter of a menu entry, as in "_Save" and "保存(_S)".

    Texts with several marks are left alone: there the mark is a character like any other.
    """
    if not mark or text.count(mark) != 1 or mark in "".join(PLACEHOLDER.findall(text)):
        return text
    text = re.sub(rf"\s*\({re.escape(mark)}\w\)", "", text)
    return re.sub(rf"{re.escape(mark)}(?=\w)", "", text)


def _rules(languages: tuple[str, str], settings: CleaningSettings, ratio: float) -> dict[str, Rule]:
    return {
        "empty": lambda pair: not pair.source or not pair.target,
        "markup": lambda pair: _has_markup(pair.source) or _has_markup(pair.target),
        "addresses": lambda pair: bool(_ADDRESS.search(pair.source) or _ADDRESS.search(pair.target)),
        "placeholders differ": lambda pair: _placeholders(pair.source) != _placeholders(pair.target),
        "few letters": lambda pair: min(map(_letter_share, pair[:2])) < settings.minimum_letters,
        "same on both sides": lambda pair: skeleton(pair.source) == skeleton(pair.target),
        "too long": lambda pair: max(len(pair.source), len(pair.target)) > settings.maximum_characters,
        "length ratio": lambda pair: _imbalance(pair, ratio) > settings.maximum_length_ratio,
        "wrong script": lambda pair: any(map(_is_foreign, pair[:2], map(scripts_of, languages))),
    }


_MARKUP = re.compile(
    r"</?[A-Za-z!][^<>]*>"  # HTML and its like
    r"|&(?:[a-z]+|#\d+);"  # entities
    r"|\]\(|\[%|`|\*\*|\{%|:[a-z]+:"  # Markdown, references, template blocks, roles
    r"|\\[nrt\"]"  # escapes that were meant to be resolved
    r"|\w[|]\w"  # alternatives or context in one text
)


def _has_markup(text: str) -> bool:
    """True too where braces are left without the placeholders, as in "{n, plural, one {# day} other {# days}}"."""
    if _MARKUP.search(text):
        return True
    rest = PLACEHOLDER.sub("", text)
    return "{" in rest or "}" in rest


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
    """How many times longer one side is than `ratio` lets expect of the other, at least 1."""
    source, target = len(pair.source) + _SHORT, len(pair.target) / ratio + _SHORT
    return max(source, target) / min(source, target)


_OWN_SHARE = 0.25  # product names in Latin letters are frequent in every language


def _is_foreign(text: str, scripts: frozenset[str]) -> bool:
    """Whether hardly any letter of `text` belongs to the scripts of its language; False where these are unknown."""
    if not scripts:
        return False
    letters = [character for character in PLACEHOLDER.sub("", text) if character.isalpha()]
    own = sum(_script(character) in scripts for character in letters)
    return own < _OWN_SHARE * len(letters)


_script = functools.lru_cache(maxsize=1 << 14)(script_of)
