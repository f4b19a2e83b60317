"""Ranks as real processes: what users see when one of them dies, is silent, or is told to end, and elastic ranks."""

import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.jobs import TRAINING, UNEVALUATED, Job
from tests.programs import SCRIPTS, command, run
from tests.test_cluster_end_to_end import updates
from tests.test_end_to_end import parameters_of
from tfnmt import installation
from tfnmt.checkpoints import CheckpointStore

RANKS = ("--engine=horovod", "--workers=2")


@pytest.fixture(name="launch")
def _launch(corpus, tmp_path):
    return lambda *flags: Job.launched(corpus, tmp_path / "run", *RANKS, *flags)


def test_killed_rank_restarts_the_job_and_told_to_end_it_saves(launch):
    job = launch("--strategy=ring_allreduce", "--check_replicas_every=10")
    job.wait_for("validation at update 40 ")
    job.signal(signal.SIGKILL, "HOROVOD_RANK=1")
    job.wait_for("Going on from update")
    job.wait_for("validation at update 80 ")
    job.signal(signal.SIGTERM)
    code, log = job.end()
    assert code == 143, log
    assert re.search(r"error: rank 1 on \S+ is gone; training ends", log), log
    assert "error: Rank 1 was killed by SIGKILL first." in log
    assert "Starting all tasks again from the newest checkpoint (restart 1 of at most 3)." in log
    assert "Traceback" not in log
    assert CheckpointStore(job.directory / "checkpoints").newest >= 80


@pytest.mark.parametrize("silent, other", [(1, 0), (0, 1)])
def test_silent_rank_ends_everything_and_is_named(launch, silent, other):
    job = launch("--strategy=model_average", "--local_steps=2", "--stall_timeout=12", "--max_restarts=0")
    job.wait_for("update 8 ")
    job.signal(signal.SIGSTOP, f"HOROVOD_RANK={silent}")
    code, log = job.end()
    assert code == 75, log
    assert re.search(rf"error: rank {silent} on \S+ has not answered for \d+ s \(--stall_timeout=12\)", log), log
    assert f"rank {other} on" not in log
    assert "Traceback" not in log


