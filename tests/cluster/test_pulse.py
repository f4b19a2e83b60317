"""The pulse of a process, as others feel it."""

import socket
import time

import pytest

from tfnmt.cluster.pulse import Pulse, feel


@pytest.fixture(name="pulse", scope="module")
def _pulse():
    return Pulse("127.0.0.1")


def test_process_that_waits_for_others_does_not_compute(pulse):
    assert feel(pulse.address)[0] == 0


def test_computing_is_timed(pulse):
    with pulse.computing():
        time.sleep(0.2)
        seconds, _ = feel(pulse.address)
        assert seconds >= 0.2
    after, longest = feel(pulse.address)
    assert after == 0
    assert longest >= seconds


def test_failed_computation_is_over(pulse):
    with pytest.raises(ValueError), pulse.computing():
        raise ValueError
    assert feel(pulse.address)[0] == 0


def test_absence_and_silence():
    """A stopped process still has its connections accepted, by its kernel."""
    assert feel("127.0.0.1:1") is None
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert feel(f"127.0.0.1:{silent.getsockname()[1]}") is None
