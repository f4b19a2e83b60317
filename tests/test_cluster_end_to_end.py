"""Launched clusters of real processes: what users see when one of them dies, is silent, or is told to end."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.jobs import SECONDS, TRAINING, UNEVALUATED, Job
from tests.programs import SCRIPTS, command, run
from tfnmt.checkpoints import CheckpointStore
from tfnmt.cluster.addresses import free_ports


@pytest.fixture(name="launch")
def _launch(corpus, tmp_path):
    return lambda *flags, **program: Job.launched(corpus, tmp_path / "run", *flags, **program)


def updates(directory):
    return json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])["update"]


def test_killed_worker_is_replaced_behind_a_barrier(launch):
    """Another does its block until it is back; nothing that is not finite appears. The launcher runs as a module."""
    module = (sys.executable, "-m", "tfnmt.commands.launch")
    job = launch("--strategy=sync", "--workers=2", "--max_updates=100", program=module)
    job.wait_for("update 16 ")
    job.signal(signal.SIGKILL, "--job_name=worker", "--task_index=1")
    code, log = job.end()
    assert code == 0, log
    assert "Worker 1 was killed by SIGKILL; starting it again" in log
    assert "Traceback" not in log
    assert "nan" not in log
    assert updates(job.directory) == 100


def test_killed_worker_of_a_free_row_comes_back_and_told_to_end_the_job_saves(launch):
    job = launch("--strategy=async", "--workers=2", UNEVALUATED)
    job.wait_for("update 16 ")
    job.signal(signal.SIGKILL, "--job_name=worker", "--task_index=1")
    job.wait_for("is back.")
    for task in ("ps", "worker"):  # as a scheduler does, which tells everybody
        job.signal(signal.SIGTERM, f"--job_name={task}", "--task_index=0")
    job.signal(signal.SIGTERM)
    code, log = job.end()
    assert code == 143, log
    for task in ("ps-0", "worker-0", "worker-1"):
        said = (job.directory / "logs" / f"{task}.log").read_text()
        assert f"{task.replace('-', ' ')} ends with code 143" in said
        assert ("SIGTERM: this task ends with the chief" in said) == (task != "worker-1")
    assert "Traceback" not in log
    assert "nan" not in log
    assert CheckpointStore(job.directory / "checkpoints").newest >= 16


def test_lost_state_is_taken_up_from_the_newest_checkpoint(launch):
    """First a parameter server dies, then the chief."""
    job = launch("--strategy=model_average", "--local_steps=2", "--workers=2", "--max_updates=160")
    job.wait_for("validation at update 40 ")
    job.signal(signal.SIGKILL, "--job_name=ps")
    job.wait_for("validation at update 80 ")
    assert "Parameter server 0 at" in job.log.read_text()
    job.signal(signal.SIGKILL, "--job_name=chief")
    code, log = job.end()
    assert code == 0, log
    assert "Starting all tasks again from the newest checkpoint (restart 1 of at most 3)." in log
    assert "Starting all tasks again from the newest checkpoint (restart 2 of at most 3)." in log
    assert log.count("Going on from update") == 2
    assert "Traceback" not in log
    assert updates(job.directory) == 160


@pytest.mark.parametrize("strategy", ["sync", "async"])
def test_silent_worker_ends_everything_and_is_named(launch, strategy):
    """Whether the chief waits for it in Python or deep inside TensorFlow."""
    job = launch(f"--strategy={strategy}", "--workers=2", "--stall_timeout=15", "--max_restarts=0")
    job.wait_for("update 16 ")
    job.signal(signal.SIGSTOP, "--job_name=worker", "--task_index=0")
    code, log = job.end()
    assert code in (75, 137), log
    assert "Waiting for worker 0 at 127.0.0.1:" in log
    assert re.search(r"error: worker 0 at 127.0.0.1:\d+ has not answered for \d+ s \(--stall_timeout=15\)", log), log
    assert "Traceback" not in log


def test_a_quorum_goes_on_without_a_silent_worker_to_the_end(launch):
    """Through validations, whose graphs would have to be made known to all, and the end of the processes."""
    flags = ["--strategy=sync", "--workers=2", "--quorum=1", "--stall_timeout=30", "--max_updates=80", "--samples=2"]
    job = launch(*flags)
    job.wait_for("update 16 ")
    job.signal(signal.SIGSTOP, "--job_name=worker", "--task_index=1")
    code, log = job.end()
    assert code == 0, log
    assert re.search(r"Worker 1 at 127.0.0.1:\d+ does not answer; training goes on without it\.", log), log
    assert "validation at update 80 " in log
    assert "Traceback" not in log
    assert updates(job.directory) == 80


def test_a_cluster_s_run_goes_on_elsewhere(corpus, tmp_path):
    """From an embedded cluster to the simulated engine, with other numbers of workers and servers."""
    common = (
        *TRAINING,
        UNEVALUATED,
        f"--data={corpus}",
        f"--run_directory={tmp_path / 'run'}",
        "--strategy=bmuf",
        "--local_steps=2",
    )
    _, log = run("train", *common, "--workers=2", "--parameter_servers=2", "--max_updates=4")
    assert "2 embedded workers, 2 parameter servers" in log
    _, log = run("train", *common, "--engine=simulated", "--workers=3", "--parameter_servers=3", "--max_updates=8")
    assert "Going on from update 4" in log
    assert "Workers before: 2; now: 3. The readers begin epoch 2." in log
    assert CheckpointStore(tmp_path / "run" / "checkpoints").newest == 8


def test_tf_config_alone_makes_a_cluster(corpus, tmp_path):
    """As a scheduler gives it to each of its pods, which all have one command."""
    jobs = ("chief", "worker", "ps")
    cluster = {job: [f"127.0.0.1:{port}"] for job, port in zip(jobs, free_ports(3))}
    where = (f"--data={corpus}", f"--run_directory={tmp_path / 'run'}")
    words = command("train", *TRAINING, UNEVALUATED, *where, "--max_updates=4")

    def start(job):
        config = {"cluster": cluster, "task": {"type": job, "index": 0}, "environment": "cloud"}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        return subprocess.Popen(
            [*words, "--strategy=sync"], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    tasks = {job: start(job) for job in jobs}
    try:
        said = {job: task.communicate(timeout=SECONDS)[0] for job, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.kill()
    assert [task.returncode for task in tasks.values()] == [0, 0, 0], said
    assert "Strategy: sync, adam; 1 worker, 1 parameter server" in said["chief"]
    for job in ("worker", "ps"):
        assert f"{job} 0 listens on {cluster[job][0]}; the chief is {cluster['chief'][0]}." in said[job]
        assert f"Training has ended; {job} 0 ends with code 0." in said[job]
    assert CheckpointStore(tmp_path / "run" / "checkpoints").newest == 4


def test_placement_of_the_subgraphs(corpus, tmp_path):
    """The arithmetic of an update is on the servers, that of a step on the worker."""
    import tensorflow as tf

    run("train", *TRAINING, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--max_updates=2")
    show = [
        sys.executable,
        "tools/show_graph",
        f"--run_directory={tmp_path / 'run'}",
        f"--output={tmp_path / 'graphs'}",
    ]
    subprocess.run(show, check=True, capture_output=True, timeout=SECONDS)
    devices = {}
    (path,) = (tmp_path / "graphs").glob("events*")
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            metadata = tf.compat.v1.RunMetadata.FromString(value.tensor.string_val[0])
            partitions = [graph for graphs in metadata.function_graphs for graph in graphs.partition_graphs]
            for node in (node for graph in partitions for node in graph.node):
                devices.setdefault((value.tag, node.op), set()).add(node.device.rpartition("/")[2])
    servers = {"device:CPU:1", "device:CPU:2"}
    assert devices["reduce_average", "ResourceApplyAdam"] == servers
    assert devices["reduce_average", "L2Loss"] == servers
    assert devices["broadcast", "ReadVariableOp"] == servers
    assert devices["broadcast", "AssignVariableOp"] == {"device:CPU:0"}
    products = [found for (name, op), found in devices.items() if name == "forward_backward" and "MatMul" in op]
    assert products
    assert all(found == {"device:CPU:0"} for found in products)


def test_unreachable_tasks_are_named_with_their_commands(corpus, tmp_path):
    hosts = ("--chief_hosts=127.0.0.1:1", "--worker_hosts=127.0.0.1:2", "--ps_hosts=127.0.0.1:3")
    common = (*TRAINING, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--strategy=sync")
    _, log = run("train", *common, *hosts, "--rendezvous_timeout=1", expect=2)
    assert "error: worker 0 at 127.0.0.1:2 has not come for" in log
    assert f"tfnmt-train {' '.join(hosts)} --job_name=worker --task_index=0" in log
    assert "error: ps 0 at 127.0.0.1:3 has not come for" in log
    _, log = run("train", *common, *hosts, "--job_name=ps", "--rendezvous_timeout=1", expect=2)
    assert "The chief at 127.0.0.1:1 did not come within" in log


def test_dry_run_waits_for_no_task(corpus, tmp_path):
    hosts = ("--chief_hosts=127.0.0.1:1", "--worker_hosts=127.0.0.1:2", "--ps_hosts=127.0.0.1:3")
    common = (*TRAINING, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--strategy=sync")
    printed, log = run("train", *common, *hosts, "--dry_run")
    assert "Strategy: sync, adam; 1 worker, 1 parameter server" in printed
    assert "Waiting" not in log
    assert not (tmp_path / "run").exists()


BROKEN = """
from tfnmt.models.transformer import Transformer
def loss(self, *_):
    raise ValueError("this loss cannot be built")