@pytest.fixture(name="mpirun")
def _mpirun(corpus, tmp_path):
    """Starts two ranks by mpirun, wherever the tests run: as root, on one core."""
    if shutil.which("mpirun") is None or not installation.installed_version("horovod").endswith(installation.MPI_LABEL):
        pytest.fail("mpirun is missing, or Horovod is built without MPI. Run: tools/set_up --tests")
    words = ["mpirun", "-np", "2", "--oversubscribe", "--bind-to", "none"]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    common = [*TRAINING, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--strategy=ring_allreduce"]
    return lambda *flags: Job(tmp_path / "run", [*words, *command("train", *common, *flags)], root)


def test_ranks_of_mpirun_equal_those_of_gloo(corpus, tmp_path, mpirun):
    """To the last bit: the sum of two has one order."""
    limits = ["--evaluate_every_updates=2", "--max_updates=4"]
    code, log = mpirun(*limits).end()
    assert code == 0, log
    assert log.count("Strategy: ring_allreduce, adam; 2 ranks") == 1, log
    flags = [f"--data={corpus}", f"--run_directory={tmp_path / 'gloo'}", "--strategy=ring_allreduce", *limits]
    run("launch", *TRAINING, *RANKS, *flags, UNEVALUATED)
    stores = [CheckpointStore(tmp_path / name / "checkpoints") for name in ("run", "gloo")]
    halfway, mpi, gloo = (store.load(update).parameters for store, update in zip([stores[0], *stores], (2, 4, 4)))
    assert all(np.array_equal(mpi[name], gloo[name]) for name in gloo)
    assert not all(np.array_equal(mpi[name], halfway[name]) for name in gloo)


def test_killed_rank_ends_all_that_mpirun_started(mpirun):
    job = mpirun()
    job.wait_for("update 8 ")
    job.signal(signal.SIGKILL, "OMPI_COMM_WORLD_RANK=1")
    code, log = job.end()
    assert code == 128 + signal.SIGKILL, log
    assert re.search(r"process rank 1 with PID \d+ on node \S+ exited on signal 9", log), log
    assert "Traceback" not in log


def test_what_ranks_with_shared_tables_have_trained_goes_on_everywhere(corpus, tmp_path):
    """Checkpoints are whole, whoever has made them: two ranks, four, one process, a cluster."""
    common = [*TRAINING, UNEVALUATED, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--strategy=sync"]
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    links = [
        ("launch", ["--engine=horovod", "--workers=2", "--vocabulary_parallel"], 2, "ranks"),
        ("launch", ["--engine=horovod", "--workers=4", "--vocabulary_parallel"], 4, "ranks"),
        ("train", ["--engine=local"], 1, "worker in this process"),
        ("train", ["--workers=2", "--parameter_servers=1"], 2, "embedded workers"),
    ]
    before, others = None, None
    for number, (program, where, workers, said) in enumerate(links, 1):
        _, log = run(program, *common, *where, f"--max_updates={2 * number}")
        assert f"Strategy: sync, adam; {workers} {said}" in log
        if number > 1:
            assert f"Going on from update {2 * number - 2}" in log
            assert f"Workers before: {others}; now: {workers}. The readers begin epoch {number}." in log
        found = store.load(2 * number).parameters
        shapes = {name: array.shape for name, array in found.items()}
        assert before in (None, shapes)
        assert all(np.isfinite(array).all() for array in found.values())
        before, others = shapes, workers


def test_elastic_ranks_lose_their_first_and_gain_another(corpus, tmp_path):
    """The second leads on with what it has in memory; the third gets it, and the run ends well."""
    hosts, discovery = tmp_path / "hosts", tmp_path / "discover"
    hosts.write_text("localhost:1\n127.0.0.1:1\n")
    discovery.write_text(f"#!/bin/sh\ncat {hosts}\n")
    discovery.chmod(0o755)
    elastic = ["-np", "2", "--min-np", "1", "--max-np", "2", "--host-discovery-script", str(discovery)]
    training = command("train", *TRAINING, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}")
    flags = ["--engine=horovod", "--strategy=ring_allreduce", UNEVALUATED, "--max_updates=1000"]
    job = Job(tmp_path / "run", [str(SCRIPTS / "horovodrun"), *elastic, *training, *flags], _with_own_path())
    job.wait_for("update 64 ")
    job.signal(signal.SIGKILL, "HOROVOD_RANK=0")
    job.wait_for("1 rank\n")
    hosts.write_text(f"127.0.0.1:1\nlocalhost:1\n{socket.gethostname()}:1\n")
    job.wait_for("Going on from update")
    code, log = job.end(others_seconds=30)  # horovodrun may end a moment before its last rank has
    assert code == 0, log
    assert log.count("; 2 ranks") == 2, log
    went_on = [int(number.replace(",", "")) for number in re.findall(r"Going on from update ([\d,]+) of", log)]
    assert all(number >= 64 for number in went_on)
    assert updates(job.directory) == 1000
    assert "nan" not in log


def _with_own_path():
    """horovodrun looks for Python by its name."""
    import os

    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_command_for_ranks_on_other_hosts(tmp_path):
    flags = ["--strategy=bmuf", f"--data={tmp_path}", f"--run_directory={tmp_path / 'run'}"]
    printed, _ = run("launch", *RANKS, *flags, "--print_commands", "--max_restarts", "7")
    words = ["horovodrun --gloo -np 2 -H HOST:RANKS,... tfnmt-train --engine=horovod", *flags]
    assert printed.splitlines() == [" ".join(words)]


def test_dry_run_of_ranks_prints_once_and_leaves_nothing(corpus, tmp_path):
    flags = [*TRAINING, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--strategy=bmuf"]
    printed, log = run("launch", *flags, *RANKS, "--dry_run")
    assert printed.count("Strategy: bmuf, adam; 2 ranks") == 1
    tokens = int(re.search(r"and (\d+) target tokens on average", printed)[1])  # of a batch, 100 of which are a block
    assert f"Update: about {2 * 100 * tokens:,} target tokens: 2 parameter deltas of 100 steps;" in printed
    megabytes = parameters_of(printed) * 4 / 1e6  # parameters, block update, filtered model, own payload and the sum
    assert f"Memory: {5 * megabytes:.0f} MB for what servers hold, {4 * megabytes:.0f} MB for" in printed
    assert "Starting all tasks again" not in log
    assert not (tmp_path / "run").exists()


def test_what_cannot_run_on_ranks_is_refused(corpus, tmp_path):
    common = [*TRAINING, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}"]
    _, log = run("launch", *common, *RANKS, "--strategy=async", expect=2)
    assert log.count("error: --strategy=async: has no barrier") == 1
    _, log = run("train", *common, *RANKS, "--strategy=sync", expect=2)
    assert "horovodrun --gloo -np 2" in log
    _, log = run("train", *common, "--strategy=ring_allreduce", "--workers=2", expect=2)
    assert "--strategy=ring_allreduce: has no parameter servers; use --engine=horovod" in log
