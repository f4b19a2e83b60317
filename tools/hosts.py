"""Hosts on one machine: network namespaces on a bridge, with links and processors as slow as asked for.

Every host has an address of its own on a network that nobody else sees. Its link is shaped in both directions by a
token bucket (tc-tbf), its processes share a quota of the processor (cgroups). That needs Linux, root, `ip` and `tc`.
"""

import contextlib
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from tfnmt.errors import UserError

PORT = 2222
"""At which the tasks of a cluster listen, each on a host of its own."""

_PROGRAMS = pathlib.Path(sys.executable).parent
_INTERFACE = "eth0"  # of a host, in its namespace
_NETWORK = "10.213.77"
_BURST_BYTES, _QUEUE = 65_536, "200ms"  # a bucket holds one of TCP's largest segments, or nothing would pass it
_PERIOD_MICROSECONDS = 10_000  # shorter than a step by far, so that steps last alike
_GROUPS = pathlib.Path("/sys/fs/cgroup")
_END_SECONDS = 10.0


class Hosts:
    """So many hosts, until the context ends; behind it their processes, namespaces and groups are gone.

    SIGTERM ends the context, too, and the process with it.

    Attributes:
      addresses: of each host.
    """

    def __init__(self, count: int, bytes_per_second: float | None = None):
        """Says what there will be.

        Args:
          count: of hosts.
          bytes_per_second: speed of each host's link, in each direction; None for no limit.
        """
        self.addresses = [f"{_NETWORK}.{host + 1}" for host in range(count)]
        self._bytes_per_second = bytes_per_second
        self._bridge = f"tfnmt{os.getpid()}"
        self._names = [f"{self._bridge}h{host}" for host in range(count)]

    def __enter__(self) -> "Hosts":
        """Makes them.

        Raises:
          UserError: this machine does not let us; the message says what is missing.
        """
        if problem := missing():
            raise UserError(f"Hosts in network namespaces need {problem}.")
        self._handler = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            _run(f"ip link add {self._bridge} type bridge")
            _run(f"ip link set {self._bridge} up")
            for name, address in zip(self._names, self.addresses):
                self._make(name, address)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        """Ends whatever runs on them and takes them away."""
        for group in map(_group, self._names):
            _kill(group)
        for name in self._names:
            _run(f"ip link delete {name}", may_fail=True)  # a namespace would take its end away some time later
            _run(f"ip netns delete {name}", may_fail=True)
        _run(f"ip link delete {self._bridge}", may_fail=True)
        signal.signal(signal.SIGTERM, self._handler)

    def name(self, host: int) -> str:
        """Of its namespace, its link on the bridge and its group."""
        return self._names[host]

    def command(self, host: int, words: Sequence[str]) -> list[str]:
        """The command that runs `words` on a host."""
        name = self._names[host]
        # `ip netns exec` would mount /sys anew, and nobody could go on to another host from there.
        entering = f'echo $$ > {_group(name) / "cgroup.procs"} && exec nsenter --net=/run/netns/{name} "$@"'
        return ["sh", "-c", entering, "sh", *words]

    def write_ssh(self, directory: pathlib.Path) -> None:
        """Writes a stand-in for ssh, by which a program on one host starts another one on a host of ours."""
        # Options may stand before the host and behind it.
        lines = ["#!/bin/sh", "host=", "while :; do", 'case "$1" in', "-o|-p|-i) shift 2;;", "-*) shift;;"]
        lines += ['*) [ -z "$host" ] || break; host="$1"; shift;;', "esac", "done", 'case "$host" in']
        lines += [
            f'{address}) exec {shlex.join(self.command(host, ["sh", "-c"]))} "$*";;'
            for host, address in enumerate(self.addresses)
        ]
        lines += ["esac", 'echo "ssh: no host $host" >&2', "exit 255"]
        program = directory / "ssh"
        program.write_text("\n".join(lines) + "\n")
        program.chmod(0o755)

    def limit(self, host: int, cores: float) -> None:
        """Gives the processes of a host so much of the processor."""
        group, quota = _group(self._names[host]), round(cores * _PERIOD_MICROSECONDS)
        if _is_unified():
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_MICROSECONDS}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
            (group / "cpu.cfs_quota_us").write_text(str(quota))

    def set_link(self, host: int, up: bool) -> None:
        """Cuts a host off, or joins it to the others again."""
        _run(f"ip link set {self._names[host]} {'up' if up else 'down'}")

    def set_speed(self, host: int, bytes_per_second: float) -> None:
        """Gives a host, whose link has a speed, another one."""
        for where, shape in self._shapes(self._names[host], bytes_per_second):
            _run(f"{where} qdisc replace {shape}")

    def signal(self, host: int, number: int) -> None:
        """Sends a signal to all processes of a host."""
        for process in _processes(_group(self._names[host])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def _make(self, name: str, address: str) -> None:
        group = _group(name)
        group.mkdir()
        # Whatever else this machine does hardly slows them.
        (group / ("cpu.weight" if _is_unified() else "cpu.shares")).write_text("10000" if _is_unified() else "262144")
        _run(f"ip netns add {name}")
        _run(f"ip link add {name} type veth peer name {_INTERFACE} netns {name}")
        _run(f"ip link set {name} master {self._bridge} up")
        _run(f"ip -n {name} address add {address}/24 dev {_INTERFACE}")
        for interface in ("lo", _INTERFACE):
            _run(f"ip -n {name} link set {interface} up")
        if self._bytes_per_second is not None:
            for where, shape in self._shapes(name, self._bytes_per_second):
                _run(f"{where} qdisc add {shape}")

    def _shapes(self, name: str, bytes_per_second: float) -> list[tuple[str, str]]:
        """Of what a host sends and of what it receives, where the shape is and what it is, in the words of tc."""
        shape = f"root tbf rate {round(8 * bytes_per_second)}bit burst {_BURST_BYTES} latency {_QUEUE}"
        return [(f"tc -n {name}", f"dev {_INTERFACE} {shape}"), ("tc", f"dev {name} {shape}")]


def cluster_commands(hosts: Hosts, servers: int, words: Sequence[str]) -> list[list[str]]:
    """The commands that tfnmt-launch prints for a chief, so many parameter servers, and workers on all other hosts.

    There is one for each host, in their order.
    """
    places = [f"{address}:{PORT}" for address in hosts.addresses]
    flags = [f"--chief_hosts={places[0]}", f"--ps_hosts={','.join(places[1 : 1 + servers])}"]
    flags += [f"--worker_hosts={','.join(places[1 + servers :])}", *words]
    launch = [str(_PROGRAMS / "tfnmt-launch"), "--print_commands", *flags]
    printed = subprocess.run(launch, capture_output=True, text=True, check=True).stdout
    commands: dict[int, list[str]] = {}
    for heading, line in (block.splitlines() for block in printed.strip().split("\n\n")):
        program, *rest = shlex.split(line)
        host = hosts.addresses.index(heading.rpartition(" ")[2])
        commands[host] = hosts.command(host, [str(_PROGRAMS / program), *rest])
    return [commands[host] for host in sorted(commands)]


def rank_command(hosts: Hosts, words: Sequence[str], directory: pathlib.Path) -> list[str]:
    """The command by which horovodrun starts `words` as a rank on each host; the stand-in for ssh is written."""
    hosts.write_ssh(directory)
    places = ",".join(f"{address}:1" for address in hosts.addresses)
    path = f"PATH={directory}:{_PROGRAMS}:{os.environ['PATH']}"
    start = ["horovodrun", "--gloo", "--disable-cache", "--network-interfaces", _INTERFACE]
    start += ["-np", str(len(hosts.addresses)), "-H", places]
    return hosts.command(0, ["env", path, *start, *words])


def missing() -> str:
    """What this machine lacks to have hosts, in words; empty when nothing."""
    if os.geteuid():
        return "root"
    for program, package in (("ip", "iproute2"), ("tc", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            return f"`{program}` (Debian's package {package})"
    if not _groups().is_dir() or not os.access(_groups(), os.W_OK):
        return f"cgroups with the processor's controller, writable at {_groups()}"
    name = f"tfnmt{os.getpid()}try"
    if _run(f"ip netns add {name}", may_fail=True):
        return "the right to make network namespaces"
    _run(f"ip netns delete {name}")
    return ""


def _is_unified() -> bool:
    """Whether cgroups are of the second version."""
    return (_GROUPS / "cgroup.controllers").exists()


def _groups() -> pathlib.Path:
    return _GROUPS if _is_unified() else _GROUPS / "cpu"


def _group(name: str) -> pathlib.Path:
    return _groups() / name


def _processes(group: pathlib.Path) -> list[int]:
    return [*map(int, (group / "cgroup.procs").read_text().split())]


def _kill(group: pathlib.Path) -> None:
    """Ends every process of a group, and the group."""
    if not group.is_dir():
        return
    limit = time.monotonic() + _END_SECONDS
    while (processes := _processes(group)) and time.monotonic() < limit:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    group.rmdir()


def _run(command: str, may_fail: bool = False) -> int:
    """Runs a command and returns its exit code.

    Raises:
      UserError: it failed and may not.
    """
    ended = subprocess.run(shlex.split(command), capture_output=True, text=True)
    if ended.returncode and not may_fail:
        raise UserError(f"`{command}` failed: {ended.stderr.strip()}.")
    return ended.returncode
