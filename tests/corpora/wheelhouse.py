"""Small wheels with message catalogues, made by the tests themselves."""

import json
import pathlib
import zipfile

import polib

from tfnmt import durable_files
from tfnmt.corpora.sources import Source

GERMAN_PLURALS = "nplurals=2; plural=(n != 1);"


def gettext_catalogue(entries: list[dict], plurals: str = GERMAN_PLURALS) -> polib.POFile:
    """A catalogue of entries, each given as `polib.POEntry` takes them."""
    catalogue = polib.POFile()
    catalogue.metadata = {"Content-Type": "text/plain; charset=UTF-8", "Plural-Forms": plurals}
    catalogue.extend(polib.POEntry(**entry) for entry in entries)
    return catalogue


def messages(texts: dict[str, str]) -> polib.POFile:
    """A catalogue of plain messages: English -> translation."""
    return gettext_catalogue([{"msgid": english, "msgstr": text} for english, text in texts.items()])


def make_wheel(directory: pathlib.Path, name: str, members: dict[str, object], **facts: str) -> Source:
    """Writes a wheel that pip accepts, and pins it.

    Args:
      directory: where it goes; created when missing.
      name: of the package.
      members: path -> a catalogue, whose form the path's ending says; a dictionary becomes JSON.
      facts: more fields of the `Source`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(member), _bytes(member, content))
        metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense-Expression: MIT\n\nLicense: none\n"
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        for file, text in {"METADATA": metadata, "WHEEL": tags, "RECORD": ""}.items():
            archive.writestr(zipfile.ZipInfo(f"{name}-1.0.dist-info/{file}"), text)
    return Source(name, "1.0", durable_files.fingerprint(path).sha256, **facts)


def _bytes(member: str, content: object) -> bytes:
    if isinstance(content, polib.POFile):
        return content.to_binary() if member.endswith(".mo") else str(content).encode()
    return json.dumps(content, ensure_ascii=False).encode()


NOUNS = ("lamp", "door", "pump", "fan", "valve", "heater", "camera", "lock", "shutter", "sensor", "alarm", "boiler")
VERBS = {"open": "öffne", "close": "schließe", "start": "starte", "stop": "stoppe", "show": "zeige", "hide": "verberge"}
PLACES = ("kitchen", "garden", "cellar", "attic", "garage")


def english_german() -> dict[str, str]:
    """360 messages in English, with a German of our own."""
    return {
        f"Please {verb} the {noun} in the {place} now.": f"Bitte {german} das Gerät {noun} im Raum {place} sofort."
        for verb, german in VERBS.items()
        for noun in NOUNS
        for place in PLACES
    }


def small_wheelhouse(directory: pathlib.Path) -> list[Source]:
    """Two wheels: JSON catalogues in three languages and a gettext catalogue in German."""
    texts = english_german()
    half = len(texts) // 2
    english, german = list(texts)[:half], list(texts.values())[:half]
    faulty = {
        "Delete {name} for ever": "Für immer löschen",
        "Home": "Home",
        "See <b>this</b> page": "Siehe <b>hier</b>",
    }
    json_members = {
        "home/one/translations/en.json": {"state": dict(enumerate([*english, *faulty]))},
        "home/one/translations/de.json": {"state": dict(enumerate([*german, *faulty.values()]))},
        "home/one/translations/zh-Hans.json": {"state": {"0": "请立即打开厨房里的灯。"}},
    }
    rest = dict(list(texts.items())[half:])
    return [
        make_wheel(directory, "home", json_members, form="json"),
        make_wheel(directory, "tree", {"tree/locale/de_DE/LC_MESSAGES/tree.mo": messages(rest)}),
    ]
