"""The report of a server update, which every engine yields to the trainer."""

from typing import NamedTuple


class Waits(NamedTuple):
    """Seconds for which a worker stood still between its last push and this one."""

    others: float = 0.0  # at a barrier, or held by slack
    servers: float = 0.0  # until what it had pushed was absorbed


class PushReport(NamedTuple):
    """One payload that reached the servers, whether they took it or not.

    Its durations are parts of `seconds`, as far as an engine can tell them apart, but that a push may queue at the
    servers while its worker goes on: only over many pushes do they come to no more than the whole.
    """

    worker: int
    staleness: int  # server updates between the worker's last pull and this push
    target_tokens: int  # of the payload's steps
    seconds: float  # since the worker's last push
    wait_seconds: float  # the part of `seconds` in which the worker waited for others, at a barrier or held by slack
    bytes_pulled: int  # since the worker's last push
    bytes_pushed: int
    skipped_steps: int = 0  # local updates left out because their gradient was not finite
    compute_seconds: float = 0.0  # in steps
    data_wait_seconds: float = 0.0  # in steps, until a batch was there
    pull_seconds: float = 0.0  # until what was pulled was there
    push_seconds: float = 0.0  # until the payload was at the servers, or reduced among ranks
    server_seconds: float = 0.0  # in which the worker stood still until the servers had absorbed what was there
    refused: str | None = None  # why the servers did not take it: a duplicate, too stale, or the first bad parameter
    dropped: bool = False  # whether they refused it because it was too stale


class BlockReport(NamedTuple):
    """One server update in plain Python numbers, sums over its payloads.

    Sums stand beside their counts: a reader of many reports adds up both and divides once, and never averages averages.
    """

    update: int  # server updates so far, this one included; a skipped one does not count
    epoch: int  # the reader's epoch, from 0
    loss: float  # nats: label-smoothed cross entropy, summed over the target tokens
    cross_entropy: float  # nats: cross entropy against the reference, summed over the target tokens
    target_tokens: int  # padding excluded
    source_tokens: int  # padding excluded
    positions: int  # source and target positions that were computed, padding included
    sentences: int  # sentence pairs
    gradient_norm: float  # L2 norm of the gradient per target token, or of the mean delta, before clipping
    learning_rate: float  # of this update
    seconds: float  # wall time since the last report, data wait included, evaluation and saving excluded
    data_wait_seconds: float  # the part of `seconds` spent waiting for batches, the mean over the workers
    skipped: str | None = None  # why the update was not applied: the step and the first bad parameter
    momentum_norm: float | None = None  # L2 norm of the momentum that the servers carry on; None where they carry none
    noise_scale_tokens: float | None = None  # a moving average; None where it is not measured or not known yet
    pushes: tuple[PushReport, ...] = ()  # all that reached the servers since the last report
    is_virtual: bool = False  # whether its seconds are of a virtual clock

    def with_more_pushed(self, more_bytes: int) -> "BlockReport":
        """The report of an update for which each worker has sent so many bytes more."""
        pushes = (push._replace(bytes_pushed=push.bytes_pushed + more_bytes) for push in self.pushes)
        return self._replace(pushes=tuple(pushes))
