"""Which worker may go on, and in which order the servers take pushes: what `slack` means in every engine."""

from collections.abc import Sequence

from tfnmt.engines.worker import Push


class Pace:
    """Holds workers back that are too far ahead of the slowest, and puts the pushes of a barrier in order.

    Behind a barrier, pushes are taken in the order of the workers' numbers: floating-point sums depend on their order,
    and so a round has the same sum whoever comes first.

    Attributes:
      payloads: how many payloads of one worker may be on the servers at once, each in an outbox of its own.
    """

    def __init__(self, workers: int, slack: int | None):
        """No worker has pushed anything yet."""
        self.payloads = payloads_at_once(workers, slack)
        self._slack = slack
        self._pushed = [0] * workers  # of each worker
        self._absorbed = [0] * workers
        self._waiting: dict[int, Push] = {}
        self._next = 0

    def pushed(self, worker: int) -> int:
        """How many pushes of the worker have arrived."""
        return self._pushed[worker]

    def unabsorbed(self, worker: int) -> int:
        """How many of its pushes have arrived and wait for the servers."""
        return self._pushed[worker] - self._absorbed[worker]

    def may_begin(self, worker: int) -> bool:
        """Whether the worker may begin its next block.

        It needs an outbox whose payload has been absorbed, and the slowest worker must be less than `slack` pushes
        behind: with the push of the block that begins, this worker is one further ahead.
        """
        if self.unabsorbed(worker) >= self.payloads:
            return False
        return self._slack is None or self._pushed[worker] - min(self._absorbed) < max(self._slack, 1)

    def waits_for_others(self, worker: int) -> bool:
        """Whether the worker may not begin its next block before another one has pushed.

        Otherwise it waits for the servers, if it waits at all.
        """
        return self._slack is not None and self._pushed[worker] - min(self._pushed) >= max(self._slack, 1)

    def arrive(self, push: Push) -> Sequence[Push]:
        """Takes in a push that has come; the pushes that the servers are to absorb now, in order."""
        self._pushed[push.worker] += 1
        if self._slack != 0:
            return [push]
        self._waiting[push.worker] = push
        ready = []
        while self._next in self._waiting:
            ready.append(self._waiting.pop(self._next))
            self._next = (self._next + 1) % len(self._pushed)
        return ready

    def absorb(self, push: Push) -> None:
        """The servers have absorbed a push that `arrive` returned."""
        self._absorbed[push.worker] += 1


def payloads_at_once(workers: int, slack: int | None) -> int:
    """How many payloads of one worker may be on the servers at once.

    With two, a worker computes a block while its last push waits behind other workers' pushes. A single worker has one:
    only a worker that pulls behind its own update is plain training.
    """
    return 1 if workers == 1 or slack in (0, 1) else 2
