"""Message catalogues inside wheels: which languages a wheel has, and its messages in two of them."""

import collections
import gettext
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import polib

from tfnmt.corpora.languages import find_code


class Message(NamedTuple):
    """One message; empty where a language lacks it."""

    source: str
    target: str


_GETTEXT = re.compile(
    r"(?P<root>.*/)(?P<code>[A-Za-z]{2,3}(?:[_@-][A-Za-z0-9]+)*)/LC_MESSAGES/(?P<domain>[^/]+)\.(?P<kind>po|mo)$"
)
_JSON = re.compile(r"(?P<root>.*/)translations/(?P<code>[^/.]+)(?P<kind>\.json)$")
_ENGLISH = "en"
_MANY = 5  # a number whose plural is the plain one in most languages


class Catalogues:
    """The catalogues of one wheel, read straight from the archive.

    English is the language of the message ids in a gettext catalogue; a JSON catalogue has an English file.
    """

    def __init__(self, archive: zipfile.ZipFile, form: str):
        """Finds the catalogues of `archive`, whose form is "gettext" or "json"."""
        self._archive = archive
        self._gettext = form == "gettext"
        self._members: dict[str, list[re.Match]] = collections.defaultdict(list)
        for name in sorted(archive.namelist()):
            if match := (_GETTEXT if self._gettext else _JSON).match(name):
                self._members[match["code"]].append(match)

    @property
    def codes(self) -> set[str]:
        """The languages, as the wheel spells them."""
        english = {_ENGLISH} if self._gettext and self._members else set()
        return english | set(self._members)

    def messages(self, source: str, target: str) -> list[Message]:
        """The messages that have ids in either language; none when the wheel lacks one of the two."""
        texts = {language: self._texts(language) for language in (source, target)}
        if self._gettext and _ENGLISH in texts:
            other = target if source == _ENGLISH else source
            texts[_ENGLISH] = {key: key[-1] for key in texts[other]}
        if not all(texts.values()):
            return []
        keys = dict.fromkeys([*texts[source], *texts[target]])
        return [Message(texts[source].get(key, ""), texts[target].get(key, "")) for key in keys]

    def _texts(self, language: str) -> dict[Any, str]:
        """Message id -> text; the last part of a gettext message's id is its English text."""
        code = find_code(language, self._members)
        if code is None:
            return {}
        return dict((self._gettext_texts if self._gettext else self._json_texts)(code))

    def _json_texts(self, code: str) -> Iterator[tuple[Any, str]]:
        for match in self._members[code]:
            for path, text in _flatten(json.loads(self._archive.read(match[0]))):
                yield (match["root"], *path), text

    def _gettext_texts(self, code: str) -> Iterator[tuple[Any, str]]:
        # A compiled catalogue leaves out what is marked as fuzzy, so it is preferred to its text form.
        compiled_last = sorted(self._members[code], key=lambda match: match["kind"] == "mo")
        by_domain = {(match["root"], match["domain"]): match for match in compiled_last}
        for domain, match in by_domain.items():
            for context, english, text in _entries(self._archive.read(match[0]), match["kind"]):
                yield (*domain, context, english), text


def _flatten(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts of nested dictionaries, each with the keys that lead to it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flatten(value, (*path, key))
    elif isinstance(tree, str):
        yield path, tree


def _entries(content: bytes, kind: str) -> Iterator[tuple[str, str, str]]:
    """(context, English text, translation) of each message of a gettext file."""
    catalogue = polib.mofile(content) if kind == "mo" else polib.pofile(content.decode("utf-8"))
    one, many = _plural_forms(catalogue.metadata.get("Plural-Forms", ""))
    for entry in catalogue:
        if entry.obsolete or "fuzzy" in entry.flags:
            continue
        context = entry.msgctxt or ""
        if not entry.msgid_plural:
            yield context, entry.msgid, entry.msgstr
            continue
        yield context, entry.msgid, entry.msgstr_plural.get(one, "")
        yield context, entry.msgid_plural, entry.msgstr_plural.get(many, "")


def _plural_forms(header: str) -> tuple[int, int]:
    """The indices of the forms for one thing and for several, from "nplurals=2; plural=(n != 1);"."""
    match = re.search(r"plural=([^;]+)", header)
    try:
        form = gettext.c2py(match[1]) if match else lambda n: int(n != 1)
    except ValueError:
        return 0, 1
    return form(1), form(_MANY)
