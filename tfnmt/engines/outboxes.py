"""The variables on the servers into which a worker puts its payloads."""

import itertools

import tensorflow as tf

from graphs.encodings import Encoding, slot_encoding
from graphs.fragments import Fragment
from graphs.reduce_average import ServerVariables
from graphs.table_rows import ID, new_text
from tfnmt.strategies import Strategy


def new_outbox(
    server: ServerVariables, strategy: Strategy, encoding: Encoding, parameters: tf.DType
) -> list[tf.Variable]:
    """Variables for one worker's payloads in an encoding, a part of each vector's fragment on each server.

    Behind them, where staleness is compensated, there are variables for what the worker had pulled.
    """
    outbox = []
    of_slots = [slot_encoding(encoding)] * len(strategy.averaged_slots)
    shards = server.of(Fragment(0, strategy.fragments)).shards
    for of_vector, (number, shard) in itertools.product([encoding, *of_slots], enumerate(shards)):
        with tf.device(shard.device):
            size, tables = shard.parameters.shape[0], server.tables
            length = tables[number].length(size, 0) if tables else of_vector.length(size, parameters)
            empty = tf.zeros([length], of_vector.dtype(parameters))
            outbox.append(tf.Variable(empty, trainable=False, name="payload"))
    outbox += [shard.copy() for shard in server.shards if strategy.staleness.compensation]
    return outbox + _new_texts(server, parameters)


def _new_texts(server: ServerVariables, parameters: tf.DType) -> list[tf.Variable]:
    """For one worker, on each server, the rows that it pushes and for which it asks; none where all travel."""
    texts = []
    for name, dtype in (("rows", parameters), ("asked", ID)):
        for shard, table in zip(server.shards, server.tables):
            with tf.device(shard.device):
                texts.append(new_text(tf.zeros([0, table.width] if name == "rows" else [0], dtype), name))
    return texts
