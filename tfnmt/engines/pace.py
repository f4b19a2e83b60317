"""Who may go on, and in which order payloads are taken: what a row's slack means, in every engine."""

from collections.abc import Sequence

from tfnmt.engines.worker import Push


class Pace:
    """Keeps the fastest worker within the slack of the slowest and, behind a barrier, the pushes in rank order.

    Rank order makes the sum of a round the same number whoever comes first.

    Attributes:
      payloads: of one worker that may be on the servers at once, each in an outbox of its own.
    """

    def __init__(self, workers: int, slack: int | None):
        """All workers begin together."""
        self.payloads = payloads_at_once(workers, slack)
        self._slack = slack
        self._pushed = [0] * workers  # of each worker
        self._absorbed = [0] * workers
        self._waiting: dict[int, Push] = {}
        self._next = 0

    def pushed(self, worker: int) -> int:
        """How many pushes of the worker have come."""
        return self._pushed[worker]

    def unabsorbed(self, worker: int) -> int:
        """How many of them the servers have yet to absorb."""
        return self._pushed[worker] - self._absorbed[worker]

    def may_begin(self, worker: int) -> bool:
        """Whether the worker may begin the block behind its last push.

        With that block it will be one push further. It never waits for others to absorb more than the slack demands,
        but for a place to put its payload.
        """
        if self.unabsorbed(worker) >= self.payloads:
            return False
        return self._slack is None or self._pushed[worker] - min(self._absorbed) < max(self._slack, 1)

    def arrive(self, push: Push) -> Sequence[Push]:
        """The pushes that are to be absorbed now that this one has come, in order."""
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
    """How many payloads of one worker may be on the servers.

    Two let a worker compute a block while its last push waits behind those of others. A worker alone waits for nobody
    but itself: it pulls what it has pushed, and is plain training.
    """
    return 1 if workers == 1 or slack in (0, 1) else 2
