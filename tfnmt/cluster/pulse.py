"""A process's pulse: a thread that tells whoever connects for how long the process has been computing.

A process that hangs in a computation answers, too, and tells so.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

from tfnmt.cluster.addresses import LOOPBACK
from tfnmt.cluster.probes import ask


class Pulse:
    """The pulse of this process.

    Attributes:
      address: host:port, where others feel it.
    """

    def __init__(self, host: str):
        """Listens on the loopback if `host` is, or else on every interface, whatever the name means on this machine."""
        self._server = socket.create_server((host if host == LOOPBACK else "", 0))
        self.address = f"{host}:{self._server.getsockname()[1]}"
        self._since: float | None = None
        self._longest_seconds = 0.0
        threading.Thread(target=self._answer, name="pulse", daemon=True).start()

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Times what is done inside."""
        since = self._since = time.monotonic()
        try:
            yield
        finally:
            self._longest_seconds = max(self._longest_seconds, time.monotonic() - since)
            self._since = None

    def _answer(self) -> None:
        while True:
            connection, _ = self._server.accept()
            since = self._since
            seconds = time.monotonic() - since if since is not None else 0.0
            with connection, contextlib.suppress(OSError):
                connection.sendall(json.dumps([seconds, self._longest_seconds]).encode())


def feel(address: str) -> tuple[float, float] | None:
    """For how many seconds the process there has been computing, and its longest computation; None for no answer."""
    try:
        seconds, longest = json.loads(ask(address))
    except ValueError:
        return None
    return seconds, longest
