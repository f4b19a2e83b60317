"""Horovod, as tools/build_horovod builds it: two processes on this machine sum their vectors."""

import os
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


def test_the_build_is_with_gloo_alone():
    import horovod.tensorflow as hvd

    assert (hvd.gloo_built(), hvd.mpi_built(), bool(hvd.nccl_built())) == (True, False, False)
