"""setup.py, the pinned versions and the code agree."""

import ast
import re
import sys
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path

from tfnmt import installation

ROOT = installation.ROOT
SOURCES = sorted([*ROOT.glob("tfnmt/**/*.py"), *ROOT.glob("graphs/**/*.py")])


def _imported(path: Path) -> set[str]:
    """The top-level names that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_code_imports_just_what_setup_names():
    distributions = packages_distributions()
    imported = (
        {name for path in SOURCES for name in _imported(path)} - set(sys.stdlib_module_names) - {"tfnmt", "graphs"}
    )
    needed = {_normal(distributions[name][0]) for name in imported}
    of_the_code = ("", "horovod", "ctranslate2", "shortlist", "trackers")
    named = {_normal(each.name) for each in installation.requirements() if installation.extra_of(each) in of_the_code}
    assert needed <= named
    assert named - needed <= {"tensorboard", "cython"}  # event files are read with one, eflomal is built with the other


def test_every_requirement_has_a_pinned_version():
    pinned = dict(
        re.match(r"([\w.-]+)==([\w.]+)", line).groups()
        for line in (ROOT / "tools" / "constraints.txt").read_text().splitlines()
        if "==" in line and "<" not in line
    )
    for requirement in installation.requirements():
        if requirement.name != "horovod":  # tools/build_horovod pins it
            assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_every_console_script_has_its_command():
    scripts = {point.name: point for point in entry_points(group="console_scripts") if point.name.startswith("tfnmt-")}
    assert len(scripts) == 12
    for point in scripts.values():
        assert callable(point.load())


def test_every_directory_of_code_is_a_package():
    directories = {path.parent for path in SOURCES}
    assert [path for path in directories if not (path / "__init__.py").exists()] == []
