"""Collective exchanges among ranks: the five calls that everything else is made of, and Horovod's.

Whatever has these calls may take Horovod's place.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import tensorflow as tf

from tfnmt import installation
from tfnmt.errors import UserError


class Transport(NamedTuple):
    """The calls that all ranks make together, within a graph or outside; exchanges under one name follow one another.

    Attributes:
      size: () -> how many ranks there are.
      allreduce: (vector [size], name) -> the sum of all ranks' vectors, of the same bits on all of them.
      allgather: (rows [n, k], name) -> all ranks' rows, behind one another in the order of the ranks.
      alltoall: (rows [n, k], counts int32 [N], name) -> the rows for this rank, behind one another in the order of the
        ranks that gave them, and how many each gave; the first `counts[0]` of the own rows go to rank 0, and so on.
      broadcast: (tensor, root, name) -> the tensor of the rank `root`; that of each other rank has its type and shape.
    """

    size: Callable[[], int]
    allreduce: Callable[[tf.Tensor, str], tf.Tensor]
    allgather: Callable[[tf.Tensor, str], tf.Tensor]
    alltoall: Callable[[tf.Tensor, tf.Tensor, str], tuple[tf.Tensor, tf.Tensor]]
    broadcast: Callable[[tf.Tensor, int, str], tf.Tensor]


def load_horovod() -> ModuleType:
    """Horovod, which not everybody has, once its library has found those that it needs."""
    try:
        import horovod.tensorflow as hvd
    except tf.errors.NotFoundError as error:  # of MPI, say, which somebody has removed
        raise UserError(
            f"--engine=horovod: Horovod does not load: {error.message}. Run: {installation.HOROVOD_COMMAND}"
        ) from error
    return hvd


def horovod_transport(hvd: ModuleType, members: Any = None) -> Transport:
    """Horovod's collectives, over Gloo, MPI or NCCL, among all ranks or the members of one of its process sets.

    A root is a number among all ranks in any case.
    """
    members = members or hvd.global_process_set
    whose = {"ignore_name_scope": True, "process_set": members}

    def allgather(rows: tf.Tensor, name: str) -> tf.Tensor:
        return _from_bits(hvd.allgather(_as_bits(rows), name=name, **whose), rows.dtype)

    def alltoall(rows: tf.Tensor, counts: tf.Tensor, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        found, found_counts = hvd.alltoall(_as_bits(rows), counts, name=name, **whose)
        return _from_bits(found, rows.dtype), found_counts

    return Transport(
        members.size,
        lambda vector, name: hvd.allreduce(vector, op=hvd.Sum, name=name, process_set=members),
        allgather,
        alltoall,
        lambda tensor, root, name: hvd.broadcast(tensor, root, name=name, process_set=members),
    )


def _as_bits(rows: tf.Tensor) -> tf.Tensor:
    """Rows in a type that Horovod carries: bfloat16, which it only adds up, as 16-bit integers of the same bits."""
    return tf.bitcast(rows, tf.int16) if rows.dtype == tf.bfloat16 else rows


def _from_bits(rows: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.bitcast(rows, dtype) if rows.dtype != dtype else rows
