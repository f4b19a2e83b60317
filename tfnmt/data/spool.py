"""Pairs that come through a pipe, once: the process that leads spools them into files, where all readers take them.

    pipe -> 00000000.tsv, 00000001.tsv, ... in the run directory -> the reader of each worker

All files have equally many lines, but for the last that has any. Behind it an empty file is the end of the pipe. A file
is there whole or not at all, and a reader looks for the next one again and again. Files that no checkpoint needs any
more are deleted, but for the first, by which a producer is known to be the same as before. Beside them are:

    next_epoch   the line with which readers begin anew behind the end, for the update that reads beyond it
    reader-N     the number of the file to which the reader of worker N has come
"""

import codecs
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import tensorflow as tf
from absl import logging

from tfnmt import durable_files
from tfnmt.data.files import LINE_END, TextPair, count_lines
from tfnmt.data.lines import block_begins, columns
from tfnmt.data.settings import DataSettings
from tfnmt.errors import UserError

Positions = Sequence[Sequence[int] | None]
"""How far each worker's reader has come: `Batch.position`, or None before the first batch."""

_MOST_LINES = 10_000
_FILES_AHEAD = 20
_LOOK_SECONDS = 0.1
_TOLD_SECONDS = 10.0
_NEXT_EPOCH, _READER = "next_epoch", "reader-"


@dataclasses.dataclass(frozen=True)
class SpooledPairs:
    """The files, as readers on any machine see them.

    Attributes:
      directory: where they are.
      lines: in each of them.
    """

    directory: str
    lines: int

    @classmethod
    def of(cls, run_directory: str, settings: DataSettings) -> "SpooledPairs":
        """Those of a run."""
        return cls(str(Path(run_directory).absolute() / "pairs"), min(_MOST_LINES, settings.shuffle_buffer))

    def path(self, number: int) -> Path:
        """The file of a number."""
        return Path(self.directory, f"{number:08d}.tsv")

    def shard(self, epoch: tf.Tensor, first: tf.Tensor, shard: tf.Tensor, shards: tf.Tensor) -> tf.data.Dataset:
        """Pairs (source, target) of a shard in an epoch, from the shard's line `first` on; it waits for those to come.

        All arguments are int64 scalars. Without the directory it fails at once: the machine does not share it.
        """
        begins = tf.strings.to_number(tf.io.read_file(f"{self.directory}/{_NEXT_EPOCH}"), tf.int64)
        line = tf.where(epoch > 0, begins, 0) + first * shards
        texts = tf.data.Dataset.range(line // self.lines, tf.int64.max).flat_map(
            lambda number: self._text(number, shard)
        )
        pairs = texts.take_while(lambda text: tf.strings.length(text) > 0).flat_map(_pairs_of_text)
        return pairs.skip(line % self.lines).shard(shards, shard)

    def _text(self, number: tf.Tensor, shard: tf.Tensor) -> tf.data.Dataset:
        """One file's text, once it is there."""
        note = tf.strings.join([f"{self.directory}/{_READER}", tf.strings.as_string(shard)])
        name = tf.strings.join([self.directory, "/", tf.strings.as_string(number, width=8, fill="0"), ".tsv"])
        with tf.control_dependencies([tf.io.write_file(note, tf.strings.as_string(number))]):
            name = tf.identity(name)
        return _now_and_then().map(lambda _: tf.io.read_file(name)).ignore_errors().take(1)


def _now_and_then() -> tf.data.Dataset:
    """One element at once, and every _LOOK_SECONDS another."""
    turns = tf.data.Dataset.range(tf.int64.max)
    slow = tf.raw_ops.SleepDataset(
        input_dataset=tf.data.experimental.to_variant(turns),
        sleep_microseconds=tf.constant(int(1e6 * _LOOK_SECONDS), tf.int64),
        output_types=[tf.int64],
        output_shapes=[[]],
    )
    return tf.data.Dataset.range(1).concatenate(tf.data.experimental.from_variant(slow, turns.element_spec))


def _pairs_of_text(text: tf.Tensor) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(columns(tf.strings.split(text, "\n")[:-1]))


