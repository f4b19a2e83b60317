"""The software corpus: the same user interface message in two languages, from the catalogues of published packages."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tfnmt.corpora.catalogues import Catalogues, Message
from tfnmt.corpora.languages import find_code, listing
from tfnmt.corpora.markup import strip_accelerator, strip_markdown
from tfnmt.corpora.pairs import Pair
from tfnmt.corpora.report import Report, Step
from tfnmt.corpora.sources import Source
from tfnmt.corpora.wheels import licence_of
from tfnmt.errors import UserError

_BLANK_LINE = re.compile(r"\n\s*\n")


def read_software(
    sources: Sequence[Source], wheels: Sequence[Path], languages: tuple[str, str], report: Report
) -> list[Pair]:
    """The messages of all wheels that are translated, aligned by message id and cut into paragraphs.

    The `wheels` are the files of the `sources`, in the same order; the report gets the sources and the counts.

    Raises:
      UserError: no wheel has both languages.
    """
    aligned: list[Pair] = []
    step = Step("align")
    for source, wheel in zip(sources, wheels, strict=True):
        messages = _messages(source, wheel, languages)
        translated = (message for message in messages if message.source.strip() and message.target.strip())
        pairs = [Pair(*message, source.name) for message in translated]
        step.read += len(messages)
        step.dropped["untranslated"] += len(messages) - len(pairs)
        report.add_source(_facts(source, wheel, len(messages), len(pairs)))
        aligned += pairs
    if not aligned:
        raise UserError(_no_pair(sources, wheels, languages))
    report.add(step)
    parts = [part for pair in aligned for part in paragraphs(pair)]
    report.add(Step("cut into paragraphs", read=len(aligned), added=len(parts) - len(aligned)))
    return parts


def paragraphs(pair: Pair) -> list[Pair]:
    """`pair` cut at its blank lines, if both sides have equally many; each text is one line."""
    sources, targets = (_BLANK_LINE.split(pair.source.strip()), _BLANK_LINE.split(pair.target.strip()))
    if len(sources) != len(targets):
        sources, targets = [pair.source], [pair.target]
    texts = zip(sources, targets, strict=True)
    return [Pair(_on_one_line(source), _on_one_line(target), pair.origin) for source, target in texts]


def _messages(source: Source, wheel: Path, languages: tuple[str, str]) -> list[Message]:
    with zipfile.ZipFile(wheel) as archive:
        messages = Catalogues(archive, source.form).messages(*languages)
    return [
        Message(*(strip_markdown(strip_accelerator(text, source.accelerator)) for text in message))
        for message in messages
    ]


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _facts(source: Source, wheel: Path, messages: int, translated: int) -> dict[str, str | int]:
    return {
        "name": source.name,
        "version": source.version,
        "file": wheel.name,
        "sha256": source.sha256,
        "licence": licence_of(wheel),
        "messages": messages,
        "translated": translated,
    }


def _no_pair(sources: Sequence[Source], wheels: Sequence[Path], languages: tuple[str, str]) -> str:
    catalogues = []
    for source, wheel in zip(sources, wheels, strict=True):
        with zipfile.ZipFile(wheel) as archive:
            catalogues.append(Catalogues(archive, source.form).codes)
    unknown = [language for language in languages if not any(find_code(language, codes) for codes in catalogues)]
    what = f"no catalogue is in {' or '.join(unknown)}" if unknown else "no catalogue has both languages"
    return f"--languages={'-'.join(languages)}: {what}; there are {listing(catalogues)}."
