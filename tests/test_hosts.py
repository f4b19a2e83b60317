"""What trains on one machine trains on hosts, which share but a network: namespaces, where root may make them."""

import signal
import socket
import subprocess
import sys

import pytest

from tests.jobs import SHALLOW
from tests.programs import SECONDS
from tfnmt.errors import UserError
from tfnmt.installation import ROOT, horovod_fault
from tools import hosts


def refusal():
    """What keeps this machine from having hosts; empty when nothing."""
    try:
        with hosts.Hosts(1, bytes_per_second=1e8):
            return ""
    except UserError as error:
        return str(error)


REFUSAL = refusal()
pytestmark = pytest.mark.skipif(bool(REFUSAL), reason=REFUSAL)
ANSWERING = """
import socket
with socket.create_server(("", 7000)) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""


def reaches(found, address):
    """Whether host 0 gets a connection there."""
    program = f"import socket; socket.create_connection(({address!r}, 7000), 2)"
    return subprocess.run(found.command(0, [sys.executable, "-c", program]), capture_output=True).returncode == 0


def test_hosts_reach_each_other_until_a_link_is_down_and_leave_nothing():
    with hosts.Hosts(2, bytes_per_second=1e8) as found:
        answering = found.command(1, [sys.executable, "-c", ANSWERING])
        answering = subprocess.Popen(answering, stdout=subprocess.PIPE, text=True)
        assert answering.stdout.readline() == "ready\n"
        assert reaches(found, found.addresses[1])
        found.set_link(1, up=False)
        assert not reaches(found, found.addresses[1])
        shaped = subprocess.run(["tc", "qdisc"], capture_output=True, text=True).stdout
        assert shaped.count("rate 800Mbit") == 2  # what comes to each of them; the other half is in their namespaces
        name = found.name(1)
    assert answering.wait(SECONDS) == -9
    answering.stdout.close()
    assert name not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    assert name not in {interface for _, interface in socket.if_nameindex()}


@pytest.fixture
def words(corpus, tmp_path):
    """Flags of three updates."""
    yield [*SHALLOW, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--max_updates=3", "--threads=1"]


def run(command):
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_the_study_trains_on_hosts_what_print_commands_prints(corpus, tmp_path):
    """One worker alone and two with a server, whose workers get a share of a core once they train."""
    rows = {"single": "--strategy=single", "sync": "--strategy=sync"}
    for name, flag in rows.items():
        (tmp_path / f"{name}.flags").write_text(f"{flag}\n--log_every_updates=1\n--evaluate_every_updates=2\n")
    flags = [*SHALLOW, f"--data={corpus}", f"--output={tmp_path / 'study'}", "--cores=0.5", "--max_tokens=8000"]
    flags += ["--batch_positions=256"]
    trainings = f"--trainings={tmp_path / 'single.flags'}:1,{tmp_path / 'sync.flags'}:2:800"
    told = run([sys.executable, str(ROOT / "tools" / "hosts_study"), *flags, trainings, "--target=100"])
    assert [line.split(" | ")[:3] for line in told.splitlines() if "not there" in line] == [
        ["| single", "1", "none"],
        ["| sync", "2", "800"],
    ]
    assert (tmp_path / "study" / "hosts.png").exists()


def test_who_is_told_to_end_leaves_nothing():
    program = "import time; from tools.hosts import Hosts\nwith Hosts(1) as hosts:\n"
    program += " print(hosts.name(0), flush=True)\n time.sleep(60)"
    holding = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    name = holding.stdout.readline().strip()
    assert name in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    holding.terminate()
    assert holding.wait(SECONDS) == 128 + signal.SIGTERM
    holding.stdout.close()
    assert name not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout


@pytest.mark.skipif(horovod_fault() is not None, reason=str(horovod_fault()))
def test_ranks_train_on_hosts_whose_names_are_the_loopback_s(words, tmp_path):
    """Gloo took the address of the host's own name for the last of its connections, whatever the interface."""
    with hosts.Hosts(2) as found:
        told = run(hosts.rank_command(found, ["tfnmt-train", *words, "--strategy=ring_allreduce"], tmp_path))
    assert "update 3" in told
