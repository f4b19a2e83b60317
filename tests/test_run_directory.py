"""Run directories: what they record, what they refuse, and what a crash leaves of them."""

import dataclasses
import errno
import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from tfnmt import durable_files
from tfnmt.errors import UserError
from tfnmt.run_directory import RunDirectory, lock
from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class BaseSettings:
    width: int = setting(8, "Width.")


@dataclasses.dataclass(frozen=True)
class DeepSettings(BaseSettings):
    heads: int = setting(4, "Heads.")
    rate: float = setting(1, "A whole number where a fraction may stand.")


@dataclasses.dataclass(frozen=True)
class WideSettings(BaseSettings):
    cell: str = setting("gru", "Cell.")


@dataclasses.dataclass(frozen=True)
class RunSettings:
    files: tuple[str, ...] = setting((), "Files.", is_path=True)
    limit: float | None = setting(None, "Minutes.")
    max_updates: int = setting(100, "Updates.", may_change=True)


@dataclasses.dataclass(frozen=True)
class UpdateSettings:
    optimizer: str = setting("adam", "Optimizer.")
    beta: float = setting(0.9, "Decay.", only_with={"optimizer": ("adam",)})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "first"


@pytest.fixture
def run(path):
    return RunDirectory.create_or_check(path, DeepSettings(heads=2), RunSettings(files=("a", "b,c")))


# Settings.


def test_settings_come_back_as_they_were(run, path):
    opened = RunDirectory(path)
    assert opened.settings(DeepSettings) == DeepSettings(heads=2)
    assert opened.settings(RunSettings) == RunSettings(files=(os.path.abspath("a"), os.path.abspath("b,c")))


def test_versions_and_a_flagfile_are_recorded(run, path):
    versions = json.loads((path / "settings.json").read_text())["versions"]
    assert versions.keys() == {"tfnmt", "tensorflow", "python"}
    flags = (path / "flags.txt").read_text().splitlines()
    assert flags == [
        "# DeepSettings",
        "--width=8",
        "--heads=2",
        "--rate=1",
        "# RunSettings",
        f'--files={os.getcwd()}/a,"{os.getcwd()}/b,c"',
        "--limit=",
        "--max_updates=100",
    ]


def test_the_same_settings_are_accepted(run, path):
    again = RunDirectory.create_or_check(path, DeepSettings(heads=2, rate=1.0), RunSettings(files=("a", "b,c")))
    assert again.settings(DeepSettings) == DeepSettings(heads=2)


def test_what_may_change_is_recorded_anew(run, path):
    settings = RunSettings(files=("a", "b,c"), max_updates=200)
    RunDirectory.create_or_check(path, DeepSettings(heads=2), settings)
    assert RunDirectory(path).settings(RunSettings).max_updates == 200
    assert "--max_updates=200" in (path / "flags.txt").read_text()


def test_other_settings_are_refused_with_every_difference(run, path):
    before = (path / "settings.json").read_bytes()
    with pytest.raises(UserError) as refusal:
        RunDirectory.create_or_check(path, DeepSettings(width=16, heads=2), RunSettings(limit=5.0, max_updates=7))
    heading, *differences = refusal.value.faults
    assert str(path) in heading
    assert f"--flagfile={path / 'flags.txt'}" in heading
    assert differences == [
        "--width: 8 in the run directory, 16 now.",
        f'--files: {os.getcwd()}/a,"{os.getcwd()}/b,c" in the run directory, (empty) now.',
        "--limit: (empty) in the run directory, 5.0 now.",
    ]
    assert (path / "settings.json").read_bytes() == before


def test_another_class_of_settings_is_a_difference(run, path):
    with pytest.raises(UserError) as refusal:
        RunDirectory.create_or_check(path, WideSettings(cell="lstm"), RunSettings(files=("a", "b,c")))
    assert "--heads: 2 in the run directory, (absent) now." in refusal.value.faults
    assert "--cell: gru in the run directory, lstm now." in refusal.value.faults


def _rewrite(path, change) -> None:
    recorded = json.loads((path / "settings.json").read_text())
    change(recorded)
    (path / "settings.json").write_text(json.dumps(recorded))


def test_a_setting_that_is_new_has_its_default_in_older_runs(run, path):
    _rewrite(path, lambda recorded: recorded["settings"]["DeepSettings"].pop("width"))
    assert RunDirectory(path).settings(DeepSettings) == DeepSettings(heads=2)
    RunDirectory.create_or_check(path, DeepSettings(heads=2), RunSettings(files=("a", "b,c")))


