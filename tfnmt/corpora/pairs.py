"""A sentence pair, and the forms of a text under which two pairs count as the same."""

import functools
import itertools
import re
import unicodedata
from typing import NamedTuple


class Pair(NamedTuple):
    """One sentence in two languages."""

    source: str
    target: str
    origin: str = ""  # the name of what it was read from


PLACEHOLDER = re.compile(
    r"""
      \$\{[^{}]*\}                                  # ${name}
    | \{\{[^{}]*\}\}                                # {{ name }}
    | \{[^{}\s]*\}                                  # {name}, {0:.2f}
    | %\([^()]*\)[-#0+ ]*\d*(?:\.\d+)?[a-zA-Z]      # %(name)s
    | %[-#0+]*\d*(?:\.\d+)?[sdifrxgGeEu](?![a-zA-Z])  # %s, %5.1f
    """,
    re.VERBOSE,
)

_DIGITS = re.compile(r"\d+")
_WORD = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"  # scripts without spaces
    r"|[^\W\d_]+(?:['’][^\W\d_]+)*"
)


def replace_placeholders(text: str, by: str) -> str:
    """`text` with another text in the place of each placeholder."""
    # Most texts have no placeholder, and looking for these two signs is many times as fast.
    return PLACEHOLDER.sub(by, text) if "{" in text or "%" in text else text


def has_words(text: str, count: int) -> bool:
    """Whether `text` has so many words, placeholders and numbers excluded.

    Each character of a script without spaces is a word.
    """
    words = _WORD.finditer(replace_placeholders(text, " "))
    return next(itertools.islice(words, count - 1, None), None) is not None


class _Kinds(dict[int, int | None]):
    """Characters for `str.translate`: those of some of Unicode's major categories stay, all others go."""

    def __init__(self, categories: str):
        """The `categories` are letters, such as "LM" for letters and their marks."""
        super().__init__()
        self._categories = categories

    def __missing__(self, character: int) -> int | None:
        """Remembers the answer, so that a character's category is looked up once."""
        stays = unicodedata.category(chr(character))[0] in self._categories
        return self.setdefault(character, character if stays else None)


_LETTERS, _LETTERS_AND_NUMBERS = _Kinds("LM"), _Kinds("LMN")


def letters(text: str) -> str:
    """The letters of `text` and their marks."""
    return text.translate(_LETTERS)


@functools.lru_cache(maxsize=64)  # The rules of cleaning ask for a pair's skeletons, and then so do the splits.
def skeleton(text: str) -> str:
    """The rest of `text` without case, punctuation, white space and the values of numbers and placeholders.

    Two sentences with one skeleton must not stand on both sides of a split.
    """
    text = replace_placeholders(text, "{}")
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _DIGITS.sub("0", text.casefold()).translate(_LETTERS_AND_NUMBERS)
