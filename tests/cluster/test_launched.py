"""What launchers say about a process."""

import pytest

from tfnmt.cluster import launched as module
from tfnmt.cluster.elasticity import is_elastic
from tfnmt.cluster.launched import end_in_silence, launched, threads_of_rank
from tfnmt.cluster.rank_launch import rank_tasks


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        ({"HOROVOD_RANK": "1"}, None),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_SIZE": "2"}, (1, 4, 2, False)),
        (
            {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"},
            (3, 4, 4, True),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "1"}, (1, 2, 1, True)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "PMIX_RANK": "1"}, None),  # maybe a worker of a cluster
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, None),
    ],
)
def test_launchers(environment, expected):
    assert launched(environment) == expected


def test_elastic_launcher():
    assert is_elastic({"HOROVOD_ELASTIC": "1"})
    assert not is_elastic({"HOROVOD_RANK": "0"})


@pytest.mark.parametrize(
    "launcher, usable, threads",
    [
        ("HOROVOD", range(8), 2),
        ("HOROVOD", range(6), 2),  # all that the job may use of the machine
        ("HOROVOD", {5}, 1),
        ("OMPI_COMM_WORLD", range(8), 2),
        ("OMPI_COMM_WORLD", {4, 5}, 2),  # bound
        ("OMPI_COMM_WORLD", {5}, 1),
    ],
)
def test_ranks_share_the_cores(monkeypatch, launcher, usable, threads):
    assert threads_of_rank({}) is None
    monkeypatch.setattr(module.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: usable)
    facts = {"RANK": "0", "SIZE": "3", "LOCAL_SIZE": "3"}
    assert threads_of_rank({f"{launcher}_{name}": value for name, value in facts.items()}) == threads


def test_ending_in_silence_waits_for_the_one_that_speaks(monkeypatch):
    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    with pytest.raises(SystemExit) as end:
        end_in_silence(7)
    assert end.value.code == 7
    assert waited and waited[0] > 0


def test_tasks_of_a_launch(tmp_path):
    """Rank 0 leads, on the terminal; what each is told is what `launched` reads."""
    pytest.importorskip("horovod")
    tasks = rank_tasks(["program", "--flag"], 3, tmp_path)
    assert [(task.number, task.leads, task.log is None) for task in tasks] == [
        (2, False, False),
        (1, False, False),
        (0, True, True),
    ]
    assert [launched(task.environment)[:3] for task in tasks] == [(2, 3, 3), (1, 3, 3), (0, 3, 3)]
    assert len({task.environment["HOROVOD_GLOO_RENDEZVOUS_PORT"] for task in tasks}) == 1
