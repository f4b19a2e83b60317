"""Horovod, as tools/build_horovod builds it: two processes on this machine sum their vectors."""

import os
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tfnmt import diagnosis, installation

PROGRAM = """
    from tfnmt import runtime
    runtime.prepare(1)
    with runtime.standard_error_aside([]):
        import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    vector = tf.range(4, dtype=tf.float32) * (hvd.rank() + 1)
    graph = tf.function(lambda vector: hvd.allreduce(2 * vector, op=hvd.Sum, name="graph"))
    eager = hvd.allreduce(vector, op=hvd.Sum, name="eager")
    # One write for the whole line: the two processes share the output.
    print(f"rank {hvd.rank()} of {hvd.size()}: {eager.numpy().tolist()} {graph(vector).numpy().tolist()}\\n", end="")
"""


@pytest.fixture(autouse=True)
def _needs_horovod():
    if fault := installation.horovod_fault():
        pytest.fail(f"{fault}. Run: {installation.HOROVOD_COMMAND}")
    if remedy := diagnosis.own_name().remedy:
        pytest.fail(f"This machine's own name has no address, and Horovod needs one. Run: {remedy}")


def test_two_processes_sum_their_vectors(tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    launcher = Path(sys.executable).parent / "horovodrun"
    command = [launcher, "-np", "2", "-H", "127.0.0.1:2", "--gloo", "--network-interfaces", "lo", "--disable-cache"]
    result = subprocess.run(
        [*command, sys.executable, tmp_path / "program.py"],
        env={**os.environ, "PYTHONPATH": str(installation.ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    lines = sorted(line.partition(":")[2] for line in result.stdout.splitlines() if "rank" in line)
    assert lines == [f"rank {rank} of 2: [0.0, 3.0, 6.0, 9.0] [0.0, 6.0, 12.0, 18.0]" for rank in range(2)]


def test_the_label_says_whether_the_build_has_mpi_beside_gloo():
    import horovod.tensorflow as hvd

    has_mpi = installation.installed_version("horovod").endswith(installation.MPI_LABEL)
    assert (hvd.gloo_built(), hvd.mpi_built(), bool(hvd.nccl_built())) == (True, has_mpi, False)


@pytest.mark.parametrize("has_mpi", [True, False])
def test_what_is_built_follows_the_mpi_compiler(monkeypatch, tmp_path, has_mpi):
    """And a wheel of the one kind is never taken for one of the other."""
    build = runpy.run_path(str(installation.ROOT / "tools" / "build_horovod"))
    monkeypatch.setattr(build["shutil"], "which", lambda name: "/bin/mpicxx" if has_mpi else None)
    monkeypatch.setitem(build["cached_wheel"].__globals__, "CACHE", tmp_path)
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    names = [f"horovod-{installation.wanted_horovod()}{label}-{tag}-x.whl" for label in ("", installation.MPI_LABEL)]
    (tmp_path / names[not has_mpi]).touch()
    assert build["cached_wheel"]() is None
    (tmp_path / names[has_mpi]).touch()
    assert build["cached_wheel"]() == tmp_path / names[has_mpi]
    environment = build["build_environment"]()
    assert {name for name in environment if re.fullmatch("HOROVOD_WITH(OUT)?_MPI", name)} == {
        "HOROVOD_WITH_MPI" if has_mpi else "HOROVOD_WITHOUT_MPI"
    }
    assert f"+{environment['HOROVOD_LOCAL_VERSION']}-" in names[has_mpi]