def test_the_home_directory_in_older_runs(run, path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    _rewrite(path, lambda recorded: recorded["settings"]["RunSettings"].update(files=["~/a"]))
    assert RunDirectory(path).settings(RunSettings).files == ("/home/me/a",)
    RunDirectory.create_or_check(path, DeepSettings(heads=2), RunSettings(files=("/home/me/a",)))


def test_a_path_means_the_same_place_from_every_directory_and_however_it_is_spelt(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunDirectory.create_or_check(path, RunSettings(files=("a", "-")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recorded = RunSettings(files=(str(tmp_path / "a"), "-"))
    assert RunDirectory(path).settings(RunSettings) == recorded
    assert f"--files={tmp_path}/a,-\n" in (path / "flags.txt").read_text()
    for same in ("../a", "./.././a", f"{tmp_path}//a"):
        RunDirectory.create_or_check(path, RunSettings(files=(same, "-")))
        assert RunDirectory(path).settings(RunSettings) == recorded
    with pytest.raises(UserError, match="was made with other settings"):
        RunDirectory.create_or_check(path, RunSettings(files=("a", "-")))


def test_a_setting_that_was_renamed_is_the_same(run, path):
    @dataclasses.dataclass(frozen=True)
    class DeepSettings(BaseSettings):
        attention_heads: int = setting(4, "Heads.", formerly="heads")
        rate: float = setting(1, "Rate.")

    assert RunDirectory(path).settings(DeepSettings) == DeepSettings(attention_heads=2)
    with pytest.raises(UserError, match="--attention_heads: 2 in the run directory, 4 now"):
        RunDirectory.create_or_check(path, DeepSettings(), RunSettings(files=("a", "b,c")))
    RunDirectory.create_or_check(path, DeepSettings(attention_heads=2), RunSettings(files=("a", "b,c")))


def test_what_does_nothing_may_differ(path):
    """A version that refused no such flags recorded what they said."""
    RunDirectory.create_or_check(path, UpdateSettings("sgd", beta=0.5))
    RunDirectory.create_or_check(path, UpdateSettings("sgd"))
    with pytest.raises(UserError, match="--optimizer: sgd in the run directory, adam now"):
        RunDirectory.create_or_check(path, UpdateSettings("adam"))


def test_files_may_have_been_moved(path, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    RunDirectory.create_or_check(path, RunSettings(files=(str(old),)))
    new.touch()
    with pytest.raises(UserError, match="was made with other settings"):
        RunDirectory.create_or_check(path, RunSettings(files=(str(new),)))
    old.unlink()
    RunDirectory.create_or_check(path, RunSettings(files=(str(new),)))


def test_relative_paths_in_older_runs(run, path):
    _rewrite(path, lambda recorded: recorded["settings"]["RunSettings"].update(files=["a", "./b,c"]))
    RunDirectory.create_or_check(path, DeepSettings(heads=2), RunSettings(files=("./a", "b,c")))
    assert json.loads((path / "settings.json").read_text())["settings"]["RunSettings"]["files"] == [
        *(os.path.abspath("a"), os.path.abspath("b,c"))
    ]


def test_a_setting_that_is_gone_is_refused_naming_the_versions(run, path):
    _rewrite(path, lambda recorded: recorded["settings"]["DeepSettings"].update(ghost=1))
    _rewrite(path, lambda recorded: recorded["versions"].update(tfnmt="9.9"))
    with pytest.raises(UserError, match=r"ghost is not a setting.*9\.9"):
        RunDirectory(path).settings(DeepSettings)


def test_settings_that_the_run_lacks_are_refused(run, path):
    with pytest.raises(UserError, match="has no WideSettings"):
        RunDirectory(path).settings(WideSettings)


# Opening.


def test_a_missing_directory_is_named(path):
    with pytest.raises(UserError, match=f"--run_directory={path}: there is no such directory"):
        RunDirectory(path)


def test_an_ordinary_directory_is_not_a_run_directory(tmp_path):
    with pytest.raises(UserError, match=r"is not a run directory: it has no settings\.json"):
        RunDirectory(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"format": "x"}', '{"format": 1, "settings": {"A": 1}}']
)
def test_damaged_settings_are_refused(run, path, content):
    (path / "settings.json").write_text(content)
    with pytest.raises(UserError, match=r"settings\.json is damaged"):
        RunDirectory(path)
    with pytest.raises(UserError, match=r"settings\.json is damaged"):
        RunDirectory.create_or_check(path, DeepSettings(), RunSettings())


def test_damaged_settings_can_be_written_anew(run, path):
    (path / "checkpoints").mkdir()
    (path / "settings.json").unlink()
    RunDirectory.create_or_check(path, DeepSettings(heads=2), RunSettings())
    assert RunDirectory(path).settings(DeepSettings) == DeepSettings(heads=2)


def test_a_newer_format_is_refused(run, path):
    _rewrite(path, lambda recorded: recorded.update(format=99))
    with pytest.raises(UserError, match="newer"):
        RunDirectory(path)


def test_a_directory_with_other_things_in_it_is_not_taken(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"not empty: it holds thesis.tex"):
        RunDirectory.create_or_check(tmp_path, RunSettings())


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="File exists"):
        RunDirectory.create_or_check(tmp_path / "file", RunSettings())


def test_a_creation_that_was_cut_short_is_taken_up(path, monkeypatch):
    def replace_and_die(target, content, replace=durable_files.replace):
        if target.name == "settings.json":
            (target.parent / ".settings.json.writing").write_bytes(content[:5])
            raise KeyboardInterrupt
        replace(target, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(durable_files, "replace", replace_and_die)
        RunDirectory.create_or_check(path, RunSettings())
    RunDirectory.create_or_check(path, RunSettings())
    assert sorted(entry.name for entry in path.iterdir()) == ["flags.txt", "settings.json"]


# The lock.

HOLD_THE_LOCK = """
import sys, time
from tfnmt.run_directory import lock
with lock(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_holder_and_ends_with_its_death(run, path):
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on .* is training here"), lock(path):
            pytest.fail("Two processes hold the lock.")
        settings = (path / "settings.json").read_bytes()
        again = (path, DeepSettings(heads=2), RunSettings(files=("a", "b,c"), max_updates=200))
        with pytest.raises(UserError, match="is training here"), RunDirectory.locked(*again):
            pytest.fail("Two processes hold the lock.")
        assert (path / "settings.json").read_bytes() == settings
        holder.send_signal(signal.SIGKILL)
    with lock(path):
        assert f"process {os.getpid()} on " in (path / "lock").read_text()
    with lock(path):
        pass


def test_settings_are_recorded_with_the_lock_held(path):
    path.mkdir(parents=True)
    (path / "lock").touch()  # by a process that was killed at once
    with RunDirectory.locked(path, DeepSettings(heads=2)) as run:
        assert run.settings(DeepSettings) == DeepSettings(heads=2)
        assert f"process {os.getpid()} on " in (path / "lock").read_text()


# Vocabularies.


@pytest.fixture
def vocabularies(tmp_path):
    paths = [tmp_path / name for name in ("german.model", "english.model")]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


def test_separate_vocabularies_are_copied(run, path, vocabularies):
    run.adopt_vocabularies(*vocabularies)
    assert run.source_vocabulary.read_bytes() == b"german.model"
    assert run.target_vocabulary.read_bytes() == b"english.model"
    assert run.source_vocabulary.parent == path


def test_a_joint_vocabulary_is_one_file(run, path, vocabularies):
    run.adopt_vocabularies(vocabularies[0], vocabularies[0])
    assert run.source_vocabulary == run.target_vocabulary == path / "vocabulary.model"


def test_a_run_may_adopt_its_own_vocabularies(run, vocabularies):
    run.adopt_vocabularies(*vocabularies)
    run.adopt_vocabularies(run.source_vocabulary, run.target_vocabulary)


def test_other_vocabularies_than_before_are_refused(run, vocabularies):
    run.adopt_vocabularies(*vocabularies)
    with pytest.raises(UserError) as refusal:
        run.adopt_vocabularies(*reversed(vocabularies))
    assert len(refusal.value.faults) == 2
    with pytest.raises(UserError, match="another vocabulary"):
        run.adopt_vocabularies(vocabularies[0], vocabularies[0])
    assert run.source_vocabulary.read_bytes() == b"german.model"


def test_missing_vocabularies_are_named(run, tmp_path):
    with pytest.raises(UserError, match=r"vocabulary.source.model is missing"):
        run.source_vocabulary  # noqa: B018 (reading it is the point)
    with pytest.raises(UserError, match=r"nowhere.model: No such file"):
        run.adopt_vocabularies(tmp_path / "nowhere.model", tmp_path / "nowhere.model")


# Metrics.


def test_metrics_are_one_record_a_line(run):
    run.append_metrics({"update": 1, "loss": np.float32(0.5), "tokens": np.int64(3)})
    run.append_metrics({"update": 2, "loss": float("nan"), "scores": {"bleu": np.inf, "each": np.arange(2)}})
    assert run.read_metrics() == [
        {"update": 1, "loss": 0.5, "tokens": 3},
        {"update": 2, "loss": None, "scores": {"bleu": None, "each": [0, 1]}},
    ]


def test_a_resumed_run_drops_what_it_will_do_again(run, caplog):
    run.append_metrics({"model": "tiny"})
    for update in (10, 20, 30):
        run.append_metrics({"update": update})
    with open(run.metrics, "a") as file:
        file.write('{"update": 2')
    run.rewind_metrics(20)
    assert "metrics.jsonl:5 was cut short" in caplog.text
    run.append_metrics({"update": 21})
    assert run.read_metrics() == [{"model": "tiny"}, {"update": 10}, {"update": 20}, {"update": 21}]


def test_a_run_without_metrics_has_none(run):
    run.rewind_metrics(5)
    assert run.read_metrics() == []


# Full disks.


def test_what_does_not_fit_on_the_disk_is_named(path, monkeypatch):
    def write_nothing(file, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable_files, "_write_whole", write_nothing)
    with pytest.raises(OSError) as caught:
        RunDirectory.create_or_check(path, DeepSettings())
    assert caught.value.filename == str(path / "flags.txt")
    assert not list(path.iterdir())


def test_a_lock_that_does_not_fit_on_the_disk_is_named(tmp_path):
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))  # A file that may not grow is like a full disk.
    try:
        with pytest.raises(OSError) as caught, lock(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    assert caught.value.filename == str(tmp_path / "lock")
