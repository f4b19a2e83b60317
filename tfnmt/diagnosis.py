"""The state of the machine and of the installation, one finding for each thing that tfnmt depends on.

It must work on a broken installation, so it imports only the standard library at its top.
"""

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from tfnmt import installation, runtime

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GOOD, NOTE, FAULT = "ok", "note", "fault"

SMALL_MEMORY_BYTES = 4 << 30
SMALL_DISK_BYTES = 5 << 30
VECTOR_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
FAST_BFLOAT16_SETS = {"avx512_bf16", "amx_bf16", "bf16"}


class Finding(NamedTuple):
    """One line of the diagnosis."""

    subject: str
    state: str  # GOOD; NOTE: training works without it; FAULT: it does not
    text: str
    remedy: str = ""  # the command that mends it


def findings() -> Iterator[Finding]:
    """All findings, in the order in which a reader wants them; each comes as soon as it is known."""
    yield from machine()
    yield from packages()
    yield from tensorflow()
    yield from horovod()
    yield build_tools()
    yield loopback()
    yield own_name()


def machine() -> Iterator[Finding]:
    """The interpreter, the operating system and the hardware."""
    supported = (3, 10) <= sys.version_info[:2] < (3, 14)
    remedy = "" if supported else "PYTHON=/path/to/python3.11 tools/set_up"
    yield Finding("Python", GOOD if supported else FAULT, f"{platform.python_version()} ({sys.executable})", remedy)
    yield Finding("System", GOOD if sys.platform == "linux" else NOTE, f"{_system_name()}, {platform.machine()}")
    yield Finding("Cores", GOOD, str(runtime.usable_cores()))
    yield _instructions()
    yield _amount("Memory", _memory_bytes(), SMALL_MEMORY_BYTES, "the small models want 4 GB")
    yield _amount("Disk", shutil.disk_usage(".").free, SMALL_DISK_BYTES, "a run with its corpus may want 5 GB")


def packages() -> Iterator[Finding]:
    """Every distribution that tfnmt asks for; those of extras are only noted."""
    try:
        requirements = installation.requirements()
    except ModuleNotFoundError as error:  # that of tfnmt's own metadata is one, too
        yield Finding(str(error.name), FAULT, "is not installed in this Python", installation.remedy())
        return
    for requirement in requirements:
        if requirement.name != "horovod":
            yield _package(requirement)


def _package(requirement: "Requirement") -> Finding:
    fault, extra = installation.fault(requirement), installation.extra_of(requirement)
    if fault is None:
        return Finding(requirement.name, GOOD, f"{installation.installed_version(requirement.name)}")
    state, use = (NOTE, f"; only for: {extra}") if extra else (FAULT, "")
    return Finding(requirement.name, state, fault + use, installation.remedy(requirement))


def tensorflow() -> Iterator[Finding]:
    """Whether TensorFlow and its text operations load and compute, and on what."""
    if installation.installed_version("tensorflow") is None:
        return
    if runtime.start_error is not None:
        yield _broken("TensorFlow", runtime.start_error, "tensorflow")
        return
    try:
        runtime.prepare()
        import tensorflow as tf

        tf.linalg.matmul(tf.ones([8, 8]), tf.ones([8, 8]))
    except Exception as error:  # whatever it is, it is the finding
        yield _broken("TensorFlow", error, "tensorflow")
        return
    yield Finding("TensorFlow", GOOD, f"{tf.__version__} computes")
    if installation.installed_version("tensorflow-text") is not None:
        yield _tensorflow_text()
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    yield Finding("GPUs", GOOD, ", ".join(names) or "none; training runs on the processor")


def _tensorflow_text() -> Finding:
    try:
        with runtime.standard_error_aside([]), runtime.without_keras():
            import tensorflow_text  # noqa: F401 - loads its operations
    except Exception as error:
        return _broken("TensorFlow Text", error, "tensorflow-text")
    return Finding("TensorFlow Text", GOOD, "its operations match this TensorFlow")


