"""A process that watches the stall watch.

TensorFlow makes every new graph function known to all tasks of a cluster, and waits for their answers with Python's
global lock held: a task that is silent at that moment stops every thread of the chief. Only another process can then
say so. It hears from the chief twice a second, and imports no TensorFlow.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from tfnmt.cluster.addresses import WORKER, Cluster
from tfnmt.cluster.probes import answers
from tfnmt.cluster.waits import Wait

CHIEF_ITSELF = -1
"""In place of a worker's number: the chief reads or makes variables of other tasks."""


class StallGuard:
    """The guard's process, as the chief sees it, while it is entered."""

    def __init__(self, cluster: Cluster):
        facts = {"tasks": cluster.tasks(), "timeout": cluster.stall_timeout, "chief": os.getpid()}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(facts)],
            stdin=subprocess.PIPE,
            bufsize=0,
            stderr=sys.stderr,  # which need not be file descriptor 2
            start_new_session=True,
        )

    def reassure(self) -> None:
        """Tells the guard that the chief's threads are alive."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # without a guard, training goes on
            self._process.stdin.write(b".")

    def __enter__(self) -> "StallGuard":
        """The guard itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process, which ends with its standard input."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def silent_tasks(tasks: Sequence[tuple[str, int, str]]) -> str:
    """The names of those that do not answer, with commas; empty when all do."""
    return ", ".join(f"{job} {number} at {address}" for job, number, address in tasks if not answers(address))


def culprit(cluster: Cluster, worker: int) -> str:
    """The tasks that are silent or, when none is, the worker whose block takes so long."""
    if silent := silent_tasks(cluster.tasks()):
        return silent
    if worker == CHIEF_ITSELF:
        return "the chief, which reads the others' variables,"
    return f"{WORKER} {worker} at {cluster.workers[worker]}"


def guard(tasks: Sequence[tuple[str, int, str]], timeout: float, chief: int) -> None:
    """Listens on standard input until it ends; kills the chief when nothing comes for too long."""

    def who() -> str:
        return silent_tasks(tasks) or "the chief"

    wait = Wait(who, say=lambda text: _say(f"warning: {text}"))
    while True:
        ready, _, _ = select.select([0], [], [], 1.0)
        if ready:
            if not os.read(0, 4096):
                return
            wait.restart()
        elif wait.is_over(timeout):
            _say(f"error: {who()} has not answered for {wait.seconds:.0f} s (--stall_timeout={timeout:g}).")
            _say("error: Training ends; start it again, and it goes on from the newest checkpoint.")
            os.kill(chief, signal.SIGKILL)
            return


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    guard(**json.loads(sys.argv[1]))
