"""Clusters out of flags and TF_CONFIG, and what is wrong with them."""

import json

import pytest

from tfnmt.cluster.addresses import Cluster, ClusterSettings, find_cluster
from tfnmt.errors import UserError

HOSTS = {"chief_hosts": ("a:1",), "worker_hosts": ("b:1", "c:1"), "ps_hosts": ("d:1",)}
TF_CONFIG = {
    "cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]},
    "task": {"type": "worker", "index": 1},
}


def test_nothing_given_is_an_embedded_cluster():
    cluster = find_cluster(ClusterSettings(workers=2, parameter_servers=3), {})
    assert cluster.is_embedded
    assert (len(cluster.workers), len(cluster.servers)) == (2, 3)
    assert all(address.startswith("127.0.0.1:") for _, _, address in cluster.tasks())
    assert len({address for _, _, address in cluster.tasks()}) == 5
    assert "chief" not in cluster.specification()


def test_flags_and_tf_config_mean_the_same():
    by_flags = find_cluster(ClusterSettings(**HOSTS, job_name="worker", task_index=1), {})
    assert by_flags == find_cluster(ClusterSettings(), {"TF_CONFIG": json.dumps(TF_CONFIG)})
    assert by_flags == Cluster("a:1", ("b:1", "c:1"), ("d:1",), "worker", 1)
    assert by_flags.address() == "c:1"
    assert by_flags.specification() == TF_CONFIG["cluster"]


def test_flags_come_before_tf_config():
    assert find_cluster(ClusterSettings(**HOSTS), {"TF_CONFIG": json.dumps(TF_CONFIG)}).job == "chief"


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"ps_hosts": ()}, "--ps_hosts is missing"),
        ({"worker_hosts": ("b",)}, "--worker_hosts=b: must be host:port."),
        ({"worker_hosts": ("b:99999",)}, "--worker_hosts=b:99999: must be host:port."),
        ({"worker_hosts": ("b:1", "a:1")}, "a:1 is given twice"),
        ({"job_name": "worker", "task_index": 2}, "--task_index=2: --worker_hosts has no such task."),
        ({"chief_hosts": ("a:1", "e:1")}, "--chief_hosts must be one address."),
    ],
)
def test_impossible_hosts_are_named(changed, fault):
    found = ClusterSettings(**{**HOSTS, **changed}).faults()
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_possible_hosts_have_no_faults():
    """The negative control."""
    assert ClusterSettings(**HOSTS, job_name="ps").faults() == []
    assert ClusterSettings(workers=4).faults() == []


def test_a_worker_alone_is_none():
    assert ClusterSettings(job_name="worker").faults() == [
        "--job_name=worker: needs --chief_hosts, --worker_hosts and --ps_hosts."
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        json.dumps({"cluster": {"worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}),
        json.dumps({**TF_CONFIG, "task": {"type": "evaluator", "index": 0}}),
        json.dumps({**TF_CONFIG, "task": {"type": "worker", "index": 7}}),
    ],
)
def test_unusable_tf_config_is_refused(text):
    with pytest.raises(UserError, match="TF_CONFIG"):
        find_cluster(ClusterSettings(), {"TF_CONFIG": text})
