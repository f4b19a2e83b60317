"""The speed of a link is that of the bytes that were counted on it."""

import contextlib
import itertools
import socket
import threading

import pytest

from tfnmt.cluster import link_speed
from tfnmt.cluster.addresses import free_ports
from tfnmt.cluster.link_speed import Answering, measure
from tfnmt.errors import UserError


@pytest.fixture(name="address")
def _address():
    with Answering(0) as answering:
        thread = threading.Thread(target=answering.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{answering.server_address[1]}"
        answering.shutdown()
        thread.join()


class Counted(socket.socket):
    """Counts its bytes in either direction."""

    sent = received = 0

    def sendall(self, data, *flags):
        super().sendall(data, *flags)
        Counted.sent += len(data)

    def recv(self, size, *flags):
        data = super().recv(size, *flags)
        Counted.received += len(data)
        return data


@pytest.mark.parametrize("up, down", [(1e6, 4e6), (8e6, 2e6)])
def test_the_slower_direction_counts_and_the_trip_does_not(address, monkeypatch, up, down):
    """A clock of our own: each byte costs what its direction says, and each exchange 0.02 s beside that."""
    Counted.sent = Counted.received = 0
    host, port = address.split(":")

    def connect(*_):
        connection = Counted(socket.AF_INET, socket.SOCK_STREAM)
        connection.connect((host, int(port)))
        return connection

    exchanges = itertools.count()
    monkeypatch.setattr(socket, "create_connection", connect)
    # It is asked at the beginning and at the end of each exchange.
    found = measure(address, lambda: Counted.sent / up + Counted.received / down + 0.02 * (next(exchanges) % 2 + 0.0))
    own = 16 / up + 1 / down  # a question and a byte of answer
    assert found.latency_seconds == pytest.approx((0.02 + own) / 2)
    assert found.bytes_per_second == pytest.approx(min(up, down), rel=1e-4)


def test_a_real_clock_goes_forward(address, monkeypatch):
    monkeypatch.setattr(link_speed, "_SECONDS", 0.001)
    found = measure(address)
    assert found.latency_seconds > 0
    assert found.bytes_per_second > 0


def test_nobody_answers():
    (port,) = free_ports(1)
    with pytest.raises(UserError) as refusal:
        measure(f"127.0.0.1:{port}")
    (fault,) = refusal.value.faults
    assert fault.startswith(f"--hosts=127.0.0.1:{port}: nobody answers (")
    assert fault.endswith(f"; run `tfnmt-doctor --answer={port}` there.")


@pytest.mark.parametrize("question", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 16, b"abc"])
def test_who_asks_something_else_gets_no_answer(address, question):
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(question)
        with contextlib.suppress(OSError):  # what was not read makes it a reset, maybe before the shutdown
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
    assert link_speed.measure(address, itertools.count().__next__).latency_seconds > 0  # others go on


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"--answer={port}: cannot listen there: "):
            Answering(port)
