"""Scores of known texts, and what is refused."""

import json

import pytest
from sacrebleu.metrics import BLEU, CHRF, TER

from tfnmt.errors import UserError
from tfnmt.evaluation import evaluate, tokenizer_for

REFERENCES = ["A man in an orange hat is looking at something.", "Five people stand in the snow.", "Zwei Hunde."]


def test_perfect_translations():
    scores = evaluate(REFERENCES, REFERENCES)
    assert (scores.bleu, scores.chrf, scores.ter) == pytest.approx((100, 100, 0))


def test_worse_translations_score_worse():
    better = evaluate(["A man in an orange hat looks at it.", *REFERENCES[1:]], REFERENCES)
    worse = evaluate(["An orange hat.", *REFERENCES[1:]], REFERENCES)
    assert 100 > better.bleu > worse.bleu > 0
    assert 100 > better.chrf > worse.chrf > 0
    assert 0 < better.ter < worse.ter


def test_agrees_with_a_count_by_hand():
    """Of four words three match, in runs of 3 words: precisions 3/4, 2/3, 1/2 and, smoothed, 1/2 of 1/1; one edit."""
    scores = evaluate(["a b c x"], ["a b c d"])
    assert scores.bleu == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)
    assert scores.ter == pytest.approx(25)


def test_signatures_and_json():
    scores = evaluate(REFERENCES, REFERENCES)
    assert (
        "tok:13a" in scores.bleu_signature and "nc:6" in scores.chrf_signature and "tok:tercom" in scores.ter_signature
    )
    assert json.loads(json.dumps(scores.as_dict()))["bleu"] == pytest.approx(100)
    assert set(scores.signatures()) == {"bleu", "chrf", "ter"}
    assert str(scores).count("\n") == 2


def test_chinese_is_not_one_long_word():
    hypotheses, references = ["我喜欢猫和狗。"], ["我喜欢狗和猫。"]
    assert "tok:zh" in evaluate(hypotheses, references, target_language="zh_Hant").bleu_signature
    assert evaluate(hypotheses, references, target_language="zh").bleu > evaluate(hypotheses, references).bleu


@pytest.mark.parametrize("language", ["ja", "ko"])
def test_languages_whose_tokenizer_may_be_missing(language):
    assert evaluate(["私は猫が好き"], ["私は犬が好き"], target_language=language).bleu > 0


def test_tokenizers():
    assert [tokenizer_for(language) for language in (None, "de", "pt_BR", "zh-CN")] == ["13a", "13a", "13a", "zh"]


def test_confidence_intervals_hold_the_score():
    hypotheses = ["A man in an orange hat looks at it.", *REFERENCES[1:]]
    scores = evaluate(hypotheses, REFERENCES, bootstrap_samples=100)
    for name, (low, high) in scores.intervals.items():
        assert low <= getattr(scores, name) <= high
    assert scores.as_dict()["intervals"].keys() == {"bleu", "chrf", "ter"}


def test_scores_are_those_of_sacrebleu():
    hypotheses = ["A man in an orange hat looks at it.", "Five men.", "Drei Hunde schlafen."]
    scores = evaluate(hypotheses, REFERENCES)
    expected = [metric.corpus_score(hypotheses, [REFERENCES]).score for metric in (BLEU(), CHRF(), TER())]
    assert scores[:3] == pytest.approx(expected)


def test_confidence_in_worthless_translations():
    """Some resampled corpora have no match at all, others have one."""
    scores = evaluate(["x", "y", "Zwei Hunde."], REFERENCES, bootstrap_samples=50)
    assert 0 <= scores.intervals["bleu"][0] <= scores.intervals["bleu"][1]


@pytest.mark.parametrize("hypotheses", [[], ["one"]])
def test_unequal_numbers_are_refused(hypotheses):
    with pytest.raises(UserError, match=f"{len(hypotheses)} translations and 3 references"):
        evaluate(hypotheses, REFERENCES)


def test_nothing_is_refused():
    with pytest.raises(UserError, match="no sentences"):
        evaluate([], [])
