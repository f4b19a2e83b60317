"""A training on hosts of this machine, whose workers get their share of a core once they train."""

import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

from tfnmt.errors import UserError
from tools.hosts import Hosts, cluster_commands, rank_command
from tools.runs import records

_START_SECONDS = 180.0
_FIRST_PUSHES = 2  # of each worker, that do not count: behind the start, and once more behind the limits
_LOOK_SECONDS = 0.5


def host_count(workers: int, servers: int) -> int:
    """Hosts of a cluster, whose chief has one of its own, or of so many ranks."""
    return workers + (1 + servers if servers else 0)


class HostRun:
    """A training from its start on; it ends by itself, or with its hosts.

    The workers have the last hosts. What they do before the limits, building graphs above all, takes a whole core.

    Attributes:
      directory: of the run.
      hosts: on which it is.
    """

    def __init__(
        self,
        hosts: Hosts,
        workers: int,
        servers: int,
        words: Sequence[str],
        directory: pathlib.Path,
        log: pathlib.Path,
    ):
        """Starts all its tasks.

        Args:
          hosts: as many as `host_count` says.
          workers: how many.
          servers: parameter servers; 0 for ranks or, with one worker, a process alone.
          words: flags of tfnmt-train.
          directory: for the run, which must not exist, and a stand-in for ssh.
          log: what its tasks print.
        """
        self.directory, self._log = directory / "run", log
        self.hosts, self._workers = hosts, range(len(hosts.addresses) - workers, len(hosts.addresses))
        words = [*words, f"--run_directory={self.directory}", "--threads=1"]
        training = [str(pathlib.Path(sys.executable).with_name("tfnmt-train")), *words]
        if servers:
            commands = cluster_commands(hosts, servers, words)
        elif workers > 1:
            commands = [rank_command(hosts, training, directory)]
        else:
            commands = [hosts.command(0, training)]
        log.write_text("")
        self._commands, self._tasks = commands, [self._start(command) for command in commands]

    def limit(self, cores: Sequence[float]) -> None:
        """Gives each worker so much of a core, once all of them have pushed, and waits until they have pushed anew.

        Raises:
          UserError: as `wait` does.
        """
        pushes = _FIRST_PUSHES * len(self._workers)
        self.wait(pushes)
        for host, share in zip(self._workers, cores, strict=True):
            self.hosts.limit(host, share)
        self.wait(sum(self.pushes()) + pushes)

    def host(self, worker: int) -> int:
        """The host of a worker of a cluster."""
        return self._workers[worker]

    def restart(self, worker: int) -> None:
        """Starts the task of a worker of a cluster that has ended."""
        host = self.host(worker)
        self._tasks[host].wait()
        self._tasks[host] = self._start(self._commands[host])

    def wait(self, pushes: int) -> None:
        """Returns once there are so many pushes, of all workers.

        Raises:
          UserError: no further one comes.
        """
        limit, found = time.monotonic() + _START_SECONDS, self.pushes()
        while sum(found) < pushes:
            if time.monotonic() > limit or self.has_ended():
                raise UserError(f"{self._log}: a task ended, or no update came for {_START_SECONDS:g} s; look there.")
            time.sleep(_LOOK_SECONDS)
            before, found = len(found), self.pushes()
            if len(found) > before:
                limit = time.monotonic() + _START_SECONDS

    def has_ended(self) -> bool:
        """Whether one of its tasks has, whatever for."""
        return any(task.poll() is not None for task in self._tasks)

    def _start(self, command: Sequence[str]) -> subprocess.Popen:
        with self._log.open("a") as output:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def pushes(self) -> list[int]:
        """Of each log point so far."""
        return [record["pushes"] for record in self.records("training")]

    def records(self, kind: str) -> list[dict]:
        """What the run's metrics hold of one kind so far."""
        return records(self.directory, kind) if (self.directory / "metrics.jsonl").exists() else []
