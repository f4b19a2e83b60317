"""The ranks of a Horovod job as processes of this machine, with no more than the loopback between them."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from tfnmt.cluster.addresses import LOOPBACK
from tfnmt.cluster.launched import require_horovod
from tfnmt.cluster.supervisor import Task

RANK = "rank"


def rank_tasks(command: Sequence[str], size: int, logs: Path) -> list[Task]:
    """`size` ranks, rank 0 last and on this terminal, and a server beside them through which they find each other.

    Raises:
      UserError: Horovod is missing or does not fit.
    """
    require_horovod()
    port = _start_rendezvous(size)
    return [
        Task(
            RANK,
            rank,
            tuple(command),
            logs / f"{RANK}-{rank}.log" if rank else None,
            leads=rank == 0,
            environment=_environment(rank, size, port),
        )
        for rank in reversed(range(size))
    ]


def _start_rendezvous(size: int) -> int:
    """Horovod's own server, at a free port which it returns; it serves until the process ends."""
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    server = RendezvousHTTPServer((LOOPBACK, 0), RendezvousHandler, verbose=0)
    server.init(get_host_assignments(parse_hosts(f"localhost:{size}"), size))
    threading.Thread(target=server.serve_forever, name="rendezvous", daemon=True).start()
    return server.server_address[1]


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment that horovodrun would give a rank."""
    facts = {
        "HOSTNAME": "localhost",
        "RANK": rank,
        "SIZE": size,
        "LOCAL_RANK": rank,
        "LOCAL_SIZE": size,
        "CROSS_RANK": 0,
        "CROSS_SIZE": 1,
        "GLOO_RENDEZVOUS_ADDR": LOOPBACK,
        "GLOO_RENDEZVOUS_PORT": port,
        "GLOO_IFACE": "lo",
        "CONTROLLER": "gloo",
        "CPU_OPERATIONS": "gloo",
    }
    return {**os.environ, **{f"HOROVOD_{name}": str(value) for name, value in facts.items()}}
