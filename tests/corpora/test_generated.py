"""The synthetic language pair."""

from tfnmt.corpora.generated import MODIFIERS, WORDS, generate, reorder


def test_the_same_seed_gives_the_same_pairs():
    assert generate(200, seed=3) == generate(200, seed=3)
    assert generate(200, seed=3)[:100] == generate(100, seed=3)
    assert generate(200, seed=3) != generate(200, seed=4)


def test_no_source_and_no_target_comes_twice():
    pairs = generate(3000, seed=1)
    assert len({pair.source for pair in pairs}) == len({pair.target for pair in pairs}) == 3000
    assert {len(pair.source.split()) for pair in pairs} == set(range(3, 9))


def test_modifiers_go_behind_what_they_modify():
    assert reorder(["red", "house", "here"]) == ["house", "red", "here"]
    assert reorder(["bird", "sees", "old", "boat", "new", "road"]) == ["bird", "sees", "boat", "old", "road", "new"]


def test_every_word_has_one_translation_of_its_own():
    lexicon: dict[str, str] = {}
    for pair in generate(500, seed=1):
        for word, translation in zip(reorder(pair.source.split()), pair.target.split(), strict=True):
            assert lexicon.setdefault(word, translation) == translation
    assert set(lexicon) == {*MODIFIERS, *WORDS}
    assert len(set(lexicon.values())) == len(lexicon)
