"""Writes a corpus: two text files for each split, and corpus.json, which says what they are."""

import collections
import contextlib
import dataclasses
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfnmt import durable_files
from tfnmt.corpora.cleaning import normal_pairs
from tfnmt.corpora.splitting import TEST, TRAIN, VALIDATION
from tfnmt.corpora.texts import Chunk, Text
from tfnmt.corpora.workers import in_order
from tfnmt.data.corpus import DESCRIPTION
from tfnmt.errors import UserError
from tfnmt.progress import Progress

SPLITS = ("train", "test", "validation")
_COMPRESSION_LEVEL = 6

Sides = tuple[bytes, bytes]
"""What is written of both languages."""


class Portion(NamedTuple):
    """What is written of one chunk."""

    pairs: int  # in the chunk
    train_pairs: int
    train: Sides
    held_out: list[tuple[int, tuple[str, str]]]  # the number of the pair in the chunk, and the pair


@dataclasses.dataclass(frozen=True)
class Packer:
    """Makes the bytes of the files, in any process.

    A gzip file is one compressed member behind the other, which every reader takes for one text.
    """

    is_cleaned: bool
    is_compressed: bool

    def __call__(self, part: tuple[Chunk, np.ndarray]) -> Portion:
        """The bytes of a chunk, of whose pairs the fates are given, places in `splitting.FATES`."""
        chunk, fates = part
        pairs = normal_pairs(chunk) if self.is_cleaned else chunk.pairs()
        train = [pairs[row] for row in np.flatnonzero(fates == TRAIN)]
        held_out = np.flatnonzero((fates == TEST) | (fates == VALIDATION)).tolist()
        return Portion(len(pairs), len(train), self.pack(train), [(row, pairs[row]) for row in held_out])

    def pack(self, pairs: Sequence[tuple[str, str]]) -> Sides:
        """The bytes of `pairs`: the same pairs, the same bytes."""
        source, target = ("".join(f"{pair[side]}\n" for pair in pairs).encode() for side in (0, 1))
        return (self._compressed(source), self._compressed(target)) if self.is_compressed else (source, target)

    def _compressed(self, content: bytes) -> bytes:
        return gzip.compress(content, _COMPRESSION_LEVEL, mtime=0) if content else b""


class CorpusFiles:
    """The files of a corpus while they are written: aside, so that those of before stay whole until all are.

    with CorpusFiles(directory, ("en", "de"), compressed=False) as files:
        files.write("train", packer.pack(pairs), len(pairs))
        files.publish(facts)

    A `with` that ends without `publish` leaves the directory as it was.
    """

    def __init__(self, directory: Path, languages: tuple[str, str], compressed: bool):
        """Makes the directory when it is missing.

        Raises:
          UserError: the directory cannot be written; and so do the other methods.
        """
        self._directory, self._languages = directory, languages
        self._ending = ".gz" if compressed else ""
        self._replacements: dict[str, durable_files.Replacement] = {}
        self._pairs: collections.Counter[str] = collections.Counter()
        with refusing(directory):
            directory.mkdir(parents=True, exist_ok=True)

    def write(self, split: str, content: Sides, pairs: int) -> None:
        """Adds the bytes of so many pairs to a split."""
        for name, piece in zip(self._names(split), content):
            with refusing(self._directory):
                if name not in self._replacements:
                    self._replacements[name] = durable_files.Replacement(self._directory / name)
                self._replacements[name].write(piece)
        self._pairs[split] += pairs

    def write_text(
        self, split: str, text: Text, fates: np.ndarray, packer: Packer, processes: int
    ) -> dict[int, tuple[str, str]]:
        """Adds the pairs of `text` whose fate is TRAIN to a split; returns those to hold out, by their numbers."""
        held_out: dict[int, tuple[str, str]] = {}
        start = 0
        with Progress(f"Writing {split}", text.pairs, "pairs") as progress:
            for portion in in_order(packer, _with_fates(text, fates), processes):
                self.write(split, portion.train, portion.train_pairs)
                held_out |= {start + row: pair for row, pair in portion.held_out}
                start += portion.pairs
                progress.show(start)
        return held_out

    def pairs(self, split: str) -> int:
        """How many pairs were written to a split."""
        return self._pairs[split]

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Puts the files in place; corpus.json, which has `facts` and the files, vouches for them and comes last."""
        with refusing(self._directory):
            files = {
                name: {"lines": self._pairs[split], **dataclasses.asdict(self._replacements[name].finish())}
                for split in sorted(SPLITS)
                for name in self._names(split)
            }
            (self._directory / DESCRIPTION).unlink(missing_ok=True)
            for name, replacement in self._replacements.items():
                replacement.publish()
                # A plain file would be read in place of a compressed one beside it.
                other = name.removesuffix(".gz") if self._ending else f"{name}.gz"
                (self._directory / other).unlink(missing_ok=True)
            durable_files.sync_directory(self._directory)
            text = json.dumps({**facts, "files": files}, indent=2, ensure_ascii=False)
            durable_files.replace(self._directory / DESCRIPTION, f"{text}\n".encode())

    def _names(self, split: str) -> list[str]:
        return [f"{split}.{language}{self._ending}" for language in self._languages]

    def __enter__(self) -> "CorpusFiles":
        """The files themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drops what was not published."""
        for replacement in self._replacements.values():
            replacement.discard()


def _with_fates(text: Text, fates: np.ndarray) -> Iterator[tuple[Chunk, np.ndarray]]:
    """The chunks of `text` with the fates of their pairs."""
    start = 0
    for chunk in text.chunks():
        end = start + chunk.size
        yield chunk, fates[start:end]
        start = end


@contextlib.contextmanager
def refusing(directory: Path) -> Iterator[None]:
    """Turns an error of writing into `directory` into one that names the flag."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--output={directory}: {error.strerror or error}; name a directory that can be written."
        ) from error


def written_names(languages: tuple[str, str]) -> list[str]:
    """The names of all files that a corpus may have, which are replaced or, in their other form, removed."""
    return [f"{split}.{language}{ending}" for split in SPLITS for language in languages for ending in ("", ".gz")]