def horovod() -> Iterator[Finding]:
    """Whether Horovod is there and was built against the TensorFlow that runs, and in what its ranks can talk."""
    if fault := installation.horovod_fault():
        text = f"{fault}; only --engine=horovod and the tests need it"
        yield Finding("Horovod", NOTE, text, installation.HOROVOD_COMMAND)
        return
    try:
        with runtime.standard_error_aside([]):
            import horovod.tensorflow as hvd
    except Exception as error:
        yield Finding("Horovod", NOTE, f"does not load: {error}", installation.HOROVOD_COMMAND)
        return
    text = f"{installation.installed_version('horovod')} with {_transports(hvd)}"
    if hvd.mpi_built():
        yield Finding("Horovod", GOOD, text)
    else:
        yield Finding("Horovod", NOTE, f"{text}; only mpirun needs MPI", installation.HOROVOD_COMMAND)


def _transports(hvd: ModuleType) -> str:
    built = {"Gloo": hvd.gloo_built(), "MPI": hvd.mpi_built(), "NCCL": hvd.nccl_built()}
    return ", ".join(name if is_built else f"no {name}" for name, is_built in built.items())


def build_tools() -> Finding:
    """The programs that build Horovod."""
    missing = [tool for tool in ("g++", "cmake", "make") if shutil.which(tool) is None]
    if not missing:
        return Finding("Build tools", GOOD, "g++, cmake and make")
    text = f"missing: {', '.join(missing)}; only building Horovod needs them"
    return Finding("Build tools", NOTE, text, f"apt-get install {' '.join(missing)}")


def loopback() -> Finding:
    """Whether a process can listen on this machine's own address and be reached there."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError as error:
        return Finding("Loopback", NOTE, f"127.0.0.1 cannot be reached: {error}; only several processes need it")
    return Finding("Loopback", GOOD, f"127.0.0.1 works (tried port {port})")


def own_name() -> Finding:
    """Whether this machine knows its own name; Horovod's processes crash without a word where it does not."""
    name = socket.gethostname()
    try:
        return Finding("Own name", GOOD, f"{name} is {socket.gethostbyname(name)}")
    except OSError:
        text = f"{name} has no address; only Horovod needs it"
        return Finding("Own name", NOTE, text, f"echo 127.0.1.1 {name} >>/etc/hosts")


def _broken(subject: str, error: BaseException, package: str) -> Finding:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return Finding(subject, FAULT, f"does not load: {first_line}", installation.reinstallation(package))


def _amount(subject: str, amount_bytes: int, small_bytes: int, advice: str) -> Finding:
    text = f"{amount_bytes / 1e9:.1f} GB free"
    return Finding(subject, NOTE, f"{text}; {advice}") if amount_bytes < small_bytes else Finding(subject, GOOD, text)


def _instructions() -> Finding:
    """The vector instructions that decide how fast training is."""
    sets = _instruction_sets(_lines_of("/proc/cpuinfo"))
    fast = bool(FAST_BFLOAT16_SETS & set(sets))
    advice = "--precision=bfloat16 is fast" if fast else "none for bfloat16: --precision=float32 is faster"
    return Finding("Instructions", GOOD, f"{', '.join(sets) or 'unknown'}; {advice}")


def processor() -> str:
    """The processor's name, as the system gives it."""
    names = (line.partition(":")[2].strip() for line in _lines_of("/proc/cpuinfo") if line.startswith("model name"))
    return next(names, platform.machine())


def _instruction_sets(lines: Iterable[str]) -> list[str]:
    words = {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}
    return [name for name in VECTOR_SETS if name in words]


def _memory_bytes() -> int:
    """Memory that can still be had, within the limit of a container if there is one."""
    available = next((int(line.split()[1]) * 1024 for line in _lines_of("/proc/meminfo") if "MemAvailable" in line), 0)
    available = available or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [int(line) for line in _lines_of("/sys/fs/cgroup/memory.max") if line.strip().isdigit()]
    return min([available, *limits])


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()


def _lines_of(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
