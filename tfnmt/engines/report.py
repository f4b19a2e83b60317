"""What every engine says about each server update."""

from typing import NamedTuple


class BlockReport(NamedTuple):
    """One server update in plain Python numbers, summed over the workers whose payloads it took.

    Sums travel with their counts, so that whoever reads a run of reports divides once.
    """

    update: int  # server updates so far, this one included; a skipped one does not count
    epoch: int  # the reader's epoch, from 0
    loss: float  # nats: label-smoothed cross entropy, summed over the target tokens
    cross_entropy: float  # nats: cross entropy against the reference, summed over the target tokens
    target_tokens: int  # padding excluded
    source_tokens: int  # padding excluded
    positions: int  # source and target positions computed, padding included
    sentences: int  # sentence pairs
    gradient_norm: float  # L2 norm of the gradient per target token, before clipping
    learning_rate: float  # of this update
    seconds: float  # wall time since the last report, data wait included, evaluation and saving excluded
    data_wait_seconds: float  # the part of `seconds` spent waiting for batches
    skipped: str | None = None  # why the update was not applied: the step and the first bad parameter
