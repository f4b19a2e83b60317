"""Text that is read a chunk at a time, as often as wanted: files, or pairs in memory."""

import codecs
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from tfnmt.corpora.pairs import Pair
from tfnmt.data.files import TextPair, line_count, open_bytes
from tfnmt.errors import UserError

CHUNK_PAIRS = 4096


class Chunk(NamedTuple):
    """Consecutive sentence pairs as the bytes of their lines, which are cheap to hand to another process."""

    source: bytes  # lines, or rows whose first two columns are source and target
    target: bytes | None = None  # as many lines; None where `source` has rows

    @property
    def size(self) -> int:
        """How many pairs there are."""
        return line_count(self.source)

    def pairs(self) -> list[tuple[str, str]]:
        """The sentences, without ends of lines and carriage returns."""
        if self.target is None:
            rows = (row.split("\t") for row in _lines(self.source))
            return [(source, target) for source, target, *_ in rows]
        return list(zip(_lines(self.source), _lines(self.target), strict=True))


class Text(Protocol):
    """Sentence pairs in an order of their own.

    Attributes:
      pairs: how many there are.
      origins: the name of what each pair was read from; empty where nobody knows.
    """

    pairs: int
    origins: Sequence[str]

    def chunks(self) -> Iterator[Chunk]:
        """All the pairs, in chunks that are the same each time."""


class FileText:
    """The pairs of files that were inspected, one file after the other."""

    def __init__(self, files: Sequence[TextPair], pairs: int):
        """The `files` have so many `pairs`."""
        self.pairs = pairs
        self.origins: Sequence[str] = ()
        self._files = files

    def chunks(self) -> Iterator[Chunk]:
        """See `Text`.

        Raises:
          UserError: the files have changed.
        """
        read = 0
        for chunk in itertools.chain.from_iterable(map(_chunks_of, self._files)):
            read += chunk.size
            if read > self.pairs:
                break
            yield chunk
        if read != self.pairs:
            names = "; ".join(map(str, self._files))
            raise UserError(f"{names}: no longer {self.pairs:,} pairs; run this again when nobody writes there.")


class ListedText:
    """Pairs in memory; see `Text`."""

    def __init__(self, pairs: Sequence[Pair]):
        """No sentence may contain an end of line."""
        self.pairs = len(pairs)
        self.origins: Sequence[str] = [pair.origin for pair in pairs]
        self._listed = pairs

    def chunks(self) -> Iterator[Chunk]:
        """See `Text`."""
        for start in range(0, self.pairs, CHUNK_PAIRS):
            part = self._listed[start : start + CHUNK_PAIRS]
            yield Chunk(*("".join(f"{pair[side]}\n" for pair in part).encode() for side in (0, 1)))


def _chunks_of(pair: TextPair) -> Iterator[Chunk]:
    """The chunks of one or two files, without a byte order mark at their beginning."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_bytes(path)) for path in pair.paths]
        mark = codecs.BOM_UTF8
        while any(sides := [b"".join(itertools.islice(file, CHUNK_PAIRS)) for file in files]):
            yield Chunk(*(side.removeprefix(mark) for side in sides))
            mark = b""


def _lines(content: bytes) -> list[str]:
    return content.decode("utf-8").replace("\r", "").removesuffix("\n").split("\n")
