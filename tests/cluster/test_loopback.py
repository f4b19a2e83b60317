"""Servers on the loopback are out of the reach of other machines."""

import os
import socket

import pytest

from tests.listeners import interfaces
from tfnmt.cluster import loopback


@pytest.fixture(autouse=True)
def _not_said_yet():
    loopback._say_open.cache_clear()


@pytest.fixture(name="port")
def _port():
    """Where somebody listens on every interface, as TensorFlow does."""
    with socket.create_server(("", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_listens_on_the_loopback_alone(port, host, caplog):
    assert interfaces()[port] == ""
    before = os.listdir("/proc/self/fd")
    loopback.keep_to_address(f"{host}:{port}")
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert interfaces()[port] == "lo"
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    assert not caplog.records


def test_other_addresses_stay_open_and_it_is_said_once(port, caplog):
    for _ in range(2):
        loopback.keep_to_address(f"a:{port}")
    assert interfaces()[port] == ""
    assert [record.getMessage()[:46] for record in caplog.records] == ["TensorFlow's servers listen on every interface"]


def test_a_kernel_that_refuses_changes_nothing_else(port, caplog, monkeypatch):
    monkeypatch.setattr(loopback, "_INTERFACE", b"none-such")
    loopback.keep_to_address(f"127.0.0.1:{port}")
    assert interfaces()[port] == ""
    assert "every interface" in caplog.text
