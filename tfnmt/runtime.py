"""Starts TensorFlow without its noise, and with the threads and the memory that suit training.

TensorFlow writes to the process's standard error while it is imported and while it looks for devices, whatever
its log level says: its log is not set up yet at that time. So both are done here, with the standard error
turned aside; what was written is kept in `start_messages`, and shown when the devices fail. Importing this module
imports TensorFlow; `tfnmt.commands` imports it before anything else, so every command is quiet.
Somebody who sets TF_CPP_MIN_LOG_LEVEL to 0 or 1 wants to see the messages and does.
"""

import contextlib
import ctypes
import functools
import gc
import os
import sys
import tempfile
import types
import typing
from collections.abc import Iterator
from typing import Any

ERRORS_ONLY = "2"
VERBOSE = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", ERRORS_ONLY) < ERRORS_ONLY

start_messages: list[str] = []
"""The lines that TensorFlow wrote to the standard error while it started."""


@contextlib.contextmanager
def standard_error_aside(messages: list[str]) -> Iterator[None]:
    """Turns file descriptor 2 into a file for a while; `messages` gets its lines, whatever happens."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            file.seek(0)
            messages.extend(file.read().decode(errors="replace").splitlines())


@contextlib.contextmanager
def without_keras() -> Iterator[None]:
    """Lets TensorFlow and TensorFlow Text be imported without Keras and what that imports, which nothing here uses.

    Commands start sooner. Whoever asks for `tf.keras` later imports it then.
    """
    # TensorFlow ignores that it cannot import the first. TensorFlow Text must find the second, where its layers are.
    text_layers = "tensorflow_text.python.keras"
    aside: dict[str, Any] = {"keras.src.optimizers": None, text_layers: types.ModuleType(text_layers)}
    added = {name: module for name, module in aside.items() if name not in sys.modules and "keras" not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Collects what TensorFlow writes in `start_messages`, and shows it after all when it fails."""
    if VERBOSE:
        yield
        return
    try:
        with standard_error_aside(start_messages):
            yield
    except Exception:
        print(*start_messages, sep="\n", file=sys.stderr)
        raise


def _import_tensorflow() -> Exception | None:
    """The error that keeps TensorFlow from being imported, if there is one.

    It is not raised here: the import that needs TensorFlow will say so itself, and tfnmt-doctor explains it.
    """
    try:
        aside = standard_error_aside(start_messages) if not VERBOSE else contextlib.nullcontext()
        with aside, without_keras(), _without_garbage(), _compiling_once():
            import tensorflow as tf

            tf.config.list_physical_devices()  # absl's app.run would do it, by a hook of TensorFlow's
            _leave_functions_as_they_are()
    except Exception as error:
        return error
    return None


@contextlib.contextmanager
def _without_garbage() -> Iterator[None]:
    """Lets Python look for garbage neither meanwhile nor, later, among the objects that were made meanwhile.

    An import makes next to none, and a million objects that stay: the search would be an eighth of the start.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextlib.contextmanager
def _compiling_once() -> Iterator[None]:
    """Lets `typing` compile the name of a type only once meanwhile.

    TensorFlow's generated operations mention a hundred of them in 18,000 places.
    """
    vars(typing)["compile"] = functools.cache(compile)
    try:
        yield
    finally:
        del vars(typing)["compile"]


def _leave_functions_as_they_are() -> None:
    """Keeps autograph from rewriting this project's functions, none of which needs it.

    It would leave each as a file in the temporary directory when a process is killed, or ends at once.
    """
    from tensorflow.python.autograph.core import config

    own = (config.DoNotConvert(package) for package in ("tfnmt", "graphs"))
    config.CONVERSION_RULES = (*own, *config.CONVERSION_RULES)


MOST_STREAMS = 8
"""Cores up to which each operation stays on one; a batch cut into more parts would be a small one for each."""

start_error = _import_tensorflow()
_prepared: list[tuple[int | None, int]] = []  # threads and streams


def prepare(threads: int | None = None, *, in_streams: bool = False) -> None:
    """Makes the devices ready; every command that computes calls it before it makes a tensor.

    Args:
      threads: cores to compute on; None for all of them.
      in_streams: whether the work comes in `streams()` at a time, so that no operation needs more than one core:
        nothing then waits for the slower half of an operation, nor while one of a single core runs.

    Raises:
      RuntimeError: it was called before with another number of threads.
    """
    if _prepared:
        if threads not in (None, _prepared[0][0]):
            raise RuntimeError(f"TensorFlow runs with {_prepared[0][0]} threads already, not with {threads}.")
        return
    keep_freed_memory()
    with _quietly():
        _prepared.append((threads, _start_devices(threads, in_streams)))


def streams() -> int:
    """The number of streams of operations that keep the cores busy; 1 where one operation has all of them, or a GPU."""
    return _prepared[0][1] if _prepared else 1


def streams_on(threads: int) -> int:
    """The number of streams for so many cores of a machine with these devices: all, up to MOST_STREAMS, or 1."""
    import tensorflow as tf

    return threads if threads <= MOST_STREAMS and not tf.config.list_physical_devices("GPU") else 1


def has_gpu() -> bool:
    """Whether TensorFlow finds a GPU."""
    import tensorflow as tf

    with _quietly():
        return bool(tf.config.list_physical_devices("GPU"))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_devices(threads: int | None, in_streams: bool) -> int:
    """Starts the devices; returns how many streams of operations they are ready for."""
    import tensorflow as tf

    ready_streams = streams_on(threads or usable_cores()) if in_streams else 1
    if ready_streams > 1:
        tf.config.threading.set_intra_op_parallelism_threads(1)
    elif threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    for device in tf.config.list_physical_devices("GPU"):
        # A process takes the memory that it needs rather than all that there is: several may share the device.
        tf.config.experimental.set_memory_growth(device, True)
    tf.add(1.0, 1.0)
    return ready_streams


def keep_freed_memory() -> None:
    """Asks the C library to keep the memory of freed tensors for the next ones.

    Otherwise large blocks go back to the kernel, which hands out zeroed pages, one fault each, at every step: up to
    a twelfth of the time of a small model. One arena for all threads, because only the first can keep large blocks.
    """
    # M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX of malloc.h.
    trim_threshold, most_mapped_blocks, most_arenas = -1, -4, -8
    try:
        c_library = ctypes.CDLL(None)
        c_library.mallopt(trim_threshold, 2**31 - 1)
        c_library.mallopt(most_mapped_blocks, 0)
        c_library.mallopt(most_arenas, 1)
    except (OSError, AttributeError):  # a C library that is not glibc
        return
