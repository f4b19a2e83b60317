"""Rows of a table that is only looked up: a batch reads a few of them, and only these travel, by their numbers.

A worker knows its next batches before it pulls, asks each server for the rows that they read, and pushes the rows of
its gradient to those who have asked for them: sparse variables of a parameter server (Kim et al., "Parallax", 2019).
Departure: on both sides what comes is made dense again, with zeros in the rows that did not travel. So servers add up,
clip and move as they do for whole payloads, bit for bit, and an optimizer moves rows that nobody has read, too.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfnmt.layout import Layout

ID = tf.int32
"""The type in which the numbers of rows travel."""


@dataclasses.dataclass(frozen=True)
class TableRows:
    """The rows of the table that are whole in one server's part [size] of a vector; everything else always travels.

    >>> rows = TableRows(start=1, first=2, count=3, width=2)
    >>> places = rows.places(tf.constant([4, 0, 2]))
    >>> travelling = rows.take(tf.range(9), places)
    >>> [each.numpy().tolist() for each in travelling]
    [[0, 7, 8], [[5, 6], [1, 2]]]
    >>> tf.concat(rows.put(*travelling, places), axis=0).numpy().tolist()
    [0, 1, 2, 0, 0, 5, 6, 7, 8]

    Attributes:
      start: the element of the part with which they begin.
      first: the number of the first of them in the table.
      count: how many there are.
      width: numbers of a row.
    """

    start: int
    first: int
    count: int
    width: int

    def places(self, ids: tf.Tensor) -> tf.Tensor:
        """Which of these rows [R'] are among those of different numbers `ids` [R]: counted from the first of them."""
        places = ids - self.first
        return tf.boolean_mask(places, (places >= 0) & (places < self.count))

    def take(self, part: tf.Tensor, places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What travels of a server's part: all but these rows, and those at `places`, [R', width]."""
        behind = self.start + self.count * self.width
        rows = tf.gather(tf.reshape(part[self.start : behind], [self.count, self.width]), places)
        return tf.concat([part[: self.start], part[behind:]], axis=0), rows

    def put(self, others: tf.Tensor, rows: tf.Tensor, places: tf.Tensor) -> list[tf.Tensor]:
        """The part again, in pieces to be joined; a row that did not travel is zero."""
        # No addition, which would make a positive zero of a negative one.
        table = tf.tensor_scatter_nd_update(tf.zeros([self.count, self.width], rows.dtype), places[:, tf.newaxis], rows)
        return [others[: self.start], tf.reshape(table, [-1]), others[self.start :]]

    def length(self, size: int, rows: int) -> int:
        """How many numbers travel of a part [size] with so many of its rows."""
        return size - (self.count - rows) * self.width


def rows_of_shards(layout: Layout) -> tuple[TableRows, ...]:
    """The rows of the table that is only looked up in each shard; none where there is no such table.

    A row that two shards share is whole in neither, so that both parts of it always travel.

    >>> from tfnmt.layout import Parameter
    >>> table = Parameter("table", (7, 5), None, looked_up=True)
    >>> rows_of_shards(Layout([Parameter("first", (3,), None), table], shards=2))
    (TableRows(start=16, first=0, count=3, width=5), TableRows(start=4, first=4, count=3, width=5))
    """
    found = []
    for table, begin in zip(layout.parameters, layout.offsets):
        if table.looked_up:
            count, width = table.shape
            size = layout.size // layout.shards
            for shard in range(layout.shards):
                first = min(max(-(-(shard * size - begin) // width), 0), count)
                behind = max(min(((shard + 1) * size - begin) // width, count), first)
                start = begin + first * width - shard * size if behind > first else 0
                found.append(TableRows(start, first, behind - first, width))
    return tuple(found)


def moved_bytes(
    tables: Sequence[TableRows], rows: Sequence[int], size: int, dtype: tf.DType
) -> tuple[list[int], list[int]]:
    """Bytes that a worker pulls from each server's part [size], and brings there, for one block.

    The numbers of the rows go to the server, too: a worker asks by them.

    >>> moved_bytes([TableRows(start=0, first=0, count=20, width=4)], rows=[3], size=100, dtype=tf.float32)
    ([128], [140])
    """
    pulled = [table.length(size, number) * dtype.size for table, number in zip(tables, rows)]
    return pulled, [numbers + number * ID.size for numbers, number in zip(pulled, rows)]


class RowsOutbox(NamedTuple):
    """The last variables of an outbox, one of each kind for each of its servers, where rows travel."""

    rows: Sequence[tf.Variable]  # of the payload
    asked: Sequence[tf.Variable]  # the places for which the worker has asked, since its pull


def rows_of(outbox: Sequence[tf.Variable], servers: int) -> RowsOutbox:
    """What an outbox has for rows on so many servers, 0 where everything travels."""
    first, behind = len(outbox) - 2 * servers, len(outbox) - servers
    return RowsOutbox(outbox[first:behind], outbox[behind:])


def new_text(empty: tf.Tensor, name: str) -> tf.Variable:
    """A variable on the device of the caller for a tensor of any size, of which it holds `empty` first.

    It is a text, for TensorFlow ends a task that is handed another one's variable of unknown shape.
    """
    return tf.Variable(tf.io.serialize_tensor(empty), trainable=False, name=name)


def write(variable: tf.Variable, tensor: tf.Tensor) -> tf.Operation:
    """Gives a text the tensor, on the device of the caller, which should be that of the variable."""
    return variable.assign(tf.io.serialize_tensor(tensor), read_value=False)


def read(variable: tf.Variable, dtype: tf.DType, shape: Sequence[int | None]) -> tf.Tensor:
    """The tensor that a text holds, on the device of the caller, which should be that of the variable."""
    return tf.ensure_shape(tf.io.parse_tensor(variable.read_value(), dtype), shape)


class TableServer(NamedTuple):
    """Of a server what rows of the table need."""

    device: str | None  # None for the caller's
    parameters: tf.Variable  # [size], its part
    table: TableRows


def pull_rows(
    servers: Sequence[TableServer],
    places: Sequence[tf.Tensor],
    asked: Sequence[tf.Variable],
    pulled: Sequence[tf.Variable] = (),
) -> tf.Tensor:
    """The server parameters [size] on the device of the caller, with zeros for rows that it does not ask for.

    Args:
      servers: all of them.
      places: of each one's rows, which are asked for.
      asked: on each server, the text that takes their places for the push.
      pulled: on each server, the variable for its whole part of what is pulled; none where nobody asks for that.
    """
    pieces = []
    for number, (server, of_server) in enumerate(zip(servers, places)):
        with tf.device(server.device):
            part = server.parameters.read_value()
            others, rows = server.table.take(part, of_server)
            write(asked[number], of_server)
            if pulled:
                pulled[number].assign(part, read_value=False)
        pieces += server.table.put(others, rows, of_server)
    return tf.concat(pieces, axis=0)


def push_rows(
    servers: Sequence[TableServer], parts: Sequence[tf.Tensor], ids: tf.Tensor, outbox: RowsOutbox
) -> tuple[list[tf.Tensor], list[tf.Operation]]:
    """Sends of each server's part of a payload the rows `ids` [R]; the other numbers, and what sends the rows."""
    others, sent = [], []
    for server, part, text in zip(servers, parts, outbox.rows):
        other, rows = server.table.take(part, server.table.places(ids))
        others.append(other)
        with tf.device(server.device):
            sent.append(write(text, rows))
    return others, sent


def whole_payload(
    servers: Sequence[TableServer], payload: Sequence[tf.Variable], outbox: RowsOutbox
) -> list[tf.Tensor]:
    """The parts of a payload of which some rows have come, each on its server, with zeros in the others."""
    parts = []
    for server, variable, rows, asked in zip(servers, payload, *outbox):
        with tf.device(server.device):
            others = variable.read_value()
            came = read(rows, others.dtype, [None, server.table.width]), read(asked, ID, [None])
            parts.append(tf.concat(server.table.put(others, *came), axis=0))
    return parts