class Spool:
    """Takes pairs from the pipe, in a thread of the process that leads, until one of both ends, or `close`."""

    def __init__(
        self, settings: DataSettings, files: SpooledPairs, workers: int, checkpoints: Callable[[], Sequence[Positions]]
    ):
        """Nothing is read before `start`.

        Args:
          settings: they name the pipe.
          files: where the pairs go.
          workers: how many read them.
          checkpoints: the positions in each checkpoint from which training may go on, the oldest first.
        """
        self._settings, self._files, self._workers, self._checkpoints = settings, files, workers, checkpoints
        self._name = f"--train_pipe={settings.train_pipe}"
        self._next = 0  # the number of the next file
        self._needed = 0  # the first line that a checkpoint needs
        self._left_out, self._fault = 0, ""
        self._has_ended, self._closed = False, threading.Event()
        self._heard_at = time.monotonic()
        self._rows = self._sound_rows()

    @property
    def beginning(self) -> TextPair:
        """The first file, which stands for all."""
        return TextPair(str(self._files.path(0)))

    @property
    def is_awaited(self) -> bool:
        """Whether a reader waits for pairs that have not come."""
        return not self._has_ended and self._next <= max(self._reached(), 0)

    def start(self) -> None:
        """Waits for the first file, or sees that the pipe is the one of before, and goes on in a thread.

        Raises:
          UserError: the pipe cannot be read, brings nothing or no pairs, or other pairs than before; or the run cannot
            go on with it.
        """
        directory = Path(self._files.directory)
        directory.mkdir(exist_ok=True)
        for note in directory.glob(f"{_READER}*"):
            note.unlink()
        checkpoints = self._checkpoints()
        newest = checkpoints[-1] if checkpoints else ()
        self._refuse_unsuitable(newest)
        if not self._take_up(newest):
            logging.info("%s had ended when training stopped, and is not read again.", self._name)
            return
        durable_files.replace(directory / _NEXT_EPOCH, b"0")
        threading.Thread(target=self._watch, name="pipe-watch", daemon=True).start()
        known = 0 if self._settings.producer_resumes else self._next
        if self._next == 0:
            self._begin()
        elif known:
            self._compare()
        threading.Thread(target=self._run, args=(max(known - 1, 0),), name="pipe", daemon=True).start()

    def close(self) -> None:
        """Ends both threads; the one that waits for the pipe ends when that brings something, or ends."""
        self._closed.set()

    def _refuse_unsuitable(self, newest: Positions) -> None:
        if newest and len(newest) != self._workers:
            raise UserError(
                f"{self._name}: {len(newest)} workers have begun to read it, and {self._workers} cannot go on; start "
                "as many as before."
            )
        first = min(map(self._block_begins, newest), default=0) // self._files.lines
        if first and not self._files.path(first).exists():
            raise UserError(f"{self._files.path(first)} is gone; train anew in another --run_directory.")

    def _take_up(self, newest: Positions) -> bool:
        """Finds the files of before; False where no more may follow.

        The end of a pipe that training has not come near may have been that of its producer alone: it is taken back.
        """
        last = max((int(path.stem) for path in Path(self._files.directory).glob("*.tsv")), default=-1)
        if last < 0 or self._files.path(last).stat().st_size:
            self._next = last + 1
            return True
        whole = last - (last > 0 and count_lines(str(self._files.path(last - 1))) < self._files.lines)
        block = self._settings.shuffle_buffer * self._workers
        if any(each and (each[0] or self._block_begins(each) + block > whole * self._files.lines) for each in newest):
            self._next, self._has_ended = last + 1, True
            return False
        for number in range(last, whole - 1, -1):
            self._files.path(number).unlink()
        self._next = whole
        return True

    def _block_begins(self, position: Sequence[int] | None) -> int:
        """The first line of what all workers shuffle at a position; 0 behind the end, where all may be needed again."""
        return block_begins(position[1], self._settings) * self._workers if position and not position[0] else 0

    def _begin(self) -> None:
        rows = self._next_rows()
        if self._left_out:
            raise UserError(f"{self._name}, {self._fault}.")
        if not rows:
            raise UserError(f"{self._name}: it ended without a pair; look what its producer says.")
        self._publish(rows)

    def _compare(self) -> None:
        if b"".join(self._next_rows()) != self._files.path(0).read_bytes():
            raise UserError(
                f"{self._name}: its first {self._files.lines:,} pairs are not those with which the run began, so those "
                "that were taken cannot be skipped. Start the same producer from its beginning or, where it goes on "
                "behind what it has given, add --producer_resumes."
            )

    def _run(self, skipped: int) -> None:
        """Spools what comes behind so many files."""
        if skipped:
            logging.info("%s: skipping the %s pairs of before.", self._name, f"{self._next * self._files.lines:,}")
        if any(len(self._next_rows()) < self._files.lines for _ in range(skipped)):
            logging.error("%s has ended before the last of them: it is not the pipe of before.", self._name)
        while len(rows := self._next_rows()) == self._files.lines and not self._closed.is_set():
            self._publish(rows)
        if self._closed.is_set():
            return
        if rows:
            self._publish(rows)
        logging.info("%s has ended; training ends with the first update that reads beyond.", self._name)
        self._make_room()  # behind which nothing is deleted any more
        self._write(Path(self._files.directory, _NEXT_EPOCH), str(self._needed).encode())
        self._write(self._files.path(self._next), b"")
        self._has_ended = True

    def _next_rows(self) -> list[bytes]:
        """The lines of the next file, fewer at the end of the pipe; tells of those that are left out."""
        rows = list(itertools.islice(self._rows, self._files.lines))
        if self._left_out and self._next:
            logging.warning("%s: %d lines left out, as %s.", self._name, self._left_out, self._fault)
            self._left_out = 0
        return rows

    def _sound_rows(self) -> Iterator[bytes]:
        with self._open() as pipe:
            for number, row in enumerate(pipe, start=1):
                row = (row if number > 1 else row.removeprefix(codecs.BOM_UTF8)).replace(b"\r", b"")
                if fault := _fault_of(row):
                    self._fault = f"line {number:,}: {fault}" if not self._left_out else self._fault
                    self._left_out += 1
                else:
                    self._heard_at = time.monotonic()
                    yield row

    def _open(self) -> IO[bytes]:
        """The pipe; standard input by a file of its own, which the interpreter does not wait for at its end."""
        path = self._settings.train_pipe
        try:
            return open(0, "rb", closefd=False) if path == "-" else open(path, "rb")
        except OSError as error:
            raise UserError(f"{self._name}: {error.strerror}; mkfifo makes a named pipe.") from error

    def _publish(self, rows: Sequence[bytes]) -> None:
        """Gives the readers one more file."""
        self._make_room()
        self._write(self._files.path(self._next), b"".join(rows))
        self._next += 1

    def _write(self, path: Path, content: bytes) -> None:
        while True:
            try:
                return durable_files.replace(path, content)
            except OSError as error:  # readers wait, and whoever makes room lets them go on
                logging.error("%s: %s; trying again.", path, error.strerror)
                if self._closed.wait(_TOLD_SECONDS):
                    return None

    def _make_room(self) -> None:
        """Waits until not too many files wait for the readers, and deletes those that no checkpoint needs."""
        while self._next - self._reached() > _FILES_AHEAD:
            if self._closed.wait(_LOOK_SECONDS):
                return
        checkpoints = self._checkpoints()
        if checkpoints:
            self._needed = min(map(self._block_begins, checkpoints[0]))
        for path in Path(self._files.directory).glob("*.tsv"):
            if 0 < int(path.stem) < self._needed // self._files.lines:
                path.unlink()

    def _reached(self) -> int:
        """The number of the file to which the farthest reader has come; -1 before the first reads."""
        notes = Path(self._files.directory).glob(f"{_READER}*")
        return max((int(note.read_bytes() or b"-1") for note in notes), default=-1)

    def _watch(self) -> None:
        """Says it, every ten seconds, when training waits for the pipe."""
        while not (self._closed.wait(_TOLD_SECONDS) or self._has_ended):
            silent_seconds = time.monotonic() - self._heard_at
            if silent_seconds >= _TOLD_SECONDS and self.is_awaited:
                logging.warning("%s has brought no pair for %.0f s; training waits.", self._name, silent_seconds)


def _fault_of(row: bytes) -> str | None:
    """What is wrong with a line of the pipe, its end included."""
    if not row.endswith(LINE_END):
        return "it has no end, and its producer may have died in the middle of it"
    if b"\t" not in row:
        return "there is no tab; every line needs a source and a target column"
    if b"\0" in row:
        return "there is a NUL character"
    try:
        row.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"byte 0x{row[error.start]:02x} is not UTF-8"
    return None
