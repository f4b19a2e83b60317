"""The files of a run, from `--data` or from one flag for each."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence

from tfnmt.data.files import TextPair, count_lines, inspect_pairs, text_pairs
from tfnmt.data.settings import DataSettings, TextSettings
from tfnmt.errors import UserError, refuse

SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev")}
"""Split -> the beginnings that its file names may have in a directory."""

DESCRIPTION = "corpus.json"
"""The file in which tfnmt-corpus describes what it has made."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The pairs of files for training and for validation, which are read one after the other, and their languages."""

    train: tuple[TextPair, ...]  # none where they come through a pipe
    validation: tuple[TextPair, ...] = ()
    source_language: str | None = None  # such as "en"; None when not known
    target_language: str | None = None  # such as "de"; None when not known

    def inspect(self) -> dict[str, int]:
        """Returns the number of sentence pairs of each split, after all files were read once.

        Files that tfnmt-corpus has made are not read: the corpus.json beside them has their lines.

        Raises:
          UserError: with everything that is wrong with the files.
        """
        pairs, faults = {}, []
        for split in SPLITS:
            files = getattr(self, split)
            pairs[split], faults_of_split = inspect_pairs(
                files, _vouched(path for pair in files for path in pair.paths)
            )
            faults += faults_of_split
        refuse(list(dict.fromkeys(faults)))
        return pairs


def _vouched(paths: Iterable[str]) -> dict[str, int]:
    """The lines of those files that are, by their size and their time, as the corpus.json beside them says."""
    return {path: lines for path in paths if (lines := _vouched_lines(pathlib.Path(path))) is not None}


def _vouched_lines(path: pathlib.Path) -> int | None:
    description = path.parent / DESCRIPTION
    try:
        described = json.loads(description.read_text("utf-8"))["files"][path.name]
        file = path.stat()
        # tfnmt-corpus writes the description last, so what is newer has been changed since.
        is_as_described = file.st_size == described["bytes"] and file.st_mtime_ns <= description.stat().st_mtime_ns
        return int(described["lines"]) if is_as_described else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def count_pairs(files: Sequence[TextPair]) -> int:
    """Sentence pairs in files that were inspected before; those that tfnmt-corpus has made are not read again."""
    vouched = _vouched(pair.source for pair in files)
    return sum(vouched[pair.source] if pair.source in vouched else count_lines(pair.source) for pair in files)


def find_corpus(settings: TextSettings) -> Corpus:
    """The files that `settings` name.

    Raises:
      UserError: nothing to train on is named, or `--data` does not have it.
    """
    has_pipe = isinstance(settings, DataSettings) and bool(settings.train_pipe)
    if settings.data:
        return _find_in(pathlib.Path(settings.data), settings.languages, has_pipe)
    if not settings.train_source and not has_pipe:
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


def _find_in(directory: pathlib.Path, languages: str, has_pipe: bool) -> Corpus:
    if not directory.is_dir():
        raise UserError(f"--data={directory}: there is no such directory; tfnmt-corpus --output={directory} makes one.")
    source, target = _parse(languages or _described_languages(directory))
    pairs: dict[str, tuple[TextPair, ...]] = {}
    faults = []
    for split, names in SPLITS.items():
        if split == "train" and has_pipe:
            continue
        paths = {language: find_file(directory, names, language) for language in (source, target)}
        missing = [language for language, path in paths.items() if path is None]
        if split == "train" or len(missing) == 1:
            faults += [
                f"--data={directory}: found no {split}.{language} or {split}.{language}.gz.{_offer(directory)}"
                for language in missing
            ]
        pairs[split] = () if missing else (TextPair(str(paths[source]), str(paths[target])),)
    refuse(faults)
    return Corpus(pairs.get("train", ()), pairs["validation"], source, target)


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
