"""The connections of this process that lead to one address: they are found, watched and ended, and no others."""

import contextlib
import socket

import pytest

from tfnmt.cluster.connections import disconnect, watch_host


@pytest.fixture(name="ends")
def _ends():
    """A connection to each of two addresses, the first on a socket of the sixth version, as those of gRPC are."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        first, second = (server.getsockname()[1] for server in servers)
        family, host = (
            (socket.AF_INET6, "::ffff:127.0.0.1") if socket.has_dualstack_ipv6() else (socket.AF_INET, "127.0.0.1")
        )
        mapped = stack.enter_context(socket.socket(family))
        mapped.connect((host, first))
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", second)))
        accepted = [stack.enter_context(server.accept()[0]) for server in servers]
        yield first, mapped, plain, accepted


def is_watched(connection):
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_host_is_watched_behind_the_connections_to_it(ends, host):
    first, mapped, plain, _ = ends
    watch_host(f"{host}:{first}")
    assert is_watched(mapped) and mapped.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert not is_watched(plain)


def test_connections_to_an_address_end_and_no_others(ends):
    first, mapped, plain, accepted = ends
    disconnect(f"127.0.0.1:{first}")
    assert mapped.recv(1) == b"" and accepted[0].recv(1) == b""
    plain.sendall(b".")
    assert accepted[1].recv(1) == b"."


def test_a_name_that_nobody_knows_leads_nowhere(ends):
    disconnect("no-such-host.invalid:1")
    _, _, plain, accepted = ends
    plain.sendall(b".")
    assert accepted[1].recv(1) == b"."
