"""Transfers that share links fairly: progressive filling (Bertsekas & Gallager, Data Networks, 1992, section 6.5.2).

All flows grow alike until a link is full; the flows that cross it stay as they are, and the others grow on. Then no
flow can get more without taking from another that has no more itself. Time is what the caller says: there is no clock.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

PULL, PUSH = 0, 1
"""Directions of a transfer: from the servers to a worker, and back. They share no link but the switch."""


def fair_rates(routes: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """The max-min fair rates of flows.

    Three flows share link 2; two of them also share link 0, which holds them to less:

    >>> fair_rates(np.array([[0, 2], [0, 2], [1, 2]]), np.array([4.0, 9.0, 9.0])).tolist()
    [2.0, 2.0, 5.0]

    Args:
      routes: int [F, R], the different links that each flow crosses, one of them of finite capacity.
      capacities: [L], bytes per second of each link.

    Returns:
      [F], bytes per second.
    """
    rates, left = np.zeros(len(routes)), np.array(capacities, np.float64)
    growing = np.full(len(routes), True)
    while growing.any():
        flows = np.bincount(routes[growing].ravel(), minlength=len(left))
        shares = np.divide(left, flows, out=np.full(len(left), math.inf), where=flows > 0)
        share = shares.min()
        # Links that fill up together do so in one round, whatever the last bit of their shares.
        stopping = growing & (shares[routes] <= share * (1 + 1e-12)).any(axis=1)
        rates[stopping] = share
        left -= share * np.bincount(routes[stopping].ravel(), minlength=len(left))
        growing &= ~stopping
    return rates


_FLOW = np.dtype(
    [
        ("transfer", int),  # number of the transfer that it is a part of
        ("route", int, 3),  # links that it crosses
        ("first_byte", float),  # when that is there, in seconds
        ("left", float),  # bytes that are still to come
        ("rate", float),  # bytes per second
        ("end", float),  # when it ends at this rate, in seconds
    ]
)


class Links:
    """The links of a star of workers and servers, and what is on its way over them.

    A transfer has a flow for each server; all are under way at once, and it ends with the last. How fast they are
    changes whenever a flow begins or ends, so the end of a transfer is known only when nothing begins before it.
    """

    def __init__(
        self,
        workers: int,
        servers: int,
        bytes_per_second: float,
        *,
        switch_bytes_per_second: float = 0.0,
        latency_seconds: float = 0.0,
    ):
        """Nothing is under way.

        Args:
          workers: how many.
          servers: how many.
          bytes_per_second: speed of the link of each of them, in each direction.
          switch_bytes_per_second: what all flows together cannot exceed; 0 for no such limit.
          latency_seconds: between the beginning of a transfer and its first byte.
        """
        self._workers, self._servers, self._latency_seconds = workers, servers, latency_seconds
        self._capacities = np.full(2 * (workers + servers) + 1, bytes_per_second, np.float64)
        self._capacities[-1] = switch_bytes_per_second or math.inf
        self._flows = np.zeros(0, _FLOW)
        self._keys: dict[int, Any] = {}  # by the number of the transfer
        self._numbers = itertools.count()
        self._now = 0.0

    def begin(self, now: float, key: Any, worker: int, direction: int, parts: Sequence[float]) -> None:
        """Begins a transfer.

        Args:
          now: seconds, from the last change to `next_change`.
          key: by which `advance` tells of its end.
          worker: at one end of it.
          direction: PULL or PUSH.
          parts: [servers], bytes from or to each server, at least one of them some.
        """
        self._move_to(now)
        number, servers = next(self._numbers), np.flatnonzero(parts)
        first = direction * (self._workers + self._servers)
        flows = np.zeros(len(servers), _FLOW)
        flows["transfer"] = number
        flows["route"][:, 0] = first + worker
        flows["route"][:, 1] = first + self._workers + servers
        flows["route"][:, 2] = len(self._capacities) - 1
        flows["first_byte"] = now + self._latency_seconds
        flows["left"] = np.asarray(parts)[servers]
        self._flows = np.concatenate([self._flows, flows])
        self._keys[number] = key
        self._share()

    def next_change(self) -> float:
        """When the next flow begins or ends if nothing else begins, in seconds; infinity with nothing under way."""
        flows = self._flows
        return float(np.where(self._is_flowing(), flows["end"], flows["first_byte"]).min(initial=math.inf))

    def advance(self) -> list[Any]:
        """Lets time go on to the next change; the transfers that end with it, in the order of their beginnings."""
        now = self.next_change()
        before, ending = self._flows["transfer"], self._is_flowing() & (self._flows["end"] <= now)
        self._move_to(now)
        self._flows = self._flows[~ending]
        self._share()
        return [self._keys.pop(int(number)) for number in np.setdiff1d(before, self._flows["transfer"])]

    def _is_flowing(self) -> np.ndarray:
        """[flows], whether the first byte is there."""
        return self._flows["first_byte"] <= self._now

    def _move_to(self, now: float) -> None:
        # By rounding a flow may have nothing left a moment before its end; then it ends at once.
        self._flows["left"] = np.maximum(self._flows["left"] - self._flows["rate"] * (now - self._now), 0.0)
        self._now = now

    def _share(self) -> None:
        """Gives every flow its rate from now on."""
        flowing = self._is_flowing()
        flows = self._flows[flowing]
        flows["rate"] = fair_rates(flows["route"], self._capacities)
        flows["end"] = self._now + flows["left"] / flows["rate"]
        self._flows[flowing] = flows
