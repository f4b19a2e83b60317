"""The chief's side of a cluster: it starts the tasks within itself or waits for them, and ends them with itself."""

import contextlib
import dataclasses
from collections.abc import Iterator

from tfnmt.cluster.addresses import Cluster
from tfnmt.cluster.rendezvous import wait_for_tasks
from tfnmt.cluster.supervisor import DISMISSED
from tfnmt.cluster.tasks import end_tasks, start_server


@dataclasses.dataclass
class End:
    """How a job ends."""

    code: int = 0  # the exit code of all tasks


@contextlib.contextmanager
def tasks_of(cluster: Cluster) -> Iterator[End]:
    """While the context lasts, the workers and parameter servers are there.

    Those of an embedded cluster start here and end with the process. The others are waited for, and told at the end
    that they may go: with the code of the `End`, which the chief may set, or with `DISMISSED` when the chief fails.

    Raises:
      UserError: a task did not come.
    """
    end = End()
    if cluster.is_embedded:
        servers = [start_server(cluster, job, task) for job, task, _ in cluster.tasks()]
        yield end
        del servers
        return
    wait_for_tasks(cluster, lambda job, task: command_of(cluster, job, task))
    try:
        yield end
    except BaseException:
        end.code = DISMISSED
        raise
    finally:
        end_tasks(cluster, end.code)


def command_of(cluster: Cluster, job: str, task: int) -> str:
    """The flags that make `tfnmt-train` this task."""
    hosts = {"chief_hosts": [cluster.chief], "worker_hosts": cluster.workers, "ps_hosts": cluster.servers}
    flags = [f"--{name}={','.join(addresses)}" for name, addresses in hosts.items()]
    return " ".join(["tfnmt-train", *flags, f"--job_name={job}", f"--task_index={task}"])
