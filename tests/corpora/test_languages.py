"""Language codes."""

import pytest

from tfnmt.corpora.languages import find_code, listing, parse_pair, scripts_of
from tfnmt.errors import UserError


@pytest.mark.parametrize(
    ("wanted", "codes", "found"),
    [
        ("de", ["de", "de_DE"], "de"),
        ("de", ["de_Informal", "de_DE"], "de_DE"),
        ("de", ["de_Informal"], None),
        ("de", ["de_AT"], "de_AT"),
        ("zh", ["zh-Hant", "zh-Hans"], "zh-Hans"),
        ("zh", ["zh_TW", "zh_CN"], "zh_CN"),
        ("zh_Hant", ["zh_TW", "zh_CN"], "zh_TW"),
        ("pt_BR", ["pt", "pt-BR"], "pt-BR"),
        ("pt", ["pt_BR", "pt_PT"], "pt_PT"),
        ("ja", ["ja_JP"], "ja_JP"),
        ("sr_Latn", ["sr@latin", "sr"], "sr@latin"),
        ("es", ["es_MX", "es_AR"], None),
        ("en", ["en-GB", "en"], "en"),
    ],
)
def test_codes_are_found_in_any_spelling(wanted, codes, found):
    assert find_code(wanted, codes) == found


def test_pairs_keep_their_spelling():
    assert parse_pair("en-de") == ("en", "de")
    assert parse_pair("en-pt_BR") == ("en", "pt_BR")


@pytest.mark.parametrize("languages", ["", "en", "en-", "en-en", "en-de-fr", "english-german", "../x-de"])
def test_other_pairs_are_refused(languages):
    with pytest.raises(UserError, match="--languages="):
        parse_pair(languages)


def test_the_listing_names_each_language_once():
    assert listing([["de_DE", "zh-Hans", "en"], ["de", "zh_CN", "pt_BR"]]) == "de, en, pt_BR, zh"


def test_scripts():
    assert scripts_of("zh_CN") == {"CJK", "HIRAGANA", "KATAKANA"}
    assert scripts_of("sr") == {"CYRILLIC"} and scripts_of("sr_Latn") == {"LATIN"}
    assert scripts_of("tlh") == frozenset()
