"""Lines in and out, in bounded memory."""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tfnmt.data.files import decoded_lines, inspect_file, open_bytes, read_lines
from tfnmt.errors import UserError, refuse

STANDARD = "-"
"""Standard input or standard output in place of a file's name."""

Item = TypeVar("Item")


def count_lines(path: str) -> int | None:
    """The lines of a file, all of which are checked; None for standard input, which can be read only once.

    Raises:
      UserError: the file is missing, damaged, or not UTF-8.
    """
    if path == STANDARD:
        return None
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return 0
    report = inspect_file(path)
    refuse(report.faults)
    return report.lines


def lines_of(path: str) -> Iterator[str]:
    """The lines of a plain or gzip file, or of standard input; see `tfnmt.data.files.decoded_lines`."""
    return decoded_lines(sys.stdin.buffer, "standard input") if path == STANDARD else read_lines(path)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last may be shorter. Items before an error are given before it is raised."""
    iterator = iter(items)
    while True:
        chunk: list[Item] = []
        try:
            for item in itertools.islice(iterator, size):
                chunk.append(item)
        except UserError:
            if chunk:
                yield chunk
            raise
        if not chunk:
            return
        yield chunk


@contextlib.contextmanager
def line_writer(path: str) -> Iterator[Callable[[Iterable[str]], None]]:
    """A function that writes lines to a plain or gzip file, or to standard output.

    It passes them on at once, as UTF-8; line feeds inside of a line become spaces.

    Raises:
      UserError: the file, or standard output, cannot be written.
    """
    name = "standard output" if path == STANDARD else f"--output={path}"
    with _writing(name):
        stream = sys.stdout.buffer if path == STANDARD else open_bytes(path, "wb")

    def write(lines: Iterable[str]) -> None:
        content = "".join(line.replace("\n", " ") + "\n" for line in lines).encode()
        with _writing(name):
            stream.write(content)
            stream.flush()

    try:
        yield write
    finally:
        if path != STANDARD:
            with _writing(name):
                stream.close()


@contextlib.contextmanager
def _writing(name: str) -> Iterator[None]:
    """Makes what the system says against writing the user's to mend; a reader that has gone is no fault."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{name}: cannot be written ({error.strerror}).") from error
