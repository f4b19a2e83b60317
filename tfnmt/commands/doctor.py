"""Says what is installed, what is missing and the command that mends it.

    tfnmt-doctor          for people
    tfnmt-doctor --json   for programs
    tfnmt-doctor --answer=7000             on a host, until Ctrl-C, and
    tfnmt-doctor --hosts=other:7000        on another one: how fast the network between them is

Its exit code is 0 when this machine can train, and 1 otherwise. It runs on a broken installation, too.
"""

import dataclasses
import itertools
import json as json_format
import sys
from collections.abc import Iterable, Iterator, Sequence

import tfnmt
from tfnmt import diagnosis
from tfnmt.diagnosis import FAULT, GOOD, NOTE, Finding
from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class DoctorSettings:
    """How the diagnosis is shown."""

    json: bool = setting(False, "Print one JSON object instead of lines.")
    hosts: tuple[str, ...] = setting(
        (), "Machines to measure the network to, host:port, where `tfnmt-doctor --answer=port` runs."
    )
    answer: int = setting(
        0, "Port at which to answer `--hosts` of other machines, until Ctrl-C; 0 for none.", minimum=0, maximum=65535
    )


def main() -> None:
    """The console script."""
    try:
        from tfnmt.commands import application
    except ModuleNotFoundError:  # Without absl there are no flags, and this is the finding to show.
        sys.exit(diagnose(DoctorSettings(json="--json" in sys.argv)))
    application.run(diagnose, DoctorSettings)


def diagnose(settings: DoctorSettings) -> int:
    """Prints every finding; the exit code."""
    if settings.answer:
        return _answer(settings.answer)
    findings = itertools.chain(diagnosis.findings(), _links(settings.hosts))
    return _print_json(list(findings)) if settings.json else _print_lines(findings)


def _answer(port: int) -> int:
    from tfnmt.cluster.link_speed import Answering  # what a broken installation may lack is not asked for before

    with Answering(port) as answering:
        print(f"Answering at port {port}, until Ctrl-C.", flush=True)
        answering.serve_forever()
    return 0


def _links(hosts: Sequence[str]) -> Iterator[Finding]:
    from tfnmt.cluster.link_speed import measure

    for host in hosts:
        yield Finding(f"Network to {host}", GOOD, measure(host).describe())


def _print_json(findings: Sequence[Finding]) -> int:
    can_train = _can_train(findings)
    values = [finding._asdict() for finding in findings]
    print(json_format.dumps({"tfnmt": tfnmt.__version__, "can_train": can_train, "findings": values}, indent=2))
    return 0 if can_train else 1


def _print_lines(findings: Iterable[Finding]) -> int:
    print(f"tfnmt {tfnmt.__version__}")
    shown = []
    for finding in findings:
        shown.append(finding)
        print(_line(finding), flush=True)
    can_train = _can_train(shown)
    print("This machine can train." if can_train else "This machine cannot train: mend the faults above.")
    return 0 if can_train else 1


def _line(finding: Finding) -> str:
    mark = {NOTE: "note ", FAULT: "FAULT"}.get(finding.state, "ok   ")
    remedy = f"\n{'':9}to mend it: {finding.remedy}" if finding.remedy else ""
    return f"  {mark}  {finding.subject}: {finding.text}{remedy}"


def _can_train(findings: Sequence[Finding]) -> bool:
    return all(finding.state != FAULT for finding in findings)


if __name__ == "__main__":
    main()
