"""Files that survive a crash: whole and on the disk, or not there at all."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

Piece = bytes | memoryview
CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The size and the hash by which a file is known to be the one that was written."""

    bytes: int
    sha256: str


def write(path: Path, pieces: Iterable[Piece]) -> Fingerprint:
    """Writes a file that must not exist yet and waits until the disk has it.

    The fingerprint that it returns is that of the content as it was in memory.
    """
    digest = hashlib.sha256()
    with open(path, "xb", buffering=0) as file:
        for piece in pieces:
            digest.update(piece)
            _write_whole(file, memoryview(piece))
        os.fsync(file.fileno())
        return Fingerprint(file.tell(), digest.hexdigest())


def replace(path: Path, content: bytes) -> None:
    """Puts `content` into `path`: after a crash the file holds either its old content or all of the new.

    Raises:
      OSError: it could not be written, and is as it was; the error names `path`.
    """
    aside = path.with_name(f".{path.name}.writing")
    try:
        aside.unlink(missing_ok=True)
        write(aside, [content])
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        error.filename, error.filename2 = str(path), None  # An error of writing names no file, others that aside.
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Waits until the disk has the names in the directory `path`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of what `path` holds now."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        return Fingerprint(file.tell(), digest.hexdigest())


def _write_whole(file, content: memoryview) -> None:
    """An unbuffered file may take less than it is given: as much as fits on the disk, or 2 GB."""
    while content:
        content = content[file.write(content) :]


class Replacement:
    """The new content of a file while it is written, aside and a piece at a time; `replace` is for short ones.

    Errors are `OSError`.
    """

    def __init__(self, path: Path):
        """Starts with nothing; what a process that was killed has left aside goes."""
        self._path, self._aside = path, path.with_name(f".{path.name}.writing")
        self._aside.unlink(missing_ok=True)
        self._file = open(self._aside, "xb", buffering=0)  # noqa: SIM115 (`finish` or `discard` closes it)
        self._digest = hashlib.sha256()

    def write(self, piece: Piece) -> None:
        """Adds a piece."""
        self._digest.update(piece)
        _write_whole(self._file, memoryview(piece))

    def finish(self) -> Fingerprint:
        """Waits until the disk has the content; returns its fingerprint as it was in memory."""
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        return Fingerprint(size, self._digest.hexdigest())

    def publish(self) -> None:
        """Puts the finished content in the file's place."""
        self._aside.replace(self._path)

    def discard(self) -> None:
        """Drops the content, unless it is published."""
        self._file.close()
        self._aside.unlink(missing_ok=True)
