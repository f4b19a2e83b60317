"""A sentence pair, and the forms of a text under which two pairs count as the same."""

import functools
import hashlib
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

_WORD = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"  # scripts without spaces
    r"|[^\W\d_]+(?:['’][^\W\d_]+)*"
)


def word_count(text: str) -> int:
    """Words in `text`, placeholders and numbers excluded; each character of a script without spaces is one."""
    return len(_WORD.findall(PLACEHOLDER.sub(" ", text)))


@functools.lru_cache(maxsize=1 << 18)
def skeleton(text: str) -> str:
    """The rest of `text` without case, punctuation, white space and the values of numbers and placeholders.

    Two sentences with one skeleton must not stand on both sides of a split.
    """
    text = unicodedata.normalize("NFKC", PLACEHOLDER.sub("{}", text)).casefold()
    text = re.sub(r"\d+", "0", text)
    return "".join(character for character in text if unicodedata.category(character)[0] in "LMN")


def stable_order(text: str) -> bytes:
    """A pseudo-random sort key that depends on the skeleton of `text` alone."""
    return hashlib.sha256(skeleton(text).encode()).digest()
