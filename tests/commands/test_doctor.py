"""tfnmt-doctor: on a sound installation, and on broken ones."""

import json
import os
import re
import signal
import subprocess
import sys
import types

import pytest

from tfnmt import diagnosis, installation, runtime
from tfnmt.cluster.addresses import free_ports
from tfnmt.commands import doctor
from tfnmt.diagnosis import FAULT, GOOD, NOTE, Finding

MAIN = "from tfnmt.commands.doctor import main; main()"


def _run(*words: str, path: str = "", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    python_path = os.pathsep.join(filter(None, (path, str(installation.ROOT))))
    return subprocess.run(
        [sys.executable, *options, "-c", MAIN, *words],
        env={**os.environ, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_sound_installation_can_train_and_only_the_doctor_speaks():
    result = _run("--json")
    document = json.loads(result.stdout)
    assert (result.returncode, result.stderr, document["can_train"]) == (0, "", True)
    states = {finding["subject"]: finding["state"] for finding in document["findings"]}
    subjects = {"Python", "Cores", "Memory", "Disk", "tensorflow", "TensorFlow", "TensorFlow Text", "GPUs", "Loopback"}
    assert {states[subject] for subject in subjects} <= {GOOD, NOTE}


def test_a_tensorflow_that_does_not_load(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no libmissing.so\\nand more')")
    result = _run(path=str(tmp_path))
    assert (result.returncode, result.stderr) == (1, "")
    place = result.stdout.index("FAULT  TensorFlow: does not load: no libmissing.so\n")
    assert "to mend it: " in result.stdout[place:]
    assert result.stdout.endswith("This machine cannot train: mend the faults above.\n")


def test_a_python_without_any_package():
    result = _run("--json", options=("-S",))
    assert (result.returncode, result.stderr) == (1, "")
    faults = [each for each in json.loads(result.stdout)["findings"] if each["state"] == FAULT]
    assert faults
    assert all(each["remedy"] == "tools/set_up" for each in faults)


def test_without_what_reads_requirements_the_doctor_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    (finding,) = diagnosis.packages()
    assert (finding.subject, finding.state, finding.remedy) == ("packaging.requirements", FAULT, "tools/set_up")


def test_a_missing_tensorflow_text_is_said_once(monkeypatch):
    versions = {"tensorflow": "2.21.0"}
    monkeypatch.setattr(installation, "installed_version", versions.get)
    monkeypatch.setattr(runtime, "prepare", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    findings = [*diagnosis.packages(), *diagnosis.tensorflow()]
    said = [finding.remedy for finding in findings if finding.subject in ("tensorflow-text", "TensorFlow Text")]
    assert said == ["tools/set_up"]


def test_missing_packages_are_faults_unless_only_an_extra_needs_them(monkeypatch):
    monkeypatch.setattr(installation, "installed_version", {}.get)
    states = {finding.subject: (finding.state, finding.remedy) for finding in diagnosis.packages()}
    assert states["sacrebleu"] == (FAULT, "tools/set_up")
    assert states["pytest"] == (NOTE, "tools/set_up --tests")


def test_training_needs_no_horovod(monkeypatch):
    monkeypatch.setattr(installation, "horovod_fault", lambda: "Horovod is not installed")
    (finding,) = diagnosis.horovod()
    assert (finding.state, finding.remedy) == (NOTE, installation.HOROVOD_COMMAND)


@pytest.mark.parametrize(
    ("mpi", "expected"),
    [
        (True, (GOOD, "0.28 with Gloo, MPI, no NCCL", "")),
        (False, (NOTE, "0.28 with Gloo, no MPI, no NCCL; only mpirun needs MPI", installation.HOROVOD_COMMAND)),
    ],
)
def test_how_to_get_mpi(monkeypatch, mpi, expected):
    built = {"gloo_built": lambda: True, "mpi_built": lambda: mpi, "nccl_built": lambda: 0}
    module = types.SimpleNamespace(**built)
    monkeypatch.setitem(sys.modules, "horovod", types.SimpleNamespace(tensorflow=module))
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", module)
    monkeypatch.setattr(installation, "horovod_fault", lambda: None)
    monkeypatch.setattr(installation, "installed_version", lambda name: "0.28")
    (finding,) = diagnosis.horovod()
    assert (finding.state, finding.text, finding.remedy) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fma avx2 avx512f avx512_bf16", "avx2, avx512f, avx512_bf16; --precision=bfloat16 is fast"),
        ("avx2 fma", "avx2; none for bfloat16: --precision=float32 is faster"),
    ],
)
def test_vector_instructions(monkeypatch, flags, expected):
    monkeypatch.setattr(diagnosis, "_lines_of", lambda path: ["processor : 0", f"flags : {flags}"])
    assert diagnosis._instructions().text == expected


def test_build_tools_that_are_missing(monkeypatch):
    monkeypatch.setattr(diagnosis.shutil, "which", lambda tool: None if tool == "cmake" else f"/bin/{tool}")
    finding = diagnosis.build_tools()
    assert (finding.state, finding.remedy) == (NOTE, "apt-get install cmake")


def test_a_name_without_an_address(monkeypatch):
    def fail(name):
        raise OSError

    monkeypatch.setattr(diagnosis.socket, "gethostname", lambda: "machine")
    monkeypatch.setattr(diagnosis.socket, "gethostbyname", fail)
    finding = diagnosis.own_name()
    assert (finding.state, finding.remedy) == (NOTE, "echo 127.0.1.1 machine >>/etc/hosts")


def test_little_memory_is_noted(monkeypatch):
    monkeypatch.setattr(diagnosis, "_memory_bytes", lambda: 10**9)
    found = {finding.subject: finding for finding in diagnosis.machine()}
    assert (found["Memory"].state, found["Memory"].text) == (NOTE, "1.0 GB free; the small models want 4 GB")


@pytest.mark.parametrize(("state", "code"), [(GOOD, 0), (NOTE, 0), (FAULT, 1)])
def test_the_exit_code_says_whether_it_can_train(monkeypatch, capsys, state, code):
    monkeypatch.setattr(diagnosis, "findings", lambda: iter([Finding("Thing", state, "is so", "mend it")]))
    assert doctor.diagnose(doctor.DoctorSettings()) == code
    assert "Thing: is so\n         to mend it: mend it\n" in capsys.readouterr().out


def test_the_network_between_two_machines():
    """One doctor answers, and the other measures."""
    (port,) = free_ports(1)
    command = [sys.executable, "-c", MAIN, f"--answer={port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=installation.ROOT) as answering:
        try:
            assert answering.stdout.readline() == f"Answering at port {port}, until Ctrl-C.\n"
            result = _run("--json", f"--hosts=127.0.0.1:{port}")
            answering.send_signal(signal.SIGINT)
            assert answering.wait(60) == 130
        finally:
            answering.kill()
    findings = {finding["subject"]: finding["text"] for finding in json.loads(result.stdout)["findings"]}
    assert re.fullmatch(r"[\d,.e+]+ MB/s, [\d.e-]+ ms", findings[f"Network to 127.0.0.1:{port}"])
