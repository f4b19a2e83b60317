"""One batch as parts that are computed side by side, a core each.

Operations that share the cores wait for their slowest part, and small ones use a single core while the others stand
still. Parts of a batch have nothing to wait for before their gradients are added up.
"""

import tensorflow as tf

from graphs.forward_backward import Loss
from tfnmt.batch import Batch, part_of
from tfnmt.models.base import LossSums, Views


def in_streams(loss: Loss, streams: int) -> Loss:
    """The same loss of the same batch, as a sum over so many parts that do not depend on each other.

    Each part has a seed of its own, so dropout depends on how many there are.
    """
    if streams == 1:
        return loss

    def compute(views: Views, batch: Batch, seed: tf.Tensor | None) -> LossSums:
        parts = []
        for number in range(streams):
            own_seed = None if seed is None else tf.random.experimental.stateless_fold_in(seed, number)
            parts.append(loss(views, part_of(batch, number, streams), own_seed))
        return LossSums(*(tf.add_n(sums) for sums in zip(*parts)))

    return compute
