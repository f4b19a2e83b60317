"""Tells of ranks that do not come, and ends a rank that has waited too long for them.

Horovod says nothing while it waits, and Gloo ends the process with a stack trace when its own timeout is over.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping

from absl import logging

from tfnmt.cluster.launched import Launched
from tfnmt.cluster.waits import Wait, warn
from tfnmt.errors import LostError

_LOOK_SECONDS = 0.5
_EARLIER_SECONDS = 5.0
_GLOO_TIMEOUT = "HOROVOD_GLOO_TIMEOUT_SECONDS"
_SPEAKERS = 2  # of the ranks: when rank 0 does not come, rank 1 says so


@contextlib.contextmanager
def awaiting_others(own: Launched | None, stall_timeout: float) -> Iterator[None]:
    """Watches the wait inside; the process ends with `LostError.exit_code` at the timeout, or a little before Gloo's.

    Args:
      own: what the launcher says of this rank; None where nobody knows, or numbers change.
      stall_timeout: seconds; infinite for Gloo's alone.
    """
    met, limit = threading.Event(), limit_seconds(stall_timeout)
    threading.Thread(target=_watch, args=(met, own, limit), name="meeting", daemon=True).start()
    try:
        yield
    finally:
        met.set()


def limit_seconds(stall_timeout: float, environment: Mapping[str, str] = os.environ) -> float:
    """Seconds after which a rank waits no longer: the timeout or, if that comes first, a little before Gloo's own."""
    if _GLOO_TIMEOUT not in environment:
        return stall_timeout
    return min(stall_timeout, float(environment[_GLOO_TIMEOUT]) - _EARLIER_SECONDS)


def _watch(met: threading.Event, own: Launched | None, limit: float) -> None:
    speaks = own is None or own.rank < _SPEAKERS
    wait = Wait(lambda: "the other ranks", say=warn if speaks else lambda text: None)
    while not met.wait(_LOOK_SECONDS):
        if wait.is_over(limit):
            logging.error("%s", _complaint(own, wait.seconds))
            sys.stderr.flush()
            os._exit(LostError.exit_code)


def _complaint(own: Launched | None, waited: float) -> str:
    who = f"Rank {own.rank} of {own.size}" if own else "This rank"
    return (
        f"{who} has waited {waited:.0f} s for the others, and not all came (--stall_timeout, or {_GLOO_TIMEOUT}); "
        "training ends. Look at the logs of the others, and whether their hosts reach each other; start all ranks "
        "again, and training goes on from the newest checkpoint."
    )
