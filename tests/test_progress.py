"""Progress on a terminal, in a pipe, and below log lines."""

import logging as python_logging
import os
import pty
import subprocess
import sys
import textwrap

import pytest

from tfnmt import progress
from tfnmt.progress import Progress, format_number, format_seconds

WORK = textwrap.dedent(
    """
    import time
    from absl import logging
    from tfnmt import progress
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    progress.BAR_SECONDS = 0.0
    now = [0.0]
    time.monotonic = lambda: now[0]  # a clock that the work moves
    with progress.Progress("Translating", total=1000, unit="sentences") as shown:
        for batch in range(10):
            now[0] += {seconds} / 10
            shown.advance(100, f"loss {{9 - batch}}.0")
            if batch == 4:
                logging.info("a line of the log")
    """
)


def _in_pipe(seconds: float) -> str:
    command = [sys.executable, "-c", WORK.format(seconds=seconds)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def _on_terminal(seconds: float) -> str:
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", WORK.format(seconds=seconds)]
    child = subprocess.Popen(command, stderr=follower, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"})
    os.close(follower)
    output = b""
    while chunk := _read(leader):
        output += chunk
    assert child.wait() == 0
    return output.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux's way to say that the other end of a terminal has closed
        return b""


def test_short_work_prints_nothing_in_a_pipe():
    text = _in_pipe(seconds=9)
    assert "a line of the log" in text and "Translating" not in text


def test_long_work_prints_plain_lines_in_a_pipe():
    text = _in_pipe(seconds=100)
    assert "\r" not in text and "|" not in text
    lines = [line.split("] ")[1] for line in text.splitlines() if "Translating" in line]
    assert lines == [
        "Translating: 100/1,000 sentences, 2 min left, 10 sentences/s, loss 9.0",
        "Translating: 400/1,000 sentences, 1 min left, 10 sentences/s, loss 6.0",
        "Translating: 700/1,000 sentences, 30 s left, 10 sentences/s, loss 3.0",
        "Translating: 1,000/1,000 sentences, 10 sentences/s, loss 0.0",
        "Translating: done, 1,000/1,000 sentences, 2 min",
    ]


def test_a_terminal_gets_a_bar():
    text = _on_terminal(seconds=5)
    frames = text.replace("\n", "\r").split("\r")
    assert any("Translating:  10%|" in frame and "100/1,000 sentences" in frame for frame in frames)
    assert any("Translating: 100%|" in frame and "1,000/1,000" in frame for frame in frames)
    assert any("s left" in frame for frame in frames)
    assert text.endswith("\r\n"), "the shell's prompt must not land behind the bar"


def test_log_lines_on_a_terminal_stand_alone():
    lines = [line for line in _on_terminal(seconds=5).split("\n") if "a line of the log" in line]
    # What follows the last carriage return is what stays visible.
    assert len(lines) == 1 and "Translating" not in lines[0].rstrip("\r").rpartition("\r")[2]


@pytest.mark.parametrize("total", [2, 0, None])
def test_the_log_is_as_before_when_the_bar_is_gone(monkeypatch, total):
    monkeypatch.setattr(progress, "_on_terminal", lambda: True)
    before = list(python_logging.root.handlers)
    with pytest.raises(ZeroDivisionError), Progress("Dividing", total=total):
        assert python_logging.root.handlers != before
        raise ZeroDivisionError
    assert python_logging.root.handlers == before


def test_time_left_is_the_callers_where_given(monkeypatch):
    shown = []
    monkeypatch.setattr(progress.logging, "info", lambda *words: shown.append(words[-1]))
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.0)
    Progress("Training", total=1.0).show(0.5, "loss 2.0", seconds_left=4000)
    assert shown == ["1 h 07 min left, loss 2.0"]


def test_without_a_total_there_is_no_time_left(monkeypatch):
    shown = []
    monkeypatch.setattr(progress.logging, "info", lambda *words: shown.append(words[-1]))
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.0)
    Progress("Reading", unit="lines").advance(5)
    assert shown[0].startswith("5 lines, ") and "left" not in shown[0]


def test_silence_where_other_lines_tell_the_same(monkeypatch):
    shown = []
    monkeypatch.setattr(progress.logging, "info", lambda *words: shown.append(words))
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.0)
    with Progress("Training", lines=False) as training:
        training.show(1)
    assert not shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3569, "59 min"),
        (3590, "1 h 00 min"),
        (11100, "3 h 05 min"),
        (86399, "1 d 0 h"),
        (2 * 86400 + 7 * 3600, "2 d 7 h"),
    ],
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(2913.4, "2,913"), (31.24, "31.2"), (0.01236, "0.0124"), (0, "0")])
def test_numbers(number, text):
    assert format_number(number) == text
