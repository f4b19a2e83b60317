"""The numbers of pairs that each step of a corpus read, kept and dropped, and why."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import logging


@dataclasses.dataclass
class Step:
    """The work of one step: read + added = kept + all that was dropped, in pairs."""

    name: str
    read: int = 0
    added: int = 0  # pairs that the step made beyond those that it read
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # reason -> pairs

    @property
    def kept(self) -> int:
        """Pairs that went on."""
        return self.read + self.added - self.dropped.total()

    def as_json(self) -> dict[str, Any]:
        """The counts, reasons in alphabetical order."""
        counts = {"step": self.name, "read": self.read, "added": self.added, "kept": self.kept}
        return counts | {"dropped": dict(sorted(self.dropped.items()))}

    def __str__(self) -> str:
        added = f", {self.added:,} added" if self.added else ""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common())
        return f"{self.name}: {self.read:,} read{added}, {self.kept:,} kept; dropped: {reasons or 'none'}"


class Report:
    """The steps of one corpus; each is logged as it is added."""

    def __init__(self) -> None:
        """An empty report."""
        self.steps: list[Step] = []
        self.sources: list[dict[str, Any]] = []

    def add(self, step: Step) -> None:
        """Logs `step` and keeps it."""
        self.steps.append(step)
        logging.info("%s", step)

    def add_source(self, facts: Mapping[str, Any]) -> None:
        """Keeps where a part of the corpus is from."""
        self.sources.append(dict(facts))

    def as_json(self) -> dict[str, Any]:
        """Sources and steps."""
        return {"sources": self.sources, "steps": [step.as_json() for step in self.steps]}
