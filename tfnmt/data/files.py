"""Parallel text: plain files, gzip files and tab-separated files, read in bounded memory and checked before work.

Lines end with a line feed. Carriage returns are dropped, as `tf.data.TextLineDataset` does, and so is a byte order mark
at the beginning, as `tfnmt.data.lines` does: Python and the graph always see the same lines.
"""

import codecs
import dataclasses
import difflib
import gzip
import io
import itertools
import os
import pathlib
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Literal, cast

from tfnmt.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 20
LINE_END = b"\n"


@dataclasses.dataclass(frozen=True)
class TextPair:
    """Source and target lines: two files aligned by line, or the first two columns of one tab-separated file.

    Names that end in `.gz` are gzip files.
    """

    source: str
    target: str | None = None  # when `source` is the tab-separated file

    @property
    def paths(self) -> tuple[str, ...]:
        """The one or two files."""
        return (self.source,) if self.target is None else (self.source, self.target)

    def __str__(self) -> str:
        return " and ".join(self.paths)


def text_pairs(sources: Sequence[str], targets: Sequence[str]) -> tuple[TextPair, ...]:
    """The files of a split: one target file for each source file or, without any, tab-separated files."""
    return tuple(TextPair(*paths) for paths in (zip(sources, targets, strict=True) if targets else zip(sources)))


def open_bytes(path: str, mode: Literal["rb", "wb"] = "rb") -> IO[bytes]:
    """Opens a plain or a gzip file for reading or for writing."""
    if not is_gzip(path):
        return cast(IO[bytes], open(path, mode))
    file = cast(IO[bytes], gzip.open(path, mode))  # noqa: SIM115 (the caller closes it)
    # Lines come several times as fast out of a buffer of its own.
    return cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, file), _BLOCK_BYTES)) if mode == "rb" else file


def is_gzip(path: str) -> bool:
    """Whether the name says that the file is compressed."""
    return path.endswith(".gz")


def read_lines(path: str, every: int = 1) -> Iterator[str]:
    """The lines of a plain or gzip file, or of `every` so many one; see `decoded_lines` and `read_pairs`."""
    with open_bytes(path) as file:
        yield from decoded_lines(file if every == 1 else itertools.compress(file, _one_of_every(every)), path)


def _one_of_every(count: int) -> Iterator[bool]:
    """Endless: of `count` after `count` elements one is true, at a place that is random and the same each time."""
    randomness = random.Random(count)
    while True:
        place = randomness.randrange(count)
        yield from (row == place for row in range(count))


def decoded_lines(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """The lines of a text, which errors call `name`, without their ends, carriage returns and byte order mark.

    Raises:
      UserError: a line is not UTF-8; those before it have been given.
    """
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {number}: byte 0x{line[error.start]:02x} is not UTF-8; convert the text to UTF-8."
            ) from error
        yield text.rstrip("\n").replace("\r", "")


def read_pairs(*pairs: TextPair, every: int = 1) -> Iterator[tuple[str, str]]:
    """The (source, target) lines of all the `pairs`, one pair of files after the other.

    With `every` above 1 they are a sample: of so many lines after so many one, anywhere among them, the same each time.
    """
    for pair in pairs:
        if pair.target is not None:
            yield from zip(read_lines(pair.source, every), read_lines(pair.target, every), strict=True)
        else:
            rows = (line.split("\t") for line in read_lines(pair.source, every))
            yield from ((source, target) for source, target, *_ in rows)


def count_lines(path: str) -> int:
    """The lines of a file that was inspected before."""
    with open_bytes(path) as file:
        return sum(map(line_count, _blocks(file)))


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Many whole lines at a time."""
    while block := file.read(_BLOCK_BYTES) + file.readline():
        yield block


def inspect_pairs(
    pairs: Sequence[TextPair],
    vouched: Mapping[str, int] | None = None,
    advance: Callable[[int], object] = lambda lines: None,
) -> tuple[int, list[str]]:
    """Reads every file once and finds all that is wrong with them.

    Args:
      pairs: the files.
      vouched: path -> lines of files that are known to be sound, and are not read.
      advance: is told of every so many lines that were read.

    Returns:
      The number of sentence pairs, and the faults: files missing or unreadable, undecodable bytes, NUL characters,
      empty files, unequal numbers of lines, rows without a tab.
    """
    total, faults = 0, []
    for pair in pairs:
        reports = [
            FileReport(path, vouched[path])
            if vouched and path in vouched
            else inspect_file(path, pair.target is None, advance)
            for path in pair.paths
        ]
        faults += [fault for report in reports for fault in report.faults]
        counts = [report.lines for report in reports]
        if all(counts) and len(set(counts)) > 1:
            faults.append(_unequal(pair, counts))
        total += min(counts)
    return total, faults


@dataclasses.dataclass
class FileReport:
    """The lines and the faults of one file."""

    path: str
    lines: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)


def same_file(path: str | os.PathLike, other: str | os.PathLike) -> bool:
    """Whether both are one file that exists, however they are spelled or linked."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def overwriting_faults(output: str, **inputs: str) -> list[str]:
    """The faults of an `--output` that is one of the inputs, which are given by flag; `-` is a standard stream."""
    return [
        f"--output={output}: this is --{flag} too; name another file."
        for flag, path in inputs.items()
        if "-" not in (output, path) and same_file(output, path)
    ]


