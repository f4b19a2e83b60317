"""A synthetic language pair that a small model solves within a minute: for tests and demonstrations.

The source language has nouns, verbs and modifiers, each translated by one word. The target language puts a
modifier behind the word that follows it in the source, so a model must learn both the words and their order.
"""

import dataclasses
import random

from tfnmt.corpora.pairs import Pair
from tfnmt.settings import setting

MODIFIERS = ("red", "old", "small", "quiet", "cold", "bright", "soft", "round", "new", "green")
WORDS = (
    *("house", "river", "bird", "tree", "child", "stone", "boat", "road", "hill", "lamp"),
    *("sees", "finds", "holds", "leaves", "calls", "builds", "likes", "moves", "opens", "draws"),
    *("here", "there", "today", "often", "never", "soon", "again", "always", "now", "then"),
)
_SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "mi", "no", "pe", "ru", "sa", "ti", "vo", "zu")
_SHORTEST, _LONGEST = 3, 8


@dataclasses.dataclass(frozen=True)
class GeneratedSettings:
    """The size of the synthetic corpus."""

    generated_pairs: int = setting(4000, "Sentence pairs, held-out ones included.", minimum=10, maximum=1_000_000)
    generated_seed: int = setting(1, "Seed of words and sentences.", minimum=0)


def generate(pairs: int, seed: int) -> list[Pair]:
    """So many sentence pairs of the synthetic languages; no two have the same source, and no two the same target.

    The same seed gives the same words and the same sentences, in the same order.
    """
    lexicon = _lexicon(seed)
    randomness = random.Random(f"{seed}/sentences")
    translations: dict[str, str] = {}
    while len(translations) < pairs:
        words = _sentence(randomness)
        translations.setdefault(" ".join(words), " ".join(lexicon[word] for word in reorder(words)))
    return [Pair(source, target, "generated") for source, target in translations.items()]


def reorder(words: list[str]) -> list[str]:
    """`words` in the order of the target language: "red house here" becomes "house red here".

    Another word must follow each modifier.
    """
    ordered: list[str] = []
    for previous, word in zip(["", *words], words):
        ordered.insert(len(ordered) - (previous in MODIFIERS), word)
    return ordered


def _sentence(randomness: random.Random) -> list[str]:
    """Random words, without a modifier at the end or before another modifier."""
    words: list[str] = []
    for _ in range(randomness.randint(_SHORTEST, _LONGEST) - 1):
        after_modifier = bool(words) and words[-1] in MODIFIERS
        words.append(randomness.choice(WORDS if after_modifier else MODIFIERS + WORDS))
    return [*words, randomness.choice(WORDS)]


def _lexicon(seed: int) -> dict[str, str]:
    """Source word -> target word, all different."""
    syllables = random.Random(f"{seed}/lexicon")
    invented = [first + second for first in _SYLLABLES for second in _SYLLABLES]
    return dict(zip(MODIFIERS + WORDS, syllables.sample(invented, len(MODIFIERS + WORDS))))
