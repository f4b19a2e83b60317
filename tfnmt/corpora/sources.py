"""The packages whose message catalogues make the software corpus, pinned in `software.txt` by version and hash."""

import dataclasses
from pathlib import Path

_JSON = ("homeassistant",)
_ACCELERATORS = {"gaphor": "_", "gramps": "_", "nicotine-plus": "_", "spyder": "&"}


@dataclasses.dataclass(frozen=True)
class Source:
    """One wheel with message catalogues, and how they are written."""

    name: str
    version: str
    sha256: str
    form: str = "gettext"  # how its catalogues are written: gettext or json
    accelerator: str = ""  # the character before a menu's underlined letter

    @classmethod
    def pinned(cls, requirement: str) -> "Source":
        """The wheel that a line of `software.txt` pins, such as "ckan==2.12.0 --hash=sha256:3b41"."""
        name, version, sha256 = requirement.replace("==", " ").replace("--hash=sha256:", "").split()
        return cls(name, version, sha256, "json" if name in _JSON else "gettext", _ACCELERATORS.get(name, ""))

    @property
    def requirement(self) -> str:
        """The line of a requirements file that pins the wheel."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"

    @property
    def pattern(self) -> str:
        """The pattern that the name of the wheel's file matches."""
        return f"{self.name.replace('-', '_')}-{self.version}-*.whl"


SOFTWARE = tuple(
    Source.pinned(line)
    for line in Path(__file__).with_name("software.txt").read_text().splitlines()
    if not line.startswith("#")
)
