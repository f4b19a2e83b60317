"""What a worker or parameter server refuses."""

import socket

import pytest

from tfnmt.cluster.addresses import Cluster
from tfnmt.cluster.tasks import start_server
from tfnmt.errors import UserError


@pytest.mark.parametrize("job", ["worker", "ps"])
def test_port_in_use_is_refused_with_the_flag(job):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        cluster = Cluster("127.0.0.1:1", (f"127.0.0.1:{port}",), (f"127.0.0.1:{port}",), job, 0)
        message = rf"{job} 0: port {port} of this machine is in use; give another in --{job}_hosts\."
        with pytest.raises(UserError, match=message):
            start_server(cluster, job, 0)
