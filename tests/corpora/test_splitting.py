"""Splits without leakage."""

import random

import pytest

from tests.corpora import in_memory
from tests.corpora.allotting import cleaned, split, without_leaks
from tfnmt.corpora.cleaning import normal_text
from tfnmt.corpora.pairs import Pair, skeleton
from tfnmt.corpora.splitting import SplittingSettings, shuffled
from tfnmt.errors import UserError

SETTINGS = SplittingSettings(validation_pairs=30, test_pairs=20)
HELD_OUT = ("test", "validation")


def _pairs(count=400):
    """Sentences of which many come again with other case, punctuation, numbers or translations."""
    random_words = random.Random(1)
    words = [f"{a}{b}" for a in ("ba", "ke", "li", "mo") for b in ("na", "ru", "ti", "so")]
    pairs = []
    for _ in range(count):
        source, target = (" ".join(random_words.choices(words, k=5)) for _ in range(2))
        number = random_words.randint(1, 999)
        pairs.append(Pair(f"{source} {number}", target))
        kind = random_words.randrange(4)
        if kind == 1:
            pairs.append(Pair(f"{source.upper()}, {number + 1}!", f"{target} anders"))
        if kind == 2:
            pairs.append(Pair(f"other {source}", f"{target.capitalize()}."))
    return pairs


def _leaks(splits):
    """Pairs held out that share a skeleton, on either side, with a pair of another split."""
    return [
        pair
        for name in HELD_OUT
        for pair in splits[name]
        for other in splits
        if other != name
        for side in (0, 1)
        if skeleton(pair[side]) in {skeleton(each[side]) for each in splits[other]}
    ]


def test_nothing_held_out_is_in_another_split():
    splits, step = split(_pairs(), SETTINGS, held_out=HELD_OUT)
    assert {name: len(pairs) for name, pairs in splits.items()} == {"test": 20, "validation": 30, "train": step.kept}
    assert sum(map(len, splits.values())) == step.read
    assert not _leaks(splits)


def test_a_random_split_of_these_pairs_would_leak():
    pairs = _pairs()
    random.Random(2).shuffle(pairs)
    assert _leaks({"test": pairs[:20], "validation": pairs[20:50], "train": pairs[50:]})


def test_the_choice_does_not_depend_on_the_order():
    pairs = _pairs()
    first, _ = split(pairs, SETTINGS, held_out=HELD_OUT)
    second, _ = split(pairs[::-1], SETTINGS, held_out=HELD_OUT)
    assert first["test"] == second["test"] and first["validation"] == second["validation"]
    assert shuffled(first["train"], normal_text) == shuffled(second["train"], normal_text)
    assert shuffled(first["train"], normal_text) != first["train"]


def test_short_sentences_are_not_held_out():
    pairs = [*_pairs(100), *(Pair(f"just {word} words", f"nur {word} Worte") for word in "abcdefghijklmnopq")]
    splits, _ = split(pairs, SETTINGS, held_out=HELD_OUT)
    assert all(len(pair.source.split()) >= 4 for name in HELD_OUT for pair in splits[name])


def test_at_most_a_tenth_is_held_out():
    splits, _ = split(_pairs(100)[:100], SplittingSettings(), held_out=HELD_OUT)
    assert len(splits["test"]) == len(splits["validation"]) == 10 and len(splits["train"]) == 80


@pytest.mark.parametrize("pairs", [[], _pairs()[:5], [Pair("one and the same text", f"text {n}") for n in range(50)]])
def test_nothing_to_hold_out_is_refused(pairs):
    with pytest.raises(UserError, match="lower --minimum_words"):
        split(pairs, SETTINGS, held_out=HELD_OUT)


def test_given_test_sentences_leave_the_training_pairs():
    train = [Pair("The door is open", "Die Tür ist auf"), Pair("It rains", "Es regnet"), Pair("Rain", "Es Regnet!")]
    kept, step = without_leaks(train, [Pair("the door is open!", "Offen"), Pair("x", "es regnet")])
    assert kept == [] and dict(step.dropped) == {"also in validation or test": 3}
    assert without_leaks(train, [Pair("Else", "Anders")])[0] == train


def test_texts_as_numbers_decide_as_texts_do():
    """Keys in place of texts, and counts in place of sets, change nothing."""
    pairs = [*_pairs(3000), *_pairs(300), Pair("", "leer"), Pair("same", "Same!")]
    random.shuffle(pairs)
    texts = [pair[:2] for pair in pairs]
    expected, dropped = in_memory.clean(texts)
    kept, step = cleaned(pairs)
    assert [pair[:2] for pair in kept] == expected and step.dropped == dropped
    assert dropped["duplicates"] > 300
    given = [Pair(pair[0].upper(), "x") for pair in kept[:50]]
    kept, _ = without_leaks(kept, given)
    expected = in_memory.without_leaks(expected, [pair[:2] for pair in given])
    assert [pair[:2] for pair in kept] == expected
    splits, _ = split(kept, SETTINGS, held_out=HELD_OUT)
    wanted = in_memory.split(expected, {"test": 20, "validation": 30})
    assert {name: [pair[:2] for pair in each] for name, each in splits.items()} == wanted
