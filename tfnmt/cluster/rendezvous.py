"""How the chief finds the others: it waits for every task, with a deadline, and says for whom."""

import time
from collections.abc import Callable

from absl import logging

from tfnmt.cluster.addresses import Cluster
from tfnmt.cluster.probes import is_listening
from tfnmt.errors import refuse

_TOLD_SECONDS = 10.0
_LOOK_SECONDS = 0.2


def wait_for_tasks(
    cluster: Cluster,
    command_of: Callable[[str, int], str],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns once every worker and parameter server accepts connections.

    Args:
      cluster: who is where.
      command_of: (job, task) -> the command that starts it.
      clock: tells the time.

    Raises:
      UserError: somebody is missing; it names each with the command that starts it.
    """
    began, told = clock(), 0.0
    missing = cluster.tasks()
    while missing:
        missing = [task for task in missing if not is_listening(task[2])]
        waited = clock() - began
        if missing and waited >= cluster.rendezvous_timeout:
            refuse(
                [
                    f"{job} {number} at {address} did not answer within {waited:.0f} s (--rendezvous_timeout). "
                    f"Start it there with: {command_of(job, number)}"
                    for job, number, address in missing
                ]
            )
        if missing and waited - told >= _TOLD_SECONDS:
            told = waited
            names = ", ".join(f"{job} {number} ({address})" for job, number, address in missing)
            logging.warning("Waiting for %s for %.0f s.", names, waited)
        if missing:
            time.sleep(_LOOK_SECONDS)
