"""Starts TensorFlow without its noise, and with the threads and the memory that suit training.

TensorFlow writes to the process's standard error while it is imported and while it looks for devices, whatever
its log level says: its log is not set up yet at that time. So both are done here, with the standard error
turned aside; what was written is shown when they fail and kept in `start_messages` otherwise. Importing this
module imports TensorFlow; `tfnmt.commands` imports it before anything else, so every command is quiet.
Somebody who sets TF_CPP_MIN_LOG_LEVEL wants to see the messages and does.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
VERBOSE = LOG_LEVEL in os.environ
os.environ.setdefault(LOG_LEVEL, "2")  # errors only

start_messages: list[str] = []
"""What TensorFlow wrote to the standard error while it started."""


@contextlib.contextmanager
def standard_error_aside(messages: list[str]) -> Iterator[None]:
    """Turns file descriptor 2 into a file; `messages` gets its lines. An exception lets them through first."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            _restore(original, file, messages)
            sys.stderr.write("".join(f"{line}\n" for line in messages))
            raise
        _restore(original, file, messages)


def _restore(original: int, file, messages: list[str]) -> None:
    sys.stderr.flush()
    os.dup2(original, 2)
    os.close(original)
    file.seek(0)
    messages.extend(file.read().decode(errors="replace").splitlines())


def _quietly() -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if VERBOSE else standard_error_aside(start_messages)


def _import_tensorflow() -> ModuleType | None:
    """TensorFlow, or None where it is not installed: the import that needs it will say so."""
    try:
        with _quietly():
            import tensorflow
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        return None
    return tensorflow


_tensorflow = _import_tensorflow()
_prepared_threads: list[int | None] = []


def prepare(threads: int | None = None) -> None:
    """Makes the devices ready; called once, before the first tensor.

    Args:
      threads: cores that one operation may use; None for all of them.

    Raises:
      RuntimeError: it was called before with another number of threads.
    """
    if _prepared_threads:
        if threads not in (None, _prepared_threads[0]):
            raise RuntimeError(f"TensorFlow runs with {_prepared_threads[0]} threads already, not with {threads}.")
        return
    keep_freed_memory()
    if _tensorflow is None:
        return
    with _quietly():
        if threads is not None:
            _tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        for device in _tensorflow.config.list_physical_devices("GPU"):
            # A process takes the memory that it needs rather than all that there is: several may share the device.
            _tensorflow.config.experimental.set_memory_growth(device, True)
        _tensorflow.constant(0.0) + 1.0
    _prepared_threads.append(threads)


def keep_freed_memory() -> None:
    """Asks the C library to keep the memory of freed tensors for the next ones.

    Otherwise large blocks go back to the kernel, which hands out zeroed pages, one fault each, at every step: up to
    a twelfth of the time of a small model. One arena for all threads, because only the first can keep large blocks.
    """
    trim_threshold, most_mapped_blocks, most_arenas = -1, -4, -8  # M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX of malloc.h
    try:
        c_library = ctypes.CDLL(None)
        c_library.mallopt(trim_threshold, 2**31 - 1)
        c_library.mallopt(most_mapped_blocks, 0)
        c_library.mallopt(most_arenas, 1)
    except (OSError, AttributeError):  # a C library that is not glibc
        return
