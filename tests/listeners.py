"""What this process listens on, for tests."""

import socket

from tfnmt.cluster.loopback import _sockets


def interfaces():
    """The interface of each port on which this process listens; empty for all interfaces."""
    found = {}
    for each in _sockets():
        with each:
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and isinstance(each.getsockname(), tuple):
                device = each.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
                found[each.getsockname()[1]] = device.rstrip(b"\0").decode()
    return found
