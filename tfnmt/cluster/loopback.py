"""Keeps TensorFlow's servers to this machine where their addresses say so.

They listen on every interface, whatever the cluster specification says, and authenticate nobody. But a listening socket
can be bound to one interface afterwards: then the kernel turns away whoever comes through another one.
"""

import contextlib
import functools
import os
import socket
from collections.abc import Iterator

from absl import logging

from tfnmt.cluster.addresses import is_local

_INTERFACE = b"lo"


def keep_to_address(address: str) -> None:
    """Binds the server that listens at `address`, in this process, to the loopback if that is where the address is.

    It needs no privilege (Linux 5.7). When it does not work, or other machines are to come in, a line in the log says
    once that they can.
    """
    if not is_local(address) or not _bind_to_loopback(int(address.rpartition(":")[2])):
        _say_open()


def _bind_to_loopback(port: int) -> bool:
    """Whether a socket of this process listens on the port and now does so on the loopback only."""
    is_bound = False
    with contextlib.suppress(OSError):  # a system without /proc, a kernel that refuses
        for own in _sockets():
            with own:
                if own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and own.getsockname()[1:2] == (port,):
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _INTERFACE)
                    is_bound = True
    return is_bound


def _sockets() -> Iterator[socket.socket]:
    """Every socket of this process, under a descriptor of its own, which the caller closes."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                yield socket.socket(fileno=os.dup(int(descriptor)))


@functools.cache
def _say_open() -> None:
    logging.warning(
        "TensorFlow's servers listen on every interface of this machine and authenticate nobody: run them only where "
        "every peer is trusted."
    )
