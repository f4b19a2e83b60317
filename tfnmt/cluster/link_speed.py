"""How fast the network to another machine is, where `tfnmt-doctor --answer=port` runs.

A question is two numbers, of the bytes that come and of those that are wanted; then come the bytes, and the answer has
as many as were wanted. So the time of one exchange is a round trip and the way of the bytes in either direction.
"""

import socket
import socketserver
import statistics
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from tfnmt.errors import UserError

_QUESTION = struct.Struct("!QQ")
_CHUNK_BYTES = 1 << 20
_MOST_BYTES = 1 << 34  # of one question; more is none of ours
_ROUND_TRIPS = 21
_SECONDS = 1.0  # that a transfer must last for its speed to count
_TIMEOUT_SECONDS = 60.0


class Link(NamedTuple):
    """What was measured.

    Attributes:
      latency_seconds: of half a round trip.
      bytes_per_second: in the slower direction.
    """

    latency_seconds: float
    bytes_per_second: float

    def describe(self) -> str:
        """The numbers in words."""
        return f"{self.bytes_per_second / 1e6:,.4g} MB/s, {1000 * self.latency_seconds:.3g} ms"


class Answering(socketserver.ThreadingTCPServer):
    """Answers whoever measures, on every interface, until it is shut down."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int):
        """Listens.

        Raises:
          UserError: the port is not to be had.
        """
        try:
            super().__init__(("", port), _Answer)
        except (OSError, OverflowError) as error:
            raise UserError(f"--answer={port}: cannot listen there: {error}.") from error


class _Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with self.request as connection:
            while len(question := _receive(connection, _QUESTION.size, keep=True)) == _QUESTION.size:
                coming, wanted = _QUESTION.unpack(question)
                if max(coming, wanted) > _MOST_BYTES:
                    return
                _receive(connection, coming)
                _send(connection, max(wanted, 1))


def measure(address: str, clock: Callable[[], float] = time.perf_counter) -> Link:
    """Measures for a few seconds.

    Args:
      address: host:port of a machine that answers.
      clock: seconds.

    Raises:
      UserError: nobody answers there.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _TIMEOUT_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            trips = [_exchange(connection, 0, 1, clock) for _ in range(_ROUND_TRIPS)]
            trip = statistics.median(trips)
            rates = [_rate(connection, sends, trip, clock) for sends in (True, False)]
    except (OSError, ValueError) as error:
        remedy = f"run `tfnmt-doctor --answer={port or 7000}` there"
        raise UserError(f"--hosts={address}: nobody answers ({error}); {remedy}.") from error
    return Link(trip / 2, min(rates))


def _rate(connection: socket.socket, sends: bool, trip_seconds: float, clock: Callable[[], float]) -> float:
    """Bytes per second of a transfer that is long enough to tell."""
    count = _CHUNK_BYTES
    while True:
        seconds = _exchange(connection, *((count, 1) if sends else (0, count)), clock) - trip_seconds
        if seconds >= _SECONDS or count >= _MOST_BYTES:
            return count / max(seconds, 1e-9)
        count = min(_MOST_BYTES, count * max(2, min(16, round(1.2 * _SECONDS / max(seconds, 1e-9)))))


def _exchange(connection: socket.socket, coming: int, wanted: int, clock: Callable[[], float]) -> float:
    began = clock()
    connection.sendall(_QUESTION.pack(coming, wanted))
    _send(connection, coming)
    if len(_receive(connection, 1, keep=True)) != 1:
        raise ConnectionResetError("the connection was closed")
    _receive(connection, wanted - 1)
    return clock() - began


def _send(connection: socket.socket, count: int) -> None:
    chunk = memoryview(bytes(_CHUNK_BYTES))
    while count:
        sent = min(count, _CHUNK_BYTES)
        connection.sendall(chunk[:sent])
        count -= sent


def _receive(connection: socket.socket, count: int, keep: bool = False) -> bytes:
    """Takes in so many bytes, or what comes until the other side closes; what they are only if they are few."""
    kept = b""
    while count and (chunk := connection.recv(min(count, _CHUNK_BYTES))):
        count -= len(chunk)
        kept += chunk if keep else b""
    if count and not keep:
        raise ConnectionResetError("the connection was closed")
    return kept
