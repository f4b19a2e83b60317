"""The examples for other launchers: they parse, and the flags in them exist."""

import re
import subprocess

import pytest
import yaml  # which Horovod needs

from tfnmt.commands import train_settings
from tfnmt.commands.command_line import CommandLine
from tfnmt.installation import ROOT

EXAMPLES = ROOT / "configs" / "cluster"


def flags_of(text):
    """The names of the flags in a text, but for those of Slurm."""
    return set(re.findall(r"--(\w+)=", text)) - {"ntasks", "kill", "job", "cpus"}


@pytest.mark.parametrize("name", ["tfjob.yaml", "slurm.sh"])
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
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_NTASKS": "7"}
    ended = subprocess.run(
        [EXAMPLES / "slurm.sh", "--strategy=bmuf"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    places = [re.search(r"--job_name=(\w+) --task_index=(\d+) --strategy=bmuf$", line).groups() for line in lines]
    assert places == [("chief", "0"), ("ps", "0"), ("ps", "1"), *(("worker", str(n)) for n in range(4))]
    assert all("--chief_hosts=node0:23450 --ps_hosts=node1:23451,node2:23452 " in line for line in lines)
    assert all("--worker_hosts=node3:23453,node4:23454,node5:23455,node6:23456 " in line for line in lines)


def test_kubernetes_manifest_has_what_a_job_needs():
    job = yaml.safe_load((EXAMPLES / "tfjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
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
