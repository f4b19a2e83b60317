"""The facts that a process knows of its Horovod job before it meets the others; imports nothing that takes time."""

import os
import time
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from tfnmt import installation
from tfnmt.errors import UserError

_LET_OTHERS_SPEAK_SECONDS = 3.0


class Launched(NamedTuple):
    """The place of this process in its Horovod job, as the launcher says."""

    rank: int
    size: int
    local_size: int  # ranks on this machine
    may_bind: bool  # each rank to cores of its own


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """The place that horovodrun or mpirun have given this process; None when neither has started it.

    Slurm's srun is not among them: what it sets is there for the tasks of a cluster, too.
    """
    for names in (
        ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_SIZE"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),  # MPICH's and Intel's
    ):
        if all(name in environment for name in names):
            rank, size, local_size = (int(environment[name]) for name in names)
            return Launched(rank, size, local_size, may_bind=names[0] != "HOROVOD_RANK")
    return None


def threads_of_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """This rank's part of the cores that the ranks of this machine may use; None for all of them."""
    if (rank := launched(environment)) is None:
        return None
    usable = len(os.sched_getaffinity(0))
    if rank.may_bind:
        return max(1, min((os.cpu_count() or 1) // rank.local_size, usable))
    return max(1, usable // rank.local_size)


def require_horovod() -> None:
    """Refuses to begin without Horovod.

    Raises:
      UserError: it is missing, or does not fit the TensorFlow that is installed.
    """
    if fault := installation.horovod_fault():
        raise UserError(f"--engine=horovod: {fault}. Run: {installation.HOROVOD_COMMAND}")


def end_in_silence(code: int) -> NoReturn:
    """Ends a rank, but not before another one has said why: a launcher ends all ranks with the first."""
    time.sleep(_LET_OTHERS_SPEAK_SECONDS)
    raise SystemExit(code)
