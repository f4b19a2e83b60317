"""Collective exchanges among ranks: the four calls that everything else is made of, and Horovod's.

Whatever has these calls may take Horovod's place.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import tensorflow as tf

from tfnmt import installation
from tfnmt.errors import UserError


class Transport(NamedTuple):
    """The calls that all ranks make together, within a graph or outside; exchanges under one name follow one another.

    Attributes:
      size: () -> how many ranks there are.
      allreduce: (vector [size], name) -> the sum of all ranks' vectors, of the same bits on all of them.
      allgather: (rows [n, k], name) -> all ranks' rows, behind one another in the order of the ranks.
      broadcast: (tensor, root, name) -> the tensor of the rank `root`; that of each other rank has its type and shape.
    """

    size: Callable[[], int]
    allreduce: Callable[[tf.Tensor, str], tf.Tensor]
    allgather: Callable[[tf.Tensor, str], tf.Tensor]
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


def horovod_transport(hvd: ModuleType) -> Transport:
    """Horovod's collectives, over Gloo, MPI or NCCL."""
    return Transport(
        hvd.size,
        lambda vector, name: hvd.allreduce(vector, op=hvd.Sum, name=name),
        lambda rows, name: hvd.allgather(rows, name=name),
        lambda tensor, root, name: hvd.broadcast(tensor, root, name=name),
    )
