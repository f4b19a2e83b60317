"""What a worker or parameter server refuses, and how all of them are told to end."""

import socket
import threading

import pytest

from tfnmt.cluster import tasks
from tfnmt.cluster.addresses import Cluster
from tfnmt.cluster.tasks import end_tasks, start_server
from tfnmt.errors import UserError


@pytest.mark.parametrize("job", ["worker", "ps"])
def test_port_in_use_is_refused_with_the_flag(job):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        cluster = Cluster("127.0.0.1:1", (f"127.0.0.1:{port}",), (f"127.0.0.1:{port}",), job, 0)
        message = rf"{job} 0: port {port} of this machine is in use; give another in --{job}_hosts\."
        with pytest.raises(UserError, match=message):
            start_server(cluster, job, 0)


def test_nobody_waits_for_another_to_be_told_to_end(monkeypatch):
    together, told = threading.Barrier(3), []

    def answers(address):
        told.append(together.wait(timeout=20))
        return False

    monkeypatch.setattr(tasks, "answers", answers)
    end_tasks(Cluster("127.0.0.1:1", ("127.0.0.1:2", "127.0.0.1:3"), ("127.0.0.1:4",)), 0)
    assert len(told) == 3
