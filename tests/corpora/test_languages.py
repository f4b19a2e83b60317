"""Language codes."""

import pytest
import regex

from tfnmt.corpora.languages import find_code, letters_of, listing, parse_pair
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
        ("no", ["da", "nb_NO", "nn"], "nb_NO"),
        ("he", ["iw", "yi"], "iw"),
        ("pt_BR", ["pt"], None),
        ("pt", ["pt_BR"], "pt_BR"),
        ("ar_EG", ["ar", "ar_EG"], "ar_EG"),
        ("pt_PT", ["pt", "pt_PT"], "pt_PT"),
        ("de_DE", ["de"], "de"),
        ("de_nolanguageatall", ["de"], None),
        ("pt", ["pt_BR", "pt"], "pt"),
        ("en_GB", ["en_AU", "en"], None),
        ("sr", ["sr_Latn"], None),
        ("ca", ["ca@valencia", "no code"], None),
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
    assert (
        listing([["de_DE", "zh-Hans", "en"], ["de", "zh_CN", "pt_BR", "zh_TW", "no code"]])
        == "de, en, pt_BR, zh, zh_Hant"
    )


@pytest.mark.parametrize(
    ("code", "own", "foreign"),
    [
        ("zh_CN", "语", "кana"),
        ("ja", "語ひカ", "한к"),
        ("ko", "한", "кa"),
        ("sr", "ђ", "đ語"),
        ("sr_Latn", "đ", "ђ"),
        ("en", "a", "к"),
        ("hi", "ह", "a"),
    ],
)
def test_letters(code, own, foreign):
    assert regex.findall(letters_of(code), own + foreign) == [letter for letter in own + foreign if letter in own]


@pytest.mark.parametrize("code", ["xx", "tlh", "no code"])
def test_the_letters_of_an_unknown_language_are_not_known(code):
    assert letters_of(code) == ""
