"""Checkpoints: what is saved comes back, whatever happens to the process, the files or the disk."""

import contextlib
import itertools
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from tfnmt import checkpoint_files, durable_files
from tfnmt.checkpoints import Checkpoint, CheckpointStore, SaveError
from tfnmt.errors import UserError


def _checkpoint(update: int, seed: int = 0, elements: int = 60) -> Checkpoint:
    random = np.random.default_rng([update, seed])
    matrix = random.normal(size=(elements // 6, 6)).astype(np.float32)
    return Checkpoint(
        update=update,
        parameters={"embedding": matrix, "scale": random.normal(size=()), "empty": np.zeros((0, 3), np.float32)},
        state={"adam_m": {"embedding": matrix + 1}, "average": {"embedding": matrix.astype(np.float64).T}},
        progress={"seed": seed, "reader": [1, 2, 3], "best": {"bleu": 31.5, "loss": float("inf")}, "name": "ü"},
    )


def _assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.update == expected.update
    assert found.progress == expected.progress
    assert found.state.keys() == expected.state.keys()
    pairs = [
        (found.parameters, expected.parameters),
        *((found.state[slot], expected.state[slot]) for slot in found.state),
    ]
    for arrays, others in pairs:
        assert arrays.keys() == others.keys()
        for name in arrays:
            assert arrays[name].dtype == others[name].dtype
            np.testing.assert_array_equal(arrays[name], others[name])


def _place(store: CheckpointStore, update: int):
    return store.directory / f"update-{update:010d}"


def _flip_a_bit(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _hidden(directory) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last=3, keep_best=1)


# What is saved comes back.


def test_everything_comes_back_bit_for_bit(store):
    store.save(_checkpoint(7))
    _assert_equal(store.load(), _checkpoint(7))


def test_only_the_slots_asked_for_are_read(store):
    store.save(_checkpoint(7))
    assert store.load(slots=()).state == {}
    assert store.load(slots={"average"}).state.keys() == {"average"}


def test_numpy_numbers_in_progress_become_json(store):
    store.save(Checkpoint(1, {"a": np.ones(2, np.float32)}, {}, {"loss": np.float32(0.5), "tokens": np.int64(3)}))
    assert store.load().progress == {"loss": 0.5, "tokens": 3}


def test_other_programs_can_read_the_arrays(store):
    import safetensors

    store.save(_checkpoint(7))
    with safetensors.safe_open(_place(store, 7) / "parameters.safetensors", framework="np") as file:
        assert set(file.keys()) == {"embedding", "scale", "empty"}


def test_updates_order_by_number_and_not_by_time(store):
    for update in (900, 1000, 1100):
        store.save(_checkpoint(update))
    for seconds, update in enumerate((1100, 1000, 900)):
        os.utime(_place(store, update), (seconds, seconds))
    assert store.updates() == [900, 1000, 1100]
    assert store.load().update == 1100


def test_a_checkpoint_of_the_same_update_is_replaced(store):
    store.save(_checkpoint(5), metric=3.0)
    store.save(_checkpoint(5, seed=1))
    _assert_equal(store.load(), _checkpoint(5, seed=1))
    assert store.ranking() == []
    assert _hidden(store.directory) == []


def test_without_any_checkpoint_the_message_says_so(store):
    assert (store.updates(), store.newest, store.ranking()) == ([], None, [])
    with pytest.raises(UserError, match="no checkpoint that can be used; updates with a checkpoint: none"):
        store.load()


# Which are kept.


def test_the_last_and_the_best_are_kept(store):
    for update, metric in enumerate([1.0, 9.0, 2.0, 3.0, 4.0, 5.0], start=1):
        store.save(_checkpoint(update), metric)
    assert store.updates() == [2, 4, 5, 6]
    assert (store.newest, store.ranking()[0]) == (6, 2)
    assert store.load("best").update == 2


def test_progress_is_told_of_those_from_which_training_may_go_on(store):
    """Not of a future that was given up, nor of an older one that is kept for its metric, unless there is room."""
    assert store.progress() == []
    for update, metric in enumerate([9.0, 1.0, 2.0, 3.0, 4.0], start=1):
        store.save(_checkpoint(update, seed=update), metric)
    assert [progress["seed"] for progress in store.progress()] == [3, 4, 5]
    store.save(_checkpoint(4, seed=7))
    assert [progress["seed"] for progress in store.progress()] == [1, 3, 7]


def test_several_best_are_kept_and_of_equals_the_earlier(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=2)
    for update, metric in enumerate([5.0, 7.0, 7.0, 1.0, float("nan")], start=1):
        store.save(_checkpoint(update), metric)
    assert store.updates() == [2, 3, 5]
    assert store.ranking()[0] == 2


def test_a_future_that_was_given_up_is_deleted(store):
    for update in (10, 20, 30):
        store.save(_checkpoint(update))
    _flip_a_bit(_place(store, 30) / "progress.json")
    assert store.load().update == 20
    store.save(_checkpoint(25))
    assert store.updates() == [10, 20, 25]
    assert store.newest == 25


# Damage.


def _cut(path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES = {"flipped": _flip_a_bit, "cut": _cut, "emptied": lambda path: os.truncate(path, 0), "removed": os.remove}
FILES = ["parameters.safetensors", "state.adam_m.safetensors", "progress.json", "manifest.json"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(store, caplog, file, damage):
    store.save(_checkpoint(1))
    store.save(_checkpoint(2))
    DAMAGES[damage](_place(store, 2) / file)
    _assert_equal(store.load(), _checkpoint(1))
    assert "Checkpoint damaged: " in caplog.text
    assert str(_place(store, 2)) in caplog.text
    assert "Using that of update 1 instead" in caplog.text


def test_a_damaged_best_gives_way_to_the_next_best(store, caplog):
    for update, metric in ((1, 5.0), (2, 9.0), (3, 1.0)):
        store.save(_checkpoint(update), metric)
    _flip_a_bit(_place(store, 2) / "parameters.safetensors")
    assert store.load("best").update == 1
    assert "update-0000000002" in caplog.text


def test_a_checkpoint_asked_for_by_number_has_no_substitute(store):
    store.save(_checkpoint(1))
    store.save(_checkpoint(2))
    _flip_a_bit(_place(store, 2) / "parameters.safetensors")
    assert store.load(1).update == 1
    with pytest.raises(UserError, match="SHA-256"):
        store.load(2)
    with pytest.raises(UserError, match="no checkpoint of update 3; updates with a checkpoint: 1, 2"):
        store.load(3)


def test_one_that_is_asked_for_by_number_and_damaged_is_said_to_be_so(store):
    store.save(_checkpoint(1))
    store.save(_checkpoint(2))
    _flip_a_bit(_place(store, 2) / "progress.json")
    with pytest.raises(UserError) as caught:
        store.load(2)
    assert caught.value.faults[-1] == (
        f"{store.directory}: the checkpoint of update 2 is damaged; updates with another: 1."
    )


def test_when_all_are_damaged_each_is_named(store):
    for update in (1, 2):
        store.save(_checkpoint(update))
        _cut(_place(store, update) / "progress.json")
    with pytest.raises(UserError) as refusal:
        store.load()
    assert len(refusal.value.faults) == 3
    assert "update-0000000001" in str(refusal.value)
    assert "update-0000000002" in str(refusal.value)


def test_a_checkpoint_that_was_removed_by_hand_is_missed_aloud(store, caplog):
    store.save(_checkpoint(1))
    store.save(_checkpoint(2))
    shutil.rmtree(_place(store, 2))
    assert store.load().update == 1
    assert "No such file" in caplog.text


def test_training_may_go_on_while_another_process_reads(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep_last=1)
    store.save(_checkpoint(1))

    def read_too_late(*arguments, read=checkpoint_files.read):
        monkeypatch.undo()
        store.save(_checkpoint(2))
        return read(*arguments)

    monkeypatch.setattr(checkpoint_files, "read", read_too_late)
    assert store.load().update == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"newest": 1}', b"\xff"])
def test_without_a_sound_index_the_newest_is_found(store, caplog, content):
    store.save(_checkpoint(1), metric=1.0)
    store.save(_checkpoint(2))
    (store.directory / "index.json").write_bytes(content)
    assert store.load().update == 2
    assert "index.json is damaged" in caplog.text
    store.save(_checkpoint(3))
    assert store.newest == 3


def test_a_newer_format_is_not_read(store, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "FORMAT", 2)
    store.save(_checkpoint(1))
    monkeypatch.setattr(checkpoint_files, "FORMAT", 1)
    with pytest.raises(UserError, match="newer version"):
        store.load()


def test_what_cannot_be_read_back_is_never_committed(store, monkeypatch):
    store.save(_checkpoint(1))
    honest = durable_files.write

    def write_to_a_bad_disk(path, pieces):
        fingerprint = honest(path, pieces)
        if path.name == "parameters.safetensors":
            _flip_a_bit(path)
        return fingerprint

    monkeypatch.setattr(durable_files, "write", write_to_a_bad_disk)
    with pytest.raises(SaveError, match="SHA-256"):
        store.save(_checkpoint(2))
    monkeypatch.undo()
    assert store.updates() == [1]
    assert _hidden(store.directory) == []


# SIGKILL at any instant.


def _save_until_killed(directory, update: int, instants: int) -> None:
    """Saves, and dies at an access to the file system: `instants` of them succeed. Runs in a process of its own."""
    countdown = itertools.count(instants, -1)

    def pass_or_die(event, arguments=()):
        inside = event in ("os.remove", "os.rmdir", "write", "fsync") or str(directory) in str(arguments[:1])
        if inside and next(countdown) <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def write_in_two_halves(file, content):
        file.write(content[: len(content) // 2])
        pass_or_die("write")
        file.write(content[len(content) // 2 :])

    durable_files._write_whole = write_in_two_halves
    os.fsync = lambda descriptor: pass_or_die("fsync")
    sys.addaudithook(pass_or_die)
    CheckpointStore(directory, keep_last=1, keep_best=1).save(_checkpoint(update, seed=1))
    os._exit(0)


@pytest.mark.parametrize("update", [10, 20], ids=["same update", "next update"])
def test_sigkill_at_any_instant_of_a_save_leaves_a_checkpoint(tmp_path, monkeypatch, update):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # The machine stays up; only the process dies.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tfnmt.checkpoints", __name__])
    outcomes = []
    for instants in itertools.count():
        store = CheckpointStore(tmp_path / str(instants), keep_last=1, keep_best=1)
        store.save(_checkpoint(10))
        process = processes.Process(target=_save_until_killed, args=(store.directory, update, instants))
        process.start()
        process.join()
        survivor = store.load()
        new = survivor.progress["seed"] == 1
        _assert_equal(survivor, _checkpoint(update, seed=1) if new else _checkpoint(10))
        outcomes.append(new)
        store.remove_leftovers()
        assert _hidden(store.directory) in ([], [".index.json.writing"])
        store.save(_checkpoint(30))
        assert store.updates() == [30]
        assert _hidden(store.directory) == []
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert outcomes == sorted(outcomes)  # Once it is the new one, it stays the new one.
    assert len(outcomes) > 20
    assert not outcomes[0]
    assert outcomes[-1]


def test_leftovers_are_removed_and_a_replaced_checkpoint_restored(store):
    store.save(_checkpoint(1))
    _place(store, 1).rename(store.directory / ".update-0000000001.replaced")
    (store.directory / ".update-0000000002.writing").mkdir()
    (store.directory / ".update-0000000003.deleting").mkdir()
    assert store.load().update == 1
    store.remove_leftovers()
    assert sorted(path.name for path in store.directory.iterdir()) == ["index.json", "update-0000000001"]


# A full disk.


@contextlib.contextmanager
def _files_up_to(size_bytes: int):
    """The kernel refuses to let any file grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_midway_leaves_the_earlier_checkpoints(store):
    store.save(_checkpoint(1))
    with _files_up_to(100_000), pytest.raises(SaveError, match="File too large"):
        store.save(_checkpoint(2, elements=60_000))
    assert _hidden(store.directory) == []
    _assert_equal(store.load(), _checkpoint(1))


def test_too_little_room_is_noticed_before_writing(store, monkeypatch):
    store.save(_checkpoint(1))
    usage = shutil.disk_usage(store.directory)._replace(free=959)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(checkpoint_files, "write", lambda *arguments: pytest.fail("Nothing may be written."))
    with pytest.raises(SaveError) as refusal:
        store.save(_checkpoint(2))
    needed_bytes = 60 * 4 + 8 + 60 * 4 + 60 * 8
    assert f"({needed_bytes} bytes needed, 959 bytes free)" in str(refusal.value)
    assert str(store.directory) in str(refusal.value)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("Only root can mount a small file system.")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("noticed", ["before", "midway"])
def test_on_a_full_disk_training_can_go_on(small_disk, monkeypatch, noticed):
    if noticed == "midway":  # Someone else fills the disk after the free space was looked up.
        plenty = shutil.disk_usage(small_disk)._replace(free=1 << 40)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: plenty)
    store = CheckpointStore(small_disk / "checkpoints", keep_last=5)
    saved = []
    for update in range(1, 6):
        try:
            store.save(_checkpoint(update, elements=18_000))
            saved.append(update)
        except SaveError as error:
            assert "No space left on device" in str(error)
            assert _hidden(store.directory) == []
    assert saved == [1, 2, 3]
    assert store.updates() == saved
    _assert_equal(store.load(), _checkpoint(3, elements=18_000))


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SaveError, match="Not a directory"):
        CheckpointStore(tmp_path / "file" / "checkpoints").save(_checkpoint(1))
