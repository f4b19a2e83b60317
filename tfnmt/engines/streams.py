"""Streams: parts of one batch that are computed side by side, each on a core of its own.

An operation that is spread over the cores waits for its slowest part, and a small one runs on a single core while the
others idle. Parts of a batch do not wait for each other until their gradients are added up.
"""

import tensorflow as tf

from graphs.forward_backward import Loss
from tfnmt.batch import Batch, part_of
from tfnmt.models.base import LossSums, Views


def in_streams(loss: Loss, streams: int) -> Loss:
    """The loss as a sum over `streams` parts of the batch, which do not depend on each other.

    Each part has a seed of its own, so dropout depends on the number of parts.
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
