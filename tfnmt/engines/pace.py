"""Who may go on, and in which order payloads are taken: what a row's slack means, in every engine."""

from collections.abc import Sequence

from tfnmt.engines.worker import Push


class Pace:
    """Keeps the fastest worker within the slack of the slowest and, behind a barrier, the pushes in rank order.

    Rank order makes the sum of a round the same number whoever comes first.
    """

    def __init__(self, workers: int, slack: int | None):
        """All workers begin together."""
        self._slack = slack
        self._arrived = [0] * workers  # pushes of each worker that have come
        self._absorbed = [0] * workers  # and that have been let through
        self._waiting: dict[int, Push] = {}
        self._next = 0

    def may_begin(self, worker: int) -> bool:
        """Whether the worker may begin the block behind its last push."""
        return self._slack is None or self._arrived[worker] - min(self._absorbed) <= self._slack

    def arrive(self, push: Push) -> Sequence[Push]:
        """The pushes that are to be absorbed now that this one has come, in order."""
        self._arrived[push.worker] += 1
        if self._slack != 0:
            self._absorbed[push.worker] += 1
            return [push]
        self._waiting[push.worker] = push
        ready = []
        while self._next in self._waiting:
            ready.append(self._waiting.pop(self._next))
            self._absorbed[self._next] += 1
            self._next = (self._next + 1) % len(self._absorbed)
        return ready
