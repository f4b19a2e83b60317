"""How the chief finds the others: it waits for every task, with a deadline, and says for whom."""

import time
from collections.abc import Callable

from tfnmt.cluster.addresses import Cluster
from tfnmt.cluster.probes import answers, is_listening
from tfnmt.cluster.waits import Wait
from tfnmt.errors import LostError, refuse

_LOOK_SECONDS = 0.2


def wait_for_tasks(
    cluster: Cluster,
    command_of: Callable[[str, int], str],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns once TensorFlow's server of every worker and parameter server answers.

    `command_of` gives the command that starts the task of a job and a number.

    Raises:
      UserError: somebody is missing; it names each with the command that starts it.
      LostError: all have been started, but not all answer.
    """
    missing = cluster.tasks()
    wait = Wait(lambda: ", ".join(f"{job} {number} at {address}" for job, number, address in missing), clock)
    while missing := [task for task in missing if not answers(task[2])]:
        if wait.is_over(cluster.rendezvous_timeout):
            limit = f"for {wait.seconds:.0f} s (--rendezvous_timeout={cluster.rendezvous_timeout:g})"
            absent = [task for task in missing if not is_listening(task[2])]
            refuse(
                [
                    f"{job} {number} at {address} has not come {limit}. Start it there with: {command_of(job, number)}"
                    for job, number, address in absent
                ]
            )
            raise LostError(
                *(
                    f"{job} {number} at {address} accepts connections but has not answered {limit}. It is stopped, or "
                    "another program has its port; look at its log, and start training again."
                    for job, number, address in missing
                )
            )
        time.sleep(_LOOK_SECONDS)
