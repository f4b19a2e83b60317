"""Corpora that the user has as files: Multi30k as it is distributed, and any parallel text."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from tfnmt.corpora.report import Report, Step
from tfnmt.corpora.texts import FileText, Text
from tfnmt.data.files import TextPair, inspect_pairs, text_pairs
from tfnmt.data.settings import unpaired_faults
from tfnmt.errors import refuse
from tfnmt.progress import Progress
from tfnmt.settings import setting

_MULTI30K = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
SPLITS = tuple(_MULTI30K)


@dataclasses.dataclass(frozen=True)
class Multi30kSettings:
    """The files of --corpus=multi30k."""

    input: str = setting(
        "",
        "Directory with train, val and test_2016_flickr, each as NAME.LANGUAGE or NAME.LANGUAGE.gz.",
        required=True,
        is_path=True,
    )


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """The files of --corpus=files."""

    train_source: tuple[str, ...] = setting(
        (),
        "Source lines (plain or .gz), or tab-separated files when there is no --train_target.",
        required=True,
        is_path=True,
    )
    train_target: tuple[str, ...] = setting(
        (), "Files of target lines, one for each of --train_source, in its order.", is_path=True
    )
    validation_source: tuple[str, ...] = setting(
        (),
        "Source lines to validate on; held out of the training lines when not given; tab-separated as above.",
        is_path=True,
    )
    validation_target: tuple[str, ...] = setting(
        (), "Files of target lines, one for each of --validation_source.", is_path=True
    )
    test_source: tuple[str, ...] = setting(
        (),
        "Source lines to test on; held out of the training lines when not given; tab-separated as above.",
        is_path=True,
    )
    test_target: tuple[str, ...] = setting((), "Files of target lines, one for each of --test_source.", is_path=True)

    def faults(self) -> list[str]:
        """Flags that do not fit each other."""
        return [fault for split in SPLITS for fault in unpaired_faults(self, split)]


def read_multi30k(settings: Multi30kSettings, languages: tuple[str, str], report: Report) -> dict[str, Text]:
    """The three splits of Multi30k as they are.

    Raises:
      UserError: the directory lacks one of the files, or one is damaged.
    """
    directory = pathlib.Path(settings.input)
    files = {
        name: [TextPair(*(str(_plain_or_gzip(directory / f"{stem}.{code}")) for code in languages))]
        for name, stem in _MULTI30K.items()
    }
    return _read(files, report)


def read_files(settings: FileSettings, report: Report) -> dict[str, Text]:
    """The splits for which the settings name files, "train" at least.

    Raises:
      UserError: files are missing or damaged.
    """
    files = {
        name: text_pairs(getattr(settings, f"{name}_source"), getattr(settings, f"{name}_target")) for name in SPLITS
    }
    return _read({name: pairs for name, pairs in files.items() if pairs}, report)


def _read(files: Mapping[str, Sequence[TextPair]], report: Report) -> dict[str, Text]:
    """The texts of all files, after all were found sound."""
    texts: dict[str, Text] = {}
    faults = []
    with Progress("Inspecting", unit="lines") as progress:
        for name, files_of_split in files.items():
            pairs, faults_of_split = inspect_pairs(files_of_split, advance=progress.advance)
            faults += faults_of_split
            texts[name] = FileText(files_of_split, pairs)
            names = [pathlib.Path(path).name for pair in files_of_split for path in pair.paths]
            report.add_source({"split": name, "files": names, "pairs": pairs})
    refuse(faults)
    for name, text in texts.items():
        report.add(Step(f"read {name}", read=text.pairs))
    return texts


def _plain_or_gzip(path: pathlib.Path) -> pathlib.Path:
    """`path` if there is such a file, else its name with .gz."""
    return path if path.is_file() else path.with_name(f"{path.name}.gz")
