"""The files of a run, from `--data` or from one flag for each."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from tfnmt.data.files import TextPair, inspect_pairs, text_pairs
from tfnmt.data.settings import TextSettings
from tfnmt.errors import UserError, refuse

SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev")}
"""Split -> the beginnings that its file names may have in a directory."""

DESCRIPTION = "corpus.json"
"""The file in which tfnmt-corpus describes what it has made."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The pairs of files for training and for validation, which are read one after the other, and their languages."""

    train: tuple[TextPair, ...]
    validation: tuple[TextPair, ...] = ()
    source_language: str | None = None  # such as "en"; None when not known
    target_language: str | None = None  # such as "de"; None when not known

    def inspect(self) -> dict[str, int]:
        """Reads all files once; returns the number of sentence pairs of each split.

        Raises:
          UserError: with everything that is wrong with the files.
        """
        pairs, faults = {}, []
        for split in SPLITS:
            pairs[split], faults_of_split = inspect_pairs(getattr(self, split))
            faults += faults_of_split
        refuse(list(dict.fromkeys(faults)))
        return pairs


def find_corpus(settings: TextSettings) -> Corpus:
    """The files that `settings` name.

    Raises:
      UserError: nothing to train on is named, or `--data` does not have it.
    """
    if settings.data:
        return _find_in(pathlib.Path(settings.data), settings.languages)
    if not settings.train_source:
        raise UserError("There is nothing to train on: give --data=DIRECTORY, or --train_source and --train_target.")
    return Corpus(
        text_pairs(settings.train_source, settings.train_target),
        text_pairs(settings.validation_source, settings.validation_target),
        *(_parse(settings.languages) if settings.languages else ()),
    )


def languages_of(settings: TextSettings) -> tuple[str | None, str | None]:
    """Source and target language, where `settings` or the files name them; the files need not exist any more."""
    try:
        corpus = find_corpus(settings)
    except UserError:
        source, _, target = settings.languages.partition("-")
        return source or None, target or None
    return corpus.source_language, corpus.target_language


def _find_in(directory: pathlib.Path, languages: str) -> Corpus:
    if not directory.is_dir():
        raise UserError(f"--data={directory}: there is no such directory; tfnmt-corpus --output={directory} makes one.")
    source, target = _parse(languages or _described_languages(directory))
    pairs: dict[str, tuple[TextPair, ...]] = {}
    faults = []
    for split, names in SPLITS.items():
        paths = {language: find_file(directory, names, language) for language in (source, target)}
        missing = [language for language, path in paths.items() if path is None]
        if split == "train" or len(missing) == 1:
            faults += [
                f"--data={directory}: found no {split}.{language} or {split}.{language}.gz.{_offer(directory)}"
                for language in missing
            ]
        pairs[split] = () if missing else (TextPair(str(paths[source]), str(paths[target])),)
    refuse(faults)
    return Corpus(pairs["train"], pairs["validation"], source, target)


def find_file(directory: pathlib.Path, names: Sequence[str], language: str) -> str | None:
    """The file NAME.LANGUAGE or NAME.LANGUAGE.gz with the first of the `names` that has one."""
    paths = [directory / f"{name}.{language}{ending}" for name in names for ending in ("", ".gz")]
    return next((str(path) for path in paths if path.is_file()), None)


def _described_languages(directory: pathlib.Path) -> str:
    """The languages that corpus.json names; a directory of other origin has none, and its files do not tell them."""
    try:
        return json.loads((directory / DESCRIPTION).read_text("utf-8"))["languages"]
    except (OSError, ValueError, KeyError, TypeError):
        remedy = "give --languages=SOURCE-TARGET, such as en-de"
        raise UserError(f"--data={directory}: it has no {DESCRIPTION} that names the languages; {remedy}.") from None


def _parse(languages: str) -> tuple[str, str]:
    source, dash, target = languages.partition("-")
    if not (source and dash and target):
        raise UserError(f"--languages={languages}: must be a source and a target language, such as en-de.")
    return source, target


def _offer(directory: pathlib.Path) -> str:
    names = sorted(path.name for path in directory.iterdir() if path.name.startswith("train."))
    return f" It has {', '.join(names)}." if names else ""
