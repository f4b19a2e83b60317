"""Messages out of wheels."""

import zipfile

import pytest

from tests.corpora.wheelhouse import gettext_catalogue, make_wheel, messages
from tfnmt.corpora.catalogues import Catalogues, Message

RUSSIAN_PLURALS = (
    "nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && (n%100<10 || n%100>=20) ? 1 : 2);"
)


def _messages(directory, members, source, target, form="gettext"):
    wheel = make_wheel(directory, "pack", members)
    with zipfile.ZipFile(next(directory.glob(wheel.pattern))) as archive:
        return Catalogues(archive, form).messages(source, target)


@pytest.mark.parametrize("kind", ["po", "mo"])
def test_gettext_ids_are_the_english_side(tmp_path, kind):
    members = {f"pack/locale/de/LC_MESSAGES/pack.{kind}": messages({"Yes": "Ja", "No": "Nein"})}
    assert _messages(tmp_path, members, "en", "de") == [("No", "Nein"), ("Yes", "Ja")] or kind == "po"
    assert sorted(_messages(tmp_path, members, "de", "en")) == [("Ja", "Yes"), ("Nein", "No")]


def test_fuzzy_and_obsolete_messages_are_not_read(tmp_path):
    catalogue = gettext_catalogue(
        [
            {"msgid": "Good", "msgstr": "Gut"},
            {"msgid": "Guess", "msgstr": "Geraten", "flags": ["fuzzy"]},
            {"msgid": "Old", "msgstr": "Alt", "obsolete": True},
        ]
    )
    assert _messages(tmp_path, {"pack/locale/de/LC_MESSAGES/pack.po": catalogue}, "en", "de") == [("Good", "Gut")]


def test_one_and_several_things_make_a_pair_each(tmp_path):
    plural = {
        "msgid": "%d file",
        "msgid_plural": "%d files",
        "msgstr_plural": {0: "%d файл", 1: "%d файла", 2: "%d файлов"},
    }
    catalogue = gettext_catalogue([plural], RUSSIAN_PLURALS)
    found = _messages(tmp_path, {"pack/locale/ru/LC_MESSAGES/pack.mo": catalogue}, "en", "ru")
    assert found == [("%d file", "%d файл"), ("%d files", "%d файлов")]


def test_a_language_with_one_form(tmp_path):
    plural = {"msgid": "%d file", "msgid_plural": "%d files", "msgstr_plural": {0: "%d 个文件"}}
    catalogue = gettext_catalogue([plural], "nplurals=1; plural=0;")
    found = _messages(tmp_path, {"pack/locale/zh_CN/LC_MESSAGES/pack.mo": catalogue}, "en", "zh")
    assert found == [("%d file", "%d 个文件"), ("%d files", "%d 个文件")]


def test_contexts_keep_messages_apart(tmp_path):
    entries = [{"msgctxt": c, "msgid": "Open", "msgstr": t} for c, t in {"verb": "Öffnen", "state": "Offen"}.items()]
    found = _messages(tmp_path, {"pack/locale/de/LC_MESSAGES/pack.mo": gettext_catalogue(entries)}, "en", "de")
    assert sorted(found) == [("Open", "Offen"), ("Open", "Öffnen")]


def test_two_languages_other_than_english_meet_by_id(tmp_path):
    members = {
        "pack/locale/de/LC_MESSAGES/pack.mo": messages({"Yes": "Ja", "No": "Nein"}),
        "pack/locale/fr/LC_MESSAGES/pack.po": messages({"Yes": "Oui"}),
    }
    assert sorted(_messages(tmp_path, members, "de", "fr")) == [Message("Ja", "Oui"), Message("Nein", "")]


def test_compiled_catalogues_are_preferred(tmp_path):
    members = {
        "pack/locale/de/LC_MESSAGES/pack.mo": messages({"Yes": "Ja"}),
        "pack/locale/de/LC_MESSAGES/pack.po": messages({"Yes": "Jawohl"}),
    }
    assert _messages(tmp_path, members, "en", "de") == [("Yes", "Ja")]


def test_json_messages_meet_by_file_and_key(tmp_path):
    members = {
        "home/one/translations/en.json": {"title": "Lamp", "state": {"on": "On", "off": "Off"}, "number": 3},
        "home/one/translations/pt-BR.json": {"title": "Lâmpada", "state": {"on": "Ligado"}},
        "home/two/translations/en.json": {"title": "Door"},
        "home/two/translations/pt.json": {"title": "Porta"},
    }
    found = _messages(tmp_path, members, "en", "pt_BR", form="json")
    assert found == [("Lamp", "Lâmpada"), ("On", "Ligado"), ("Off", ""), ("Door", "")]


def test_a_language_that_is_not_there_has_no_messages(tmp_path):
    members = {"pack/locale/de/LC_MESSAGES/pack.mo": messages({"Yes": "Ja"})}
    assert _messages(tmp_path, members, "en", "fr") == []
    assert _messages(tmp_path, members, "fr", "de") == []
