"""Wheels are fetched once, verified always, and asked for clearly when they cannot be had."""

import subprocess

import pytest

from tests.corpora.wheelhouse import make_wheel, messages
from tfnmt.corpora import sources
from tfnmt.corpora.sources import SOFTWARE
from tfnmt.corpora.wheels import fetch, licence_of
from tfnmt.errors import UserError


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A directory that is all that pip may look into."""
    directory = tmp_path / "index"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return directory


def _wheel(directory):
    return make_wheel(directory, "tfnmtpack", {"tfnmtpack/locale/de/LC_MESSAGES/p.mo": messages({"Yes": "Ja"})})


def test_pip_brings_what_is_missing_or_damaged(index, tmp_path, caplog):
    source, wheels = _wheel(index), tmp_path / "wheels"
    (path,) = fetch([source], wheels)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    assert fetch([source], wheels) == [path]
    assert path.read_bytes() == whole
    assert list(wheels.iterdir()) == [path]


def test_what_is_there_needs_no_network(tmp_path, monkeypatch):
    source = _wheel(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch([source], tmp_path) == list(tmp_path.iterdir())


def test_an_unreachable_index_is_explained(index, tmp_path):
    source, wheels = _wheel(tmp_path / "elsewhere"), tmp_path / "wheels"
    with pytest.raises(UserError) as caught:
        fetch([source], wheels)
    first, second = caught.value.faults
    assert first.startswith("tfnmtpack 1.0 could not be downloaded; pip says: No matching distribution")
    assert source.pattern in second and "--wheel_directory=" in second
    assert list(wheels.iterdir()) == []


def test_another_file_of_that_name_is_refused(index, tmp_path):
    source = _wheel(tmp_path / "pinned")
    make_wheel(index, "tfnmtpack", {"tfnmtpack/evil.json": {}})
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch([source], tmp_path / "wheels")


def test_the_licence_is_in_the_metadata(tmp_path):
    source = _wheel(tmp_path)
    assert licence_of(next(tmp_path.glob(source.pattern))) == "MIT"


def test_pins_are_complete():
    assert all(len(source.sha256) == 64 for source in SOFTWARE)
    assert len({source.name for source in SOFTWARE}) == len(SOFTWARE) == 16


def test_what_is_said_of_a_source_is_said_of_one_that_there_is():
    assert {*sources._JSON, *sources._ACCELERATORS} <= {source.name for source in SOFTWARE}
