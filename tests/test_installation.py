"""What is wanted, what is installed and what mends the difference."""

import pytest
from packaging.requirements import Requirement

from tfnmt import installation


def test_this_environment_is_complete():
    assert installation.is_complete(["test"])


def test_the_requirements_are_those_of_setup():
    found = {each.name: each for each in installation.requirements()}
    assert str(found["tensorflow"]) == "tensorflow==2.21.*"
    extras = {name: installation.extra_of(found[name]) for name in ("tensorflow", "pytest", "horovod")}
    assert extras == {"tensorflow": "", "pytest": "test", "horovod": "horovod"}


def test_a_missing_and_an_old_package_are_faults():
    assert "is not installed, >=1 is wanted" in installation.fault(Requirement("no-such-package>=1"))
    assert installation.fault(Requirement("absl-py>=999")).endswith("is installed, >=999 is wanted")
    assert installation.fault(Requirement("absl-py>=1")) is None


def test_a_version_with_a_label_and_a_prerelease_are_in_the_range(monkeypatch):
    monkeypatch.setattr(installation, "installed_version", {"horovod": "0.28.1+tf2.21.0", "pillow": "13.0rc1"}.get)
    assert installation.fault(Requirement("horovod==0.28.1")) is None
    assert installation.fault(Requirement("pillow>=12")) is None


@pytest.mark.parametrize(
    ("versions", "fault"),
    [
        ({"tensorflow": "2.21.0"}, "Horovod is not installed"),
        ({"horovod": "0.28.1+tf2.21.0"}, "Horovod needs TensorFlow, which is not installed"),
        (
            {"horovod": "0.28.1+tf2.20.0", "tensorflow": "2.21.0"},
            "Horovod 0.28.1+tf2.20.0 is installed, 0.28.1+tf2.21.0.r2 is wanted, "
            "which is built for this TensorFlow and mended",
        ),
        (
            {"horovod": "0.28.1+tf2.20.0.mpi", "tensorflow": "2.21.0"},
            "Horovod 0.28.1+tf2.20.0.mpi is installed, 0.28.1+tf2.21.0.r2 is wanted, "
            "which is built for this TensorFlow and mended",
        ),
        (
            {"horovod": "0.28.1+tf2.21.0", "tensorflow": "2.21.0"},
            "Horovod 0.28.1+tf2.21.0 is installed, 0.28.1+tf2.21.0.r2 is wanted, "
            "which is built for this TensorFlow and mended",
        ),
    ],
)
def test_what_keeps_horovod_from_running(monkeypatch, versions, fault):
    monkeypatch.setattr(installation, "installed_version", versions.get)
    assert installation.horovod_fault() == fault


@pytest.mark.parametrize("label", ["", installation.MPI_LABEL])
def test_horovod_runs_with_mpi_and_without(monkeypatch, tmp_path, label):
    """The negative control; the tests that start ranks say whether it really does."""
    versions = {"horovod": f"0.28.1+tf2.21.0.r2{label}", "tensorflow": "2.21.0"}
    monkeypatch.setattr(installation, "installed_version", versions.get)
    monkeypatch.setattr(installation, "_horovod_library", lambda: tmp_path)
    assert installation.horovod_fault() is None
