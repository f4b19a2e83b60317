"""A wire between processes that can be held in the middle of a transfer: a proxy on the loopback."""

import contextlib
import os
import socket
import threading
from pathlib import Path

_CHUNK_BYTES = 1 << 16


class Wire:
    """Carries what comes to `address` to a server and back, and can be held.

    Attributes:
      address: where those who think that they speak to the server connect.
    """

    def __init__(self, server):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = server
        self._lock = threading.Lock()
        self._hold = None
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, client, count_bytes, cuts=True):
        """From now on no more than so many bytes go from the server to the process `client`."""
        with self._lock:
            self._hold = Hold(client, count_bytes, cuts)
            return self._hold

    def _accept(self):
        while True:
            client, (_, port) = self._listener.accept()
            host, _, server_port = self._server.rpartition(":")
            try:
                server = socket.create_connection((host, int(server_port)))
            except OSError:  # as if nobody had listened
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, port), daemon=True).start()

    def _carry(self, source, sink, port=None):
        """Forwards until either end is gone; `port` is the client's where this is the way from the server to it."""
        client = None
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                hold = self._hold if port else None
                if hold and not hold.released.is_set():
                    client = client or _process_at(port)
                    if client == hold.client and not hold.lets_pass(len(data)):
                        hold.wait()
                        if hold.cuts:
                            break  # what was held is lost with the one who was killed meanwhile
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Hold:
    """A wire's orders to hold what a server sends to a process.

    Attributes:
      client: the process.
      reached: set once the wire holds something back.
      released: set by whoever wants the wire to carry everything again.
      cuts: whether it is cut there then, or what was held goes on.
    """

    def __init__(self, client, count_bytes, cuts):
        self.client, self._left, self.cuts = client, count_bytes, cuts
        self.reached, self.released = threading.Event(), threading.Event()

    def lets_pass(self, count_bytes):
        self._left -= count_bytes
        return self._left > 0

    def wait(self):
        self.reached.set()
        self.released.wait()


def _process_at(port):
    """The process of ours whose end of a connection on the loopback has this port; None when there is none."""
    wanted = f"0100007F:{port:04X}"  # 127.0.0.1 in the kernel's spelling, which in tcp6 has a prefix
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[1].endswith(wanted) and words[9] != "0":
                return _owner(f"socket:[{words[9]}]")
    return None


def _owner(name):
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) == name:
                return int(descriptor.parts[2])
    return None
