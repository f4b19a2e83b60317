"""Ends a command at Ctrl-C while it is being loaded, with one line.

Importing TensorFlow takes seconds, before any code of ours could catch the exception; and what an extension module
makes of it in the middle of its import is not ours to say. Importing this module sets a handler of the signal, in the
process of a command alone; `loaded` gives the signal back to Python, which raises `KeyboardInterrupt`.
"""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

EXIT_CODE = 128 + signal.SIGINT

_is_command = sys.argv[0] == "-m" or Path(sys.argv[0]).name.startswith("tfnmt-")  # "-m" while Python finds the module
_standard_error = -1


def loaded() -> None:
    """Lets Ctrl-C raise its exception again: from now on there is somebody to catch it."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(_standard_error)


def _end(*_: object) -> NoReturn:
    os.write(_standard_error, b"Interrupted while loading.\n")
    os._exit(EXIT_CODE)


if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    _standard_error = os.dup(2)  # The import of TensorFlow turns file descriptor 2 aside.
    signal.signal(signal.SIGINT, _end)
