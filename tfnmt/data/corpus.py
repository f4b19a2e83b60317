"""The files of a run, from `--data` or from one flag for each."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from tfnmt.data.files import TextPair, inspect_pairs
from tfnmt.data.settings import TextSettings
from tfnmt.errors import UserError, refuse

SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev")}
"""Split -> the beginnings that its file names may have in a directory."""

_DESCRIPTION = "corpus.json"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What is read for training and for validation.

    Attributes:
      train: pairs of files, read one after the other.
      validation: the same; empty when there is none.
      source_language: such as "en"; None when not known.
      target_language: such as "de"; None when not known.
    """

    train: tuple[TextPair, ...]
    validation: tuple[TextPair, ...] = ()
    source_language: str | None = None
    target_language: str | None = None

    def inspect(self) -> dict[str, int]:
        """Reads all files once.

        Returns:
          The number of sentence pairs of each split.

        Raises:
          UserError: with everything that is wrong with the files.
        """
        pairs, faults = {}, []
        for split in SPLITS:
            pairs[split], found = inspect_pairs(getattr(self, split))
            faults += found
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
        _pairs(settings.train_source, settings.train_target),
        _pairs(settings.validation_source, settings.validation_target),
        *(_parse(settings.languages) if settings.languages else ()),
    )


def _pairs(sources: Sequence[str], targets: Sequence[str]) -> tuple[TextPair, ...]:
    if not targets:
        return tuple(TextPair(source) for source in sources)
    return tuple(TextPair(source, target) for source, target in zip(sources, targets, strict=True))


def _find_in(directory: pathlib.Path, languages: str) -> Corpus:
    if not directory.is_dir():
        raise UserError(f"--data={directory}: there is no such directory; tfnmt-corpus --output={directory} makes one.")
    source, target = _parse(languages or _described_languages(directory))
    pairs: dict[str, tuple[TextPair, ...]] = {}
    faults = []
    for split, names in SPLITS.items():
        found = {language: _find(directory, names, language) for language in (source, target)}
        missing = [language for language, path in found.items() if path is None]
        if split == "train" or len(missing) == 1:
            faults += [
                f"--data={directory}: found no {split}.{name} or {split}.{name}.gz.{_offer(directory)}"
                for name in missing
            ]
        pairs[split] = () if missing else (TextPair(str(found[source]), str(found[target])),)
    refuse(faults)
    return Corpus(pairs["train"], pairs["validation"], source, target)


def _find(directory: pathlib.Path, names: Sequence[str], language: str) -> str | None:
    paths = [directory / f"{name}.{language}{ending}" for name in names for ending in ("", ".gz")]
    return next((str(path) for path in paths if path.is_file()), None)


def _described_languages(directory: pathlib.Path) -> str:
    """What corpus.json says; a directory of other origin has none, and the files do not tell which side is which."""
    try:
        return json.loads((directory / _DESCRIPTION).read_text("utf-8"))["languages"]
    except (OSError, ValueError, KeyError, TypeError):
        remedy = "give --languages=SOURCE-TARGET, such as en-de"
        raise UserError(f"--data={directory}: it has no {_DESCRIPTION} that names the languages; {remedy}.") from None


def _parse(languages: str) -> tuple[str, str]:
    source, dash, target = languages.partition("-")
    if not (source and dash and target):
        raise UserError(f"--languages={languages}: must be a source and a target language, such as en-de.")
    return source, target


def _offer(directory: pathlib.Path) -> str:
    names = sorted(path.name for path in directory.iterdir() if path.name.startswith("train."))
    return f" It has {', '.join(names)}." if names else ""
