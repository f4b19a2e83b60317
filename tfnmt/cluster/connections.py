"""The connections of this process, which TensorFlow made: where they lead, whether a host behind one is still there.

TensorFlow's never end by themselves when a host is gone that says no farewell, and cannot be told to.
"""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator

_GONE_SECONDS = 20
"""For which a host acknowledges nothing before the kernel ends a connection: longer than a link's short faults."""
_PROBE_SECONDS = 4


def own_sockets() -> Iterator[socket.socket]:
    """Every socket of this process, under a descriptor of its own, which the caller closes (Linux)."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                yield socket.socket(fileno=os.dup(int(descriptor)))


def watch_host(address: str) -> None:
    """Has connections to an address end once its host is gone.

    The kernel of a host answers for a process that is stopped, too.
    """
    for connection in _connections_to(address):
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _GONE_SECONDS)


def disconnect(address: str) -> None:
    """Ends the connections to an address: whatever waits for an answer from there fails."""
    for connection in _connections_to(address):
        with connection, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _connections_to(address: str) -> Iterator[socket.socket]:
    """Those of this process, each under a descriptor of its own, which the caller closes."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):  # a name that is not known any more, a system without /proc
        places = {place[:2] for *_, place in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)}
        for own in own_sockets():
            if _peer(own) in places:
                yield own
            else:
                own.close()


def _peer(connection: socket.socket) -> tuple[str, int] | None:
    """Where a connection leads: an address of the fourth version as such, even on a socket of the sixth."""
    try:
        host, port, *_ = connection.getpeername()
        numbers = ipaddress.ip_address(host)
    except (OSError, ValueError):  # it has no peer, or a local one
        return None
    return str(getattr(numbers, "ipv4_mapped", None) or numbers), port
