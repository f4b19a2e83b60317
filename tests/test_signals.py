"""Stop signals, sent to child processes."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tfnmt.signals import StopSignals

ORDERLY = """
    import sys, time
    from tfnmt.signals import StopSignals
    with StopSignals("saves, and ends.") as signals:
        print("ready", flush=True)
        while signals.requested is None:
            time.sleep(0.01)
        print("saved:", signals.reason, flush=True)
    sys.exit(signals.exit_code)
"""

BUSY = """
    import hashlib
    from tfnmt import signals
    signals.SAME_REQUEST_SECONDS = {same}
    with signals.StopSignals("saves, and ends."):
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})  # no bytecode runs while this computes
        print("saved", flush=True)
"""


def _start(program: str) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_lets_the_work_end_in_order(number, code):
    child = _start(ORDERLY)
    child.send_signal(number)
    output, errors = child.communicate(timeout=60)
    assert (child.returncode, output) == (code, f"saved: {number.name} received\n")
    assert "saves" in errors


def test_the_second_signal_ends_the_process_while_it_computes():
    child = _start(BUSY.format(same=0.0, rounds=2**31 - 1))
    child.send_signal(signal.SIGTERM)
    assert "SIGTERM" in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=60)
    assert (child.returncode, output) == (130, "")
    assert "SIGINT again" in errors


def test_one_request_delivered_twice_is_one():
    child = _start(BUSY.format(same=3600.0, rounds=1_000_000))
    child.send_signal(signal.SIGTERM)
    assert "SIGTERM" in child.stderr.readline()
    child.send_signal(signal.SIGTERM)
    output, _ = child.communicate(timeout=60)
    assert (child.returncode, output) == (0, "saved\n")


def test_handlers_are_given_back():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with StopSignals("saves, and ends.") as stop:
        assert [signal.getsignal(number) for number in numbers] != before
        assert (stop.reason, stop.exit_code) == (None, 0)
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 60
        while stop.requested is None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert stop.exit_code == 143
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_other_signals_are_none_of_its_business():
    stop = StopSignals("saves, and ends.")
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
            assert stop.requested is None
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_the_pipe_is_closed():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with StopSignals("saves, and ends."):
            pass
    assert len(os.listdir("/proc/self/fd")) == before
