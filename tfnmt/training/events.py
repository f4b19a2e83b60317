"""TensorBoard's event files: its messages, in TensorFlow's record files, under names of our own.

Neither `tf.summary.create_file_writer` nor TensorBoard's `EventFileWriter` serves a run that is resumed. TensorBoard
reads the files of a directory in the order of their names, and both writers name a file by the second of the wall
clock, the process and a count, compared as texts. Of two sessions within one second, or behind a clock that was set
back, the later may come first; then points that a resume took back replace those that took their place. Besides,
TensorFlow's writer has no call for the start of a session, from which TensorBoard knows which points were taken back,
and TensorBoard's writes in a thread, whose stack trace stands on the terminal when the disk is full.
"""

import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.custom_scalar.metadata import create_summary_metadata as custom_scalar_metadata
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from tfnmt.training.log_points import Scalar

FILE_VERSION = "brain.Event:2"


class EventFile:
    """One session's event file in a run's directory of events."""

    def __init__(self, directory: Path | str, update: int):
        """Opens a new file behind those that are there, in a directory that is created when missing.

        Training goes on from `update`: TensorBoard drops the points behind it that an earlier session wrote.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = tf.io.TFRecordWriter(str(directory / _next_name(directory)))
        self._write(Event(file_version=FILE_VERSION))
        self._write(Event(step=update + 1, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def scalars(self, update: int, points: Iterable[Scalar]) -> None:
        """Adds one point to each of these curves."""
        summary = Summary()
        for point in points:
            summary.MergeFrom(scalar_pb(point.tag, point.value, point.meaning or None))
        self._write(Event(step=update, summary=summary))

    def histogram(self, update: int, tag: str, numbers: Sequence[float]) -> None:
        """Adds one column to a histogram; without numbers none."""
        if numbers:
            self._write(Event(step=update, summary=histogram_pb(tag, np.asarray(numbers, np.float64))))

    def text(self, update: int, tag: str, markdown: str) -> None:
        """Adds a text in Markdown."""
        self._write(Event(step=update, summary=text_pb(tag, markdown)))

    def picture(self, update: int, tag: str, png: bytes) -> None:
        """Adds a picture, the content of a PNG file."""
        width, height = struct.unpack(">II", png[16:24])  # of the header chunk, which comes first
        tensor = make_tensor_proto([str(width).encode(), str(height).encode(), png], dtype=tf.string)
        metadata = create_summary_metadata(display_name=None, description=None)
        summary = Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])
        self._write(Event(step=update, summary=summary))

    def hyperparameters(self, run: str, values: Mapping[str, bool | int | float | str]) -> None:
        """Says what the run of that name was made with, for the table of runs."""
        self._write(Event(summary=hparams_pb(dict(values), trial_id=run)))

    def layout(self, categories: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Arranges the page of custom scalars: category -> chart -> patterns of whole tags."""
        layout = Layout(
            category=[
                Category(
                    title=title,
                    chart=[
                        Chart(title=name, multiline=MultilineChartContent(tag=[f"^{tag}$" for tag in tags]))
                        for name, tags in charts.items()
                    ],
                )
                for title, charts in categories.items()
            ]
        )
        tensor = make_tensor_proto(layout.SerializeToString(), dtype=tf.string)
        value = Summary.Value(tag=CONFIG_SUMMARY_TAG, metadata=custom_scalar_metadata(), tensor=tensor)
        self._write(Event(summary=Summary(value=[value])))

    def flush(self) -> None:
        """Brings everything to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())


def _next_name(directory: Path) -> str:
    """A name that sorts behind the others, for TensorBoard reads files in the order of their names."""
    present: Sequence[str] = [path.name.split(".")[3] for path in directory.glob("events.out.tfevents.*")]
    seconds = max([int(time.time()), *(int(stamp) + 1 for stamp in present if stamp.isdigit())])
    return f"events.out.tfevents.{seconds:010d}.tfnmt"