def inspect_file(
    path: str, tab_separated: bool = False, advance: Callable[[int], object] = lambda lines: None
) -> FileReport:
    """Counts the lines of `path` and looks for what cannot be trained on; of each kind of fault it names the first.

    Tab-separated files need two columns; `advance` is told of every so many lines that were read.
    """
    report = FileReport(path)
    try:
        if not pathlib.Path(path).is_file():
            report.faults.append(_missing(pathlib.Path(path)))
            return report
        with open_bytes(path) as file:
            _inspect_lines(file, report, tab_separated, advance)
    except (OSError, EOFError, zlib.error) as error:
        of_system = getattr(error, "strerror", None)
        kind = "a damaged gzip file" if is_gzip(path) and not of_system else "unreadable"
        report.faults.append(f"{path}: {kind} ({of_system or error}).")
    return report


def _inspect_lines(file: IO[bytes], report: FileReport, tab_separated: bool, advance: Callable[[int], object]) -> None:
    """Looks at many lines at once: sound text, which nearly all is, takes a few passes over its bytes."""
    faults: dict[str, str] = {}
    for block in _blocks(file):
        if report.lines == 0 and block.startswith(_GZIP_MAGIC):
            report.faults.append(f"{report.path}: this is a gzip file; its name must end in .gz.")
            return
        for kind, (row, text) in _first_faults(block, tab_separated).items():
            faults.setdefault(kind, f"line {report.lines + row + 1}: {text}")
        lines = line_count(block)
        report.lines += lines
        advance(lines)
    report.faults += [f"{report.path}, {fault}" for fault in faults.values()]
    if report.lines == 0:
        report.faults.append(f"{report.path}: the file is empty.")


def line_count(block: bytes) -> int:
    """The lines of a text that is not empty, of which the last may lack its end."""
    return block.count(LINE_END) + (not block.endswith(LINE_END))


def _first_faults(block: bytes, tab_separated: bool) -> dict[str, tuple[int, str]]:
    """Kind -> row, from 0, and description of its first fault in whole lines."""
    faults = {}
    if not block.isascii():
        try:
            block.decode("utf-8")
        except UnicodeDecodeError as error:
            text = f"byte 0x{block[error.start]:02x} is not UTF-8; convert the file to UTF-8."
            faults["bytes"] = block.count(LINE_END, 0, error.start), text
    if (place := block.find(b"\0")) >= 0:
        text = "a NUL character; this is not a text file, or is UTF-16."
        faults["NUL"] = block.count(LINE_END, 0, place), text
    if tab_separated:
        lines = block.removesuffix(LINE_END).split(LINE_END)
        remedy = "every row needs a source and a target column; for two files give both flags"
        row = next((row for row, line in enumerate(lines) if b"\t" not in line), None)
        if row is not None:
            faults["tab"] = row, f"there is no tab; {remedy}."
    return faults


def _unequal(pair: TextPair, counts: list[int]) -> str:
    return (
        f"{pair.source} has {counts[0]:,} lines and {pair.target} has {counts[1]:,}: line n of one must be the "
        "translation of line n of the other."
    )


def _missing(path: pathlib.Path) -> str:
    if path.is_dir():
        return f"{path}: this is a directory; name a file in it."
    if path.exists() or str(path) == "-":
        return (
            f"{path}: must be a regular file, because it is read more than once; pairs to train on may come through a "
            "pipe, by --train_pipe."
        )
    if not path.parent.is_dir():
        return f"{path}: there is no directory {path.parent}."
    near = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1, cutoff=0.5)
    return f"{path}: there is no such file{f'; did you mean {path.parent / near[0]}?' if near else '.'}"