Transformer.loss = loss
from tfnmt.commands import train
train.main()
"""


def test_dry_run_of_an_embedded_cluster_builds_its_graph(corpus, tmp_path):
    """It says no more than that of one process; and a model that cannot be built fails there."""
    flags = (*TRAINING, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--strategy=sync", "--dry_run")
    printed, log = run("train", *flags)
    assert "Strategy: sync, adam; 1 embedded worker, 1 parameter server" in printed
    assert log == ""
    words = [sys.executable, "-c", BROKEN, *flags]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 1, ended.stderr
    assert "this loss cannot be built" in ended.stderr
    assert "Strategy: " not in ended.stdout
    assert not (tmp_path / "run").exists()


def test_commands_for_other_hosts(corpus, tmp_path):
    hosts = ("--chief_hosts=a:1", "--worker_hosts=b:1,c:1", "--ps_hosts=d:1")
    printed, _ = run(
        "launch", f"--data={corpus}", f"--run_directory={tmp_path}", *hosts, "--print_commands", "--max_restarts", "7"
    )
    assert "--max_restarts" not in printed and " 7" not in printed
    lines = printed.splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# ps 0, on d",
        "# worker 0, on b",
        "# worker 1, on c",
        "# chief 0, on a",
    ]
    assert all(str(corpus) in line for line in lines if line.startswith("tfnmt-train"))
    assert SCRIPTS.joinpath("tfnmt-launch").exists()
