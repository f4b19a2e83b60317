"""The addresses of a cluster's tasks: those of the flags, those of TF_CONFIG, or free ports of this machine."""

import collections
import dataclasses
import json
import os
import socket
from collections.abc import Mapping

from tfnmt.cluster.stall_watch import StallSettings
from tfnmt.errors import UserError, refuse
from tfnmt.settings import setting

CHIEF, WORKER, SERVER = "chief", "worker", "ps"
JOBS = (CHIEF, WORKER, SERVER)
LOOPBACK = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class ClusterSettings(StallSettings):
    """The workers and parameter servers, and which of the tasks this process is.

    Where only numbers are given, all tasks are inside this process. Where hosts are given, by flags or by TF_CONFIG,
    each task is a process of its own. TensorFlow's servers authenticate nobody and, but for hosts on the loopback,
    listen on every interface: let them do so only where every peer is trusted.
    """

    workers: int = setting(1, "Workers, where no --worker_hosts are given.", minimum=1)
    parameter_servers: int = setting(1, "Parameter servers, where no --ps_hosts are given.", minimum=1)
    chief_hosts: tuple[str, ...] = setting((), "Address of the chief, host:port.", may_change=True)
    worker_hosts: tuple[str, ...] = setting(
        (), "Addresses of the workers, in the order of their numbers.", may_change=True
    )
    ps_hosts: tuple[str, ...] = setting((), "Addresses of the parameter servers, in their order.", may_change=True)
    job_name: str = setting(CHIEF, "What this process is, where hosts are given.", choices=JOBS, may_change=True)
    task_index: int = setting(0, "Which of its job this process is.", minimum=0, may_change=True)
    rendezvous_timeout: float = setting(
        300.0, "Seconds that the tasks of a cluster wait for each other at the start.", minimum=1, may_change=True
    )

    def faults(self) -> list[str]:
        """Hosts that are incomplete or no addresses."""
        hosts = {"chief_hosts": self.chief_hosts, "worker_hosts": self.worker_hosts, "ps_hosts": self.ps_hosts}
        if not any(hosts.values()):
            alone = f"--job_name={self.job_name}: needs --chief_hosts, --worker_hosts and --ps_hosts."
            return [alone] if self.job_name != CHIEF else []
        faults = [f"--{name} is missing: a cluster needs --{', --'.join(hosts)}." for name in hosts if not hosts[name]]
        pairs = [(name, address) for name, addresses in hosts.items() for address in addresses]
        faults += [f"--{name}={address}: must be host:port." for name, address in pairs if not _is_address(address)]
        counts = collections.Counter(address for _, address in pairs)
        repeated = sorted(address for address, count in counts.items() if count > 1)
        faults += [f"{address} is given twice; each task needs an address of its own." for address in repeated]
        if len(self.chief_hosts) > 1:
            faults.append("--chief_hosts must be one address.")
        if not faults and self.task_index >= len(hosts[f"{self.job_name}_hosts"]):
            faults.append(f"--task_index={self.task_index}: --{self.job_name}_hosts has no such task.")
        return faults


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Addresses of all tasks, host:port, and which of the tasks this process is."""

    chief: str  # empty where the chief starts the others within itself
    workers: tuple[str, ...]  # by number
    servers: tuple[str, ...]  # by number
    job: str = CHIEF
    task: int = 0  # the number of this process in its job
    rendezvous_timeout: float = ClusterSettings.rendezvous_timeout  # seconds that the tasks wait for each other
    stall_timeout: float = ClusterSettings.stall_timeout  # seconds without an answer after which training ends

    @property
    def is_embedded(self) -> bool:
        """Whether this process holds all the tasks."""
        return not self.chief

    @property
    def is_on_one_machine(self) -> bool:
        """Whether all tasks are on this machine."""
        return all(map(is_local, filter(None, (self.chief, *self.workers, *self.servers))))

    def specification(self) -> dict[str, list[str]]:
        """TensorFlow's cluster specification."""
        chief = {CHIEF: [self.chief]} if self.chief else {}
        return chief | {WORKER: list(self.workers), SERVER: list(self.servers)}

    def tasks(self) -> list[tuple[str, int, str]]:
        """Every task but the chief: job, number and address."""
        return [
            (job, number, address)
            for job, addresses in ((SERVER, self.servers), (WORKER, self.workers))
            for number, address in enumerate(addresses)
        ]

    def address(self) -> str:
        """The address of this process's own task."""
        return self.specification()[self.job][self.task]


def find_cluster(settings: ClusterSettings, environment: Mapping[str, str] = os.environ) -> Cluster:
    """The cluster of the flags; without hosts that of TF_CONFIG; without that an embedded one on free ports.

    Raises:
      UserError: TF_CONFIG cannot be used.
    """
    if environment.get("TF_CONFIG") and not settings.worker_hosts:
        settings = _with_tf_config(settings, environment["TF_CONFIG"])
    timeouts = (settings.rendezvous_timeout, settings.stall_timeout)
    if settings.worker_hosts:
        (chief,) = settings.chief_hosts
        job, task = settings.job_name, settings.task_index
        return Cluster(chief, settings.worker_hosts, settings.ps_hosts, job, task, *timeouts)
    ports = free_ports(settings.workers + settings.parameter_servers)
    addresses = tuple(f"{LOOPBACK}:{port}" for port in ports)
    return Cluster("", addresses[: settings.workers], addresses[settings.workers :], CHIEF, 0, *timeouts)


def is_distributed(settings: ClusterSettings, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether flags or TF_CONFIG name the tasks of a cluster."""
    return bool(settings.worker_hosts or environment.get("TF_CONFIG"))


def is_local(address: str) -> bool:
    """Whether an address is on this machine's loopback."""
    return address.rpartition(":")[0] in (LOOPBACK, "localhost")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind((LOOPBACK, 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


def _with_tf_config(settings: ClusterSettings, text: str) -> ClusterSettings:
    try:
        config = json.loads(text)
        hosts, task = config["cluster"], config["task"]
        configured = dataclasses.replace(
            settings,
            chief_hosts=(hosts[CHIEF][0],),
            worker_hosts=tuple(hosts[WORKER]),
            ps_hosts=tuple(hosts[SERVER]),
            job_name=task["type"],
            task_index=int(task["index"]),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"TF_CONFIG: {error!r}; it must be JSON: a cluster of chief, worker and ps, and a task with type and index."
        ) from error
    if configured.job_name not in JOBS:
        raise UserError(f"TF_CONFIG: task type {configured.job_name!r} must be one of {', '.join(JOBS)}.")
    refuse([f"TF_CONFIG: {fault}" for fault in configured.faults()])
    return configured


def _is_address(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    return bool(host and colon) and port.isdigit() and 0 < int(port) < 65536
