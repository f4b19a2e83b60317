"""The installed commands, for tests."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(sys.executable).parent
SECONDS = 300  # a hang must not hold up the suite


def command(name, *flags):
    return [str(SCRIPTS / f"tfnmt-{name}"), *map(str, flags)]


def run(name, *flags, expect=0, text=None):
    """Runs a command to its end: standard output, and standard error with the log."""
    ended = subprocess.run(command(name, *flags), input=text, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == expect, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout, ended.stderr
