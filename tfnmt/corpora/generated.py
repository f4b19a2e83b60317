"""A synthetic language pair that a small model solves within a minute: for tests and demonstrations.

The source language has nouns, verbs and modifiers, each translated by one word. The target language puts a
modifier behind the word that follows it in the source, so a model must learn the words and their order.
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

    generated_pairs: int = setting(
        4000, "Sentence pairs of --corpus=generated, held-out ones included.", minimum=10, maximum=1_000_000
    )
    generated_seed: int = setting(1, "Seed of --corpus=generated.", minimum=0)


def generate(pairs: int = 4000, seed: int = 1) -> list[Pair]:
    """Different sentence pairs of the synthetic languages.

    Args:
      pairs: how many.
      seed: the same seed gives the same words and the same sentences, in the same order.

    Returns:
      The pairs; no two have the same source, and no two the same target.
    """
    lexicon = _lexicon(seed)
    sentences = random.Random(f"{seed}/sentences")
    found: dict[str, str] = {}
    while len(found) < pairs:
        words = sentences.choices(MODIFIERS + WORDS, k=sentences.randint(_SHORTEST, _LONGEST) - 1)
        words += sentences.choices(WORDS)
        found.setdefault(" ".join(words), " ".join(lexicon[word] for word in reorder(words)))
    return [Pair(source, target, "generated") for source, target in found.items()]


def reorder(words: list[str]) -> list[str]:
    """`words` in the order of the target language: each modifier behind the word that it modifies.

    Of several modifiers the last one comes first: "small red house here" becomes "house red small here".

    Args:
      words: a sentence that does not end with a modifier.
    """
    ordered: list[str] = []
    waiting: list[str] = []
    for word in words:
        if word in MODIFIERS:
            waiting.append(word)
        else:
            ordered += [word, *reversed(waiting)]
            waiting = []
    return ordered


def _lexicon(seed: int) -> dict[str, str]:
    """Source word -> target word, all different."""
    syllables = random.Random(f"{seed}/lexicon")
    invented = [first + second for first in _SYLLABLES for second in _SYLLABLES]
    return dict(zip(MODIFIERS + WORDS, syllables.sample(invented, len(MODIFIERS + WORDS))))
