"""Says what is installed, what is missing and the command that mends it.

    tfnmt-doctor          for people
    tfnmt-doctor --json   for programs

Its exit code is 0 when this machine can train, and 1 otherwise. It runs on a broken installation, too.
"""

import dataclasses
import json as json_format
import sys

import tfnmt
from tfnmt import diagnosis
from tfnmt.diagnosis import FAULT, NOTE, Finding
from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class DoctorSettings:
    """How the diagnosis is shown."""

    json: bool = setting(False, "Print one JSON object instead of lines.")


def main() -> None:
    """The console script."""
    try:
        from tfnmt.commands import application
    except ModuleNotFoundError:  # Without absl there are no flags, and this is the finding to show.
        sys.exit(diagnose(DoctorSettings(json="--json" in sys.argv)))
    application.run(diagnose, DoctorSettings)


def diagnose(settings: DoctorSettings) -> int:
    """Prints every finding; the exit code."""
    return _print_json() if settings.json else _print_lines()


def _print_json() -> int:
    findings = list(diagnosis.findings())
    can_train = _can_train(findings)
    values = [finding._asdict() for finding in findings]
    print(json_format.dumps({"tfnmt": tfnmt.__version__, "can_train": can_train, "findings": values}, indent=2))
    return 0 if can_train else 1


def _print_lines() -> int:
    print(f"tfnmt {tfnmt.__version__}")
    findings = []
    for finding in diagnosis.findings():
        findings.append(finding)
        print(_line(finding), flush=True)
    can_train = _can_train(findings)
    print("This machine can train." if can_train else "This machine cannot train: mend the faults above.")
    return 0 if can_train else 1


def _line(finding: Finding) -> str:
    mark = {NOTE: "note ", FAULT: "FAULT"}.get(finding.state, "ok   ")
    remedy = f"\n{'':9}to mend it: {finding.remedy}" if finding.remedy else ""
    return f"  {mark}  {finding.subject}: {finding.text}{remedy}"


def _can_train(findings: list[Finding]) -> bool:
    return all(finding.state != FAULT for finding in findings)


if __name__ == "__main__":
    main()
