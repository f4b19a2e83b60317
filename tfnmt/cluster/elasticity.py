"""Horovod's elastic launcher: news of hosts that come, and ranks that have to part before they meet anew."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping


def is_elastic(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process may lose and gain peers: horovodrun was given --min-np."""
    return environment.get("HOROVOD_ELASTIC") == "1"


class Elasticity:
    """One rank's part under an elastic launcher: it hears of hosts, and cuts its connections to the other ranks."""

    def __init__(self) -> None:
        """The rank has no connections yet."""
        self._news = threading.Event()
        self._links: dict[int, str] = {}
        self._is_registered = False

    @property
    def has_news(self) -> bool:
        """Whether the launcher has said that hosts have come or gone, since the last connection."""
        return self._news.is_set()

    @contextlib.contextmanager
    def connecting(self) -> Iterator[None]:
        """Remembers the connections that are made inside, and listens for news from then on."""
        from horovod.common.elastic import notification_manager

        before = _sockets()
        yield
        self._links = {number: name for number, name in _sockets().items() if before.get(number) != name}
        self._news.clear()
        notification_manager.init()
        if not self._is_registered:
            notification_manager.register_listener(self)
            self._is_registered = True

    def on_hosts_updated(self, timestamp: float, update_result: int) -> None:
        """Called by Horovod, on rank 0 alone."""
        self._news.set()

    def disconnect(self) -> None:
        """Ends the connections: only then the ranks behind them, who may wait for this one, notice a failure."""
        now = _sockets()
        for number in [number for number, name in self._links.items() if now.get(number) == name]:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as end:
                end.shutdown(socket.SHUT_RDWR)
        self._links = {}


def _sockets() -> dict[int, str]:
    """This process's sockets: the kernel's name of each by descriptor (Linux)."""
    files = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            files[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return {number: name for number, name in files.items() if name.startswith("socket:")}
