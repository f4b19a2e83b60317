"""What tfnmt-corpus computes, as plainly as can be, for a corpus in memory: the texts themselves are compared."""

import collections
import hashlib
import re
import unicodedata

from tfnmt.corpora import pairs as forms
from tfnmt.corpora.cleaning import Cleaning, CleaningSettings, normal_text
from tfnmt.corpora.pairs import PLACEHOLDER


def skeleton(text):
    text = unicodedata.normalize("NFKC", PLACEHOLDER.sub("{}", text)).casefold()
    return "".join(each for each in re.sub(r"\d+", "0", text) if unicodedata.category(each)[0] in "LMN")


def word_count(text):
    return len(forms._WORD.findall(PLACEHOLDER.sub(" ", text)))


def hashed(text):
    return hashlib.sha256(text.encode()).digest()


def clean(pairs, languages=("en", "de")):
    """The pairs that stay, in order, and the reasons of the others, counted."""
    pairs = [(normal_text(source), normal_text(target)) for source, target in pairs]
    full = [pair for pair in pairs if all(pair)]
    ratio = sum(len(target) for _, target in full) / sum(len(source) for source, _ in full)
    rules = Cleaning(languages, CleaningSettings(), ratio)
    seen, kept, dropped = set(), [], collections.Counter()
    for pair in pairs:
        reason = "duplicates" if pair in seen else rules.reason(*pair)
        seen.add(pair)
        if reason:
            dropped[reason] += 1
        else:
            kept.append(pair)
    return kept, dropped


def without_leaks(pairs, held_out):
    sources, targets = ({skeleton(pair[side]) for pair in held_out} for side in (0, 1))
    return [pair for pair in pairs if skeleton(pair[0]) not in sources and skeleton(pair[1]) not in targets]


def split(pairs, counts, minimum_words=4):
    """Training pairs and those held out, by name; `counts` says how many each has."""
    sources, targets = (collections.Counter(skeleton(pair[side]) for pair in pairs) for side in (0, 1))
    candidates = [
        pair
        for pair in pairs
        if sources[skeleton(pair[0])] == targets[skeleton(pair[1])] == 1 and min(map(word_count, pair)) >= minimum_words
    ]
    candidates.sort(key=lambda pair: hashed(skeleton(pair[0])))
    splits, start = {}, 0
    for name, count in counts.items():
        count = min(count, len(pairs) // 10)
        splits[name] = candidates[start : start + count]
        start += count
    taken = set(candidates[:start])
    return splits | {"train": [pair for pair in pairs if pair not in taken]}
