"""What WORKSPACE.md and README.md say of the code: the example runs, and names and flags exist."""

import dataclasses
import importlib
import pkgutil
import re

import pytest

import tfnmt
from tfnmt.installation import ROOT
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import STRATEGIES

README, WORKSPACE = ((ROOT / name).read_text() for name in ("README.md", "WORKSPACE.md"))


def _section(text, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)[1]


def _rows():
    """Strategy -> the cells of its line in README's table: what it is, its flags, whether it runs on ranks."""
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", _section(README, "On many workers"), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def _settings():
    """Every dataclass of the package."""
    for found in pkgutil.walk_packages(tfnmt.__path__, "tfnmt."):
        for each in vars(importlib.import_module(found.name)).values():
            if isinstance(each, type) and dataclasses.is_dataclass(each):
                yield each


def test_the_example_of_a_strategy_runs(monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", _section(WORKSPACE, "Add a strategy"), re.MULTILINE | re.DOTALL)
    names = {"__name__": "workspace"}
    monkeypatch.setitem(STRATEGIES, "partial_average", None)  # so that it is gone behind the test
    for block in blocks:
        exec(compile(block, "WORKSPACE.md", "exec"), names)
    assert STRATEGIES["partial_average"]
    names["test_servers_go_half_of_the_way"]()


def test_readme_has_every_strategy_and_no_other():
    assert set(_rows()) == set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_readme_has_every_flag_of_a_strategy_and_no_other(name):
    _, flags, _ = _rows()[name]
    assert re.findall(r"`--(\w+)`", flags) == [field.name for field in dataclasses.fields(STRATEGIES[name])]


@pytest.mark.parametrize("name", STRATEGIES)
def test_readme_knows_which_strategies_run_on_ranks(name):
    *_, on_ranks = _rows()[name]
    settings = STRATEGIES[name]
    needed = re.findall(r"^with `--(\w+)`$", on_ranks)
    assert settings(**dict.fromkeys(needed, True)).row(2, OptimizerSettings()).has_barrier == (on_ranks != "no")
    assert settings().row(2, OptimizerSettings()).has_barrier == (on_ranks in ("yes", "one"))


def test_every_flag_that_is_named_exists():
    fields = [field for settings in _settings() for field in dataclasses.fields(settings)]
    known = {field.name for field in fields} | {field.metadata.get("formerly") for field in fields}
    named = re.findall(r"--([a-z0-9]+(?:_[a-z0-9]+)+)\b", README + WORKSPACE)
    assert len(set(named)) > 40
    assert set(named) - known == set()
