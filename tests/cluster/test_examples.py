"""The examples for other launchers: they parse, and the flags in them exist."""

import re
import subprocess

import pytest
import yaml  # which Horovod needs

from tfnmt.commands import train_settings
from tfnmt.commands.command_line import CommandLine
from tfnmt.installation import ROOT

EXAMPLES = ROOT / "configs" / "cluster"
PORT = {"name": str, "containerPort": int, "hostPort": int, "protocol": str}
MOUNT = {"name": str, "mountPath": str, "subPath": str, "readOnly": bool}
CONTAINER = {"name": str, "image": str, "command": [str], "args": [str], "workingDir": str, "ports": [PORT]}
CONTAINER |= {
    "volumeMounts": [MOUNT],
    "env": [{"name": str, "value": str}],
    "resources": {"limits": {}, "requests": {}},
}
VOLUME = {"name": str, "persistentVolumeClaim": {"claimName": str, "readOnly": bool}}
POD = {"containers": [CONTAINER], "volumes": [VOLUME]}
REPLICA = {
    "replicas": int,
    "restartPolicy": ("Always", "OnFailure", "Never", "ExitCode"),
    "template": {"metadata": {"labels": {}, "annotations": {}}, "spec": POD},
}
JOB = {
    "apiVersion": ("kubeflow.org/v1",),
    "kind": ("TFJob",),
    "metadata": {"name": str, "namespace": str, "labels": {}},
    "spec": {
        "runPolicy": {
            "cleanPodPolicy": ("All", "Running", "None"),
            "activeDeadlineSeconds": int,
            "backoffLimit": int,
            "suspend": bool,
            "ttlSecondsAfterFinished": int,
        },
        "successPolicy": ("", "AllWorkers"),
        "enableDynamicWorker": bool,
        "tfReplicaSpecs": dict.fromkeys(("Chief", "Master", "Evaluator", "PS", "Worker"), REPLICA),
    },
}
"""What the custom resource of the training operator 1.9 knows, as far as a job like ours may need it.

A type; the values that there are; a list of one shape; or a shape for each key, of which no other may be there.
"""
REQUIRED = {"tfReplicaSpecs", "template", "containers", "name", "containerPort", "mountPath", "claimName"}


def flags_of(text):
    """The names of the flags in a text, but for those of Slurm."""
    return set(re.findall(r"--(\w+)=", text)) - {"ntasks", "kill", "job", "cpus"}


@pytest.mark.parametrize("name", ["tfjob.yaml", "slurm.sh", "slurm_ranks.sh", "../pipelines/opustrainer.yaml"])
def test_flags_exist(name):
    known = {field for cls in CommandLine(train_settings.REQUESTS).classes for field in cls.__dataclass_fields__}
    found = flags_of((EXAMPLES / name).read_text()) - {"flagfile"}
    assert found
    assert found <= known


def test_slurm_script_gives_every_task_its_place(tmp_path):
    """Run with an srun that starts seven tasks here, one behind the other, and a tfnmt-train that tells its flags."""
    (tmp_path / "srun").write_text(
        "#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\n"
        'for task in 0 1 2 3 4 5 6; do SLURM_PROCID=$task "$@"; done\n'
    )
    (tmp_path / "hostname").write_text('#!/bin/bash\necho "node$SLURM_PROCID"\n')
    (tmp_path / "tfnmt-train").write_text('#!/bin/bash\necho "$@"\n')
    for program in tmp_path.iterdir():
        program.chmod(0o755)

    def lines_of(job):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_NTASKS": "7", "SLURM_JOB_ID": str(job)}
        words = [EXAMPLES / "slurm.sh", "--strategy=bmuf"]
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    lines = lines_of(job=3)
    places = [re.search(r"--job_name=(\w+) --task_index=(\d+) --strategy=bmuf$", line).groups() for line in lines]
    assert places == [("chief", "0"), ("ps", "0"), ("ps", "1"), *(("worker", str(n)) for n in range(4))]
    assert all("--chief_hosts=node0:10192 --ps_hosts=node1:10193,node2:10194 " in line for line in lines)
    assert all("--worker_hosts=node3:10195,node4:10196,node5:10197,node6:10198 " in line for line in lines)
    assert "--chief_hosts=node0:10256 " in lines_of(job=4)[0]  # so that two jobs may share nodes


def faults(shape, value, place="job"):
    """Where a value has not its shape."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [place]
        return [fault for number, each in enumerate(value) for fault in faults(shape[0], each, f"{place}.{number}")]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [place]
        found = [f"{place}.{key}" for key in value if shape and key not in shape]
        found += [f"{place}.{key}" for key in shape if key in REQUIRED and key not in value]
        both = [key for key in value if key in shape]
        return found + [fault for key in both for fault in faults(shape[key], value[key], f"{place}.{key}")]
    good = value in shape if isinstance(shape, tuple) else type(value) is shape
    return [] if good else [place]


@pytest.fixture(name="job")
def _job():
    return yaml.safe_load((EXAMPLES / "tfjob.yaml").read_text())


def test_kubernetes_manifest_has_the_shape_of_its_resource(job):
    """Kubernetes drops a key that it does not know without a word."""
    assert faults(JOB, job) == []


@pytest.mark.parametrize(
    "place, value, fault",
    [
        (("spec", "runPolicy", "cleanPodPolicy"), "all", "job.spec.runPolicy.cleanPodPolicy"),
        (("spec", "cleanPodPolicy"), "All", "job.spec.cleanPodPolicy"),
        (("spec", "tfReplicaSpecs", "Ps"), {}, "job.spec.tfReplicaSpecs.Ps"),
        (("spec", "tfReplicaSpecs", "Worker", "replicas"), "4", "job.spec.tfReplicaSpecs.Worker.replicas"),
        (("spec", "tfReplicaSpecs", "Worker", "template"), {"spec": {}}, "job.spec.tfReplicaSpecs.Worker.template"),
    ],
)
def test_another_shape_would_be_seen(job, place, value, fault):
    """The negative control."""
    *parents, key = place
    changed = job
    for name in parents:
        changed = changed[name]
    changed[key] = value
    (found,) = faults(JOB, job)
    assert found.startswith(fault)


def test_kubernetes_manifest_has_what_a_job_needs(job):
    replicas = job["spec"]["tfReplicaSpecs"]
    assert set(replicas) == {"Chief", "PS", "Worker"}
    assert replicas["Chief"]["replicas"] == 1
    for replica in replicas.values():
        (container,) = replica["template"]["spec"]["containers"]
        assert container["name"] == "tensorflow"  # the operator looks for this name
        assert container["command"][0] == "tfnmt-train"
        assert container["ports"] == [{"name": "tfjob-port", "containerPort": 2222}]
        volumes = {volume["name"] for volume in replica["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
