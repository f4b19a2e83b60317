"""What cleaning keeps, drops and counts."""

import itertools
import random
import unicodedata

import pytest

from tests.corpora import in_memory
from tests.corpora.allotting import cleaned
from tfnmt.corpora import cleaning, markup
from tfnmt.corpora.cleaning import has_address, is_foreign, normal_text
from tfnmt.corpora.languages import letters_of
from tfnmt.corpora.markup import has_markup, strip_accelerator, strip_markdown
from tfnmt.corpora.pairs import PLACEHOLDER, Pair, has_words, letters, replace_placeholders, skeleton

GOOD = [
    Pair("The door is open.", "Die Tür ist offen."),
    Pair("Delete {name} after %d days", "Nach %d Tagen {name} löschen"),
    Pair("No", "Nein"),
]


def _texts(count=3000):
    """Words, and everything that a rule looks for, in random order."""
    signs = "a B7 % { } $ (s) d : < b> & amp; [ ] ` * | @ \\n http s: www . ü é ﬁ ½ Ⅷ кот 中 ١ İ _ #33; ſ"
    parts = [*signs.split(), " ", "\u0301"]
    return ["".join(random.choices(parts, k=random.randint(0, 9))) for _ in range(count)]


@pytest.mark.parametrize(
    ("reason", "pair"),
    [
        ("empty", ("Hello", " \u200b")),
        ("markup", ("See <a href='x'>this</a>", "Siehe <a href='x'>hier</a>")),
        ("markup", ("{n, plural, one {# day} other {# days}}", "{n, plural, one {# Tag} other {# Tage}}")),
        ("markup", ("It is [%key:common::open%] now", "Es ist jetzt [%key:common::open%]")),
        ("addresses", ("Read more at https://example.org", "Mehr auf https://example.org")),
        ("placeholders differ", ("Delete {name} now", "Jetzt löschen")),
        ("placeholders differ", ("%(count)s of them", "%(number)s davon")),
        ("placeholders differ", ("${a} or {b} {b}", "${a} oder {b}")),
        ("few letters", ("{host}:{port}", "{host}:{port}!")),
        ("few letters", ("12.5 %", "12,5 %")),
        ("same on both sides", ("Wi-Fi 6", "WiFi 7")),
        ("too long", ("a " * 300, "ein " * 100)),
        ("length ratio", ("Yes", "Ja, das ist ganz und gar richtig so, wie es hier geschrieben steht")),
        ("wrong script", ("The lamp is on", "Лампа включена")),
        ("duplicates", GOOD[0][:2]),
        ("duplicates", ("The  door is\u2028open.", "Die Tür ist offen.")),
    ],
)
def test_each_reason(reason, pair):
    kept, step = cleaned([*GOOD, pair])
    assert kept == GOOD
    assert dict(step.dropped) == {reason: 1}
    assert step.read == len(GOOD) + 1 and step.kept == len(GOOD)


def test_names_in_latin_letters_do_not_make_a_script_wrong():
    pairs = [
        ("Powershare status", "Powershare 状态"),
        ("Home Assistant Supervisor add-on", "Home Assistant Supervisor 加载项"),
    ]
    assert cleaned(pairs, ("en", "zh"))[1].kept == 2
    assert cleaned([("Start the server", "Start server")], ("en", "zh"))[1].dropped == {"wrong script": 1}


def test_languages_written_much_shorter_are_not_out_of_proportion():
    chinese = [
        ("Please enter the number of your account", "请输入您的账号"),
        ("The connection was closed", "连接已关闭"),
    ]
    assert cleaned(chinese * 1, ("en", "zh"))[1].kept == 2


def test_limits_are_the_settings():
    pair = [("Twenty characters ok", "Zwanzig Zeichen gehn")]
    assert cleaned(pair, maximum_characters=20)[1].kept == 1
    assert cleaned(pair, maximum_characters=19)[1].kept == 0
    assert cleaned([("abc 123", "def 123")], minimum_letters=0.6)[1].kept == 0
    assert cleaned([("abc 123", "def 123")], minimum_letters=0.5)[1].kept == 1


def test_different_translations_of_one_source_stay():
    assert cleaned([("Open", "Öffnen"), ("Open", "Offen")])[1].kept == 2


def test_normal_text():
    assert normal_text(" Cafe\u0301 \n\u2028 au\u00a0lait\ufeff ") == "Caf\u00e9 au lait"


@pytest.mark.parametrize(
    ("text", "mark", "plain"),
    [
        ("_Save", "_", "Save"),
        ("B_earbeiten", "_", "Bearbeiten"),
        ("保存(_S)", "_", "保存"),
        ("Find & Replace", "&", "Find & Replace"),
        ("&Close", "&", "Close"),
        ("the_long_name", "_", "the_long_name"),
        ("{file_name}", "_", "{file_name}"),
        ("_Save", "", "_Save"),
    ],
)
def test_accelerators(text, mark, plain):
    assert strip_accelerator(text, mark) == plain


def test_markdown():
    assert strip_markdown("Press **OK** or read [the `manual`]({url}).") == "Press OK or read the manual."


def test_skeleton():
    assert skeleton("The {name} has 3 Lamps!") == skeleton("the %s has 14 lamps")
    assert skeleton("a lamp") != skeleton("a lump")
    assert skeleton("…") == ""


@pytest.mark.parametrize(
    ("text", "words"), [("Don't delete {name} at 7 o'clock", 4), ("请输入 Wi-Fi 密码", 7), ("7", 0)]
)
def test_words_are_counted_as_far_as_they_must(text, words):
    assert [count for count in range(1, 9) if has_words(text, count)] == list(range(1, words + 1))
    assert in_memory.word_count(text) == words


def test_glances_see_what_the_expressions_see():
    """What is told at a glance is told as by the whole rule."""
    seen = set()
    for text in _texts():
        rest = PLACEHOLDER.sub("", text)
        found = bool(markup._MARKUP.search(text)) or "{" in rest or "}" in rest, bool(cleaning._ADDRESS.search(text))
        assert (has_markup(text), has_address(text)) == found, text
        assert replace_placeholders(text, "{}") == PLACEHOLDER.sub("{}", text)
        assert skeleton(text) == in_memory.skeleton(text)
        assert letters(text) == "".join(each for each in text if unicodedata.category(each)[0] in "LM")
        assert normal_text(text) == " ".join(cleaning._INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())
        seen.add(found)
    assert len(seen) == 4


@pytest.mark.parametrize("language", ["de", "ru", "zh"])
def test_a_script_is_told_at_a_glance(language, monkeypatch):
    texts = [text for text in _texts() if not any(sign in text for sign in "{}%")]
    sides = list(itertools.pairwise(texts))
    glances = [is_foreign(*pair, letters_of(language)) for pair in sides]
    monkeypatch.setattr(cleaning, "_all_match", lambda own_letter, text: False)
    assert glances == [is_foreign(*pair, letters_of(language)) for pair in sides]
    assert set(glances) == {True, False}
