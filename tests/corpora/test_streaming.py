"""A corpus that is never in memory: bounded, the same on any number of processes, whole or not there at all."""

import gzip
import json
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.corpora import in_memory, tasks
from tfnmt.commands.corpus import CorpusSettings, prepare
from tfnmt.corpora import keys, texts, workers
from tfnmt.corpora.cleaning import CleaningSettings
from tfnmt.corpora.keys import contained, first_occurrences, smallest, unique
from tfnmt.corpora.pairs import skeleton
from tfnmt.corpora.plain import FileSettings
from tfnmt.corpora.splitting import SplittingSettings
from tfnmt.corpora.workers import in_order
from tfnmt.data import files
from tfnmt.data.files import TextPair, read_pairs
from tfnmt.errors import UserError

SPLITTING = SplittingSettings(validation_pairs=40, test_pairs=30)
_WORDS = [f"{a}{b}{c}" for a in ("ba", "ke", "lü") for b in ("na", "ro", "ti") for c in ("s", "m", "", "n")]


def _sentence():
    return " ".join(random.choices(_WORDS, k=random.randint(2, 12)))


def _pairs(count):
    """Pairs of which some come again, far behind, and some are dropped."""
    pairs = [(_sentence(), _sentence()) for _ in range(count * 8 // 10)]
    pairs += random.choices(pairs, k=count // 10)
    pairs += [(f"{source.upper()}!", target) for source, target in random.choices(pairs, k=count // 20)]
    pairs += [(source, "") for source, _ in random.choices(pairs, k=count - len(pairs))]
    return pairs


def _write(directory, pairs):
    directory.mkdir(parents=True, exist_ok=True)
    for side, name in enumerate(("my.en", "my.de")):
        (directory / name).write_text("".join(f"{pair[side]}\n" for pair in pairs))
    return FileSettings((str(directory / "my.en"),), (str(directory / "my.de"),))


def _run(source, output, **settings):
    settings = {"corpus": "files", "cleaning": "on", "processes": 1} | settings
    prepare(CorpusSettings(output=str(output), **settings), source, CleaningSettings(), SPLITTING)


def _prepare(source, output, **settings):
    """What tfnmt-corpus writes, by the name of the file."""
    _run(source, output, **settings)
    return {path.name: path.read_bytes() for path in output.iterdir()}


@pytest.fixture
def _small_chunks(monkeypatch):
    monkeypatch.setattr(texts, "CHUNK_PAIRS", 64)
    monkeypatch.setattr(files, "_BLOCK_BYTES", 1000)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("compressed", [False, True])
def test_processes_change_nothing(tmp_path, compressed):
    source = _write(tmp_path, _pairs(1000))
    alone = _prepare(source, tmp_path / "one", compressed=compressed)
    assert alone == _prepare(source, tmp_path / "three", compressed=compressed, processes=3)
    assert len(alone) == 7


@pytest.mark.usefixtures("_small_chunks")
def test_the_files_have_what_a_corpus_in_memory_would_have(tmp_path):
    """Duplicates and equal skeletons are found however many chunks are between them."""
    pairs = _pairs(1000)
    written = _prepare(_write(tmp_path, pairs), tmp_path / "out")
    kept, dropped = in_memory.clean(pairs)
    splits = in_memory.split(kept, {"test": 30, "validation": 40})
    assert dropped["duplicates"] > 100 and len(splits["train"]) == len(kept) - 70
    for name, expected in splits.items():
        sides = (written[f"{name}.{language}"].decode().splitlines() for language in ("en", "de"))
        assert list(zip(*sides, strict=True)) == expected
    held_out = {skeleton(source) for name in ("test", "validation") for source, _ in splits[name]}
    assert len(held_out) == 70 and not held_out & {skeleton(source) for source, _ in splits["train"]}


@pytest.mark.usefixtures("_small_chunks")
def test_gzip_in_and_out(tmp_path):
    """A file of several compressed members is one text for Python and for the graph alike."""
    pairs = _pairs(500)
    source = _write(tmp_path, pairs)
    plain = _prepare(source, tmp_path / "plain")
    for name in ("my.en", "my.de"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    zipped = FileSettings((str(tmp_path / "my.en.gz"),), (str(tmp_path / "my.de.gz"),))
    assert _prepare(zipped, tmp_path / "from")["train.en"] == plain["train.en"]
    written = _prepare(zipped, tmp_path / "both", compressed=True)
    assert {name.removesuffix(".gz") for name in written} == set(plain)
    for name in set(plain) - {"corpus.json"}:
        assert gzip.decompress(written[f"{name}.gz"]) == plain[name]
    path = str(tmp_path / "both" / "train.en.gz")
    in_graph = b"".join(line + b"\n" for line in tf.data.TextLineDataset(path, "GZIP").as_numpy_iterator())
    assert in_graph == plain["train.en"]
    facts = json.loads(written["corpus.json"])["files"]
    assert facts["train.en.gz"]["lines"] == plain["train.en"].count(b"\n")


def test_one_form_takes_the_place_of_the_other(tmp_path):
    """A plain file left beside the compressed one would be trained on."""
    source = _write(tmp_path, _pairs(200))
    plain = _prepare(source, tmp_path / "out")
    assert all(name.endswith((".gz", ".json")) for name in _prepare(source, tmp_path / "out", compressed=True))
    assert _prepare(source, tmp_path / "out") == plain


@pytest.fixture
def _small_steps(monkeypatch):
    monkeypatch.setattr(keys, "_BUCKET", 50)
    monkeypatch.setattr(keys, "_BLOCK", 30)


def _peak(work, *arguments):
    """Most bytes that Python's objects and NumPy's arrays have at once."""
    tracemalloc.start()
    work(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.usefixtures("_small_chunks", "_small_steps")
def test_memory_grows_by_some_bytes_a_pair(tmp_path):
    """30 million pairs must fit in 1 GB: 33 bytes a pair; a list of the same pairs takes many times as much."""
    pairs = {count: [(f"{n} {_sentence()}", f"{n} {_sentence()}") for n in range(count)] for count in (500, 2500)}
    sources = {count: _write(tmp_path / str(count), each) for count, each in pairs.items()}
    _run(sources[500], tmp_path / "warm")  # what is made once and kept
    small, large = (_peak(_run, source, tmp_path / "out") for source in sources.values())
    assert (large - small) / 2000 < 33
    pair = TextPair(str(tmp_path / "2500" / "my.en"), str(tmp_path / "2500" / "my.de"))
    assert _peak(list, read_pairs(pair)) / 2500 > 5 * 33


def test_a_text_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    source = _write(tmp_path, _pairs(200))
    measured = texts.FileText.chunks

    def grown(text):
        yield from measured(text)
        _write(tmp_path, _pairs(210))

    monkeypatch.setattr(texts.FileText, "chunks", grown)
    with pytest.raises(UserError, match=r"my\.de: no longer 200 pairs"):
        _prepare(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("_small_steps")
@pytest.mark.parametrize("size", [0, 1, 49, 700])
def test_keys_are_compared_a_part_at_a_time(size):
    """As sets and counters compare them, the largest and the smallest key among them."""
    generator = np.random.default_rng(1)
    edges = np.array([0, 2**64 - 1, 2**63], np.uint64)
    numbers = np.concatenate([edges, generator.integers(0, 2**64, 300, np.uint64)])[generator.integers(0, 303, size)]
    among = generator.random(size) < 0.7
    listed = numbers.tolist()
    assert first_occurrences(numbers).tolist() == [key not in listed[:row] for row, key in enumerate(listed)]
    asked = [key for key, is_asked in zip(listed, among) if is_asked]
    assert unique(numbers, among).tolist() == [
        bool(is_asked) and asked.count(key) == 1 for key, is_asked in zip(listed, among)
    ]
    others = np.unique(numbers[::3])
    assert contained(numbers, others).tolist() == [key in set(others.tolist()) for key in listed]
    alone = unique(numbers, among)
    order = sorted(np.flatnonzero(alone).tolist(), key=lambda row: listed[row])
    assert smallest(numbers, alone, 20).tolist() == order[:20]


def test_a_disk_that_is_full_of_keys_is_named(tmp_path, monkeypatch):
    """The files without a name are in --output."""
    source = _write(tmp_path, _pairs(200))
    with open("/dev/full", "r+b", buffering=0) as full:
        monkeypatch.setattr(keys.tempfile, "TemporaryFile", lambda dir: full)
        with pytest.raises(OSError, match="No space left") as error:
            _run(source, tmp_path / "out")
    assert error.value.filename == str(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_keys_are_the_order_of_the_hashes():
    """What is held out is chosen by it, and must not change."""
    words = [f"word {number}" for number in range(200)]
    assert sorted(words, key=keys.key_of) == sorted(words, key=in_memory.hashed)


def test_results_come_in_order_whoever_is_slow():
    assert list(in_order(tasks.square_slowly, range(40), 3)) == [number**2 for number in range(40)]


def test_tasks_are_taken_as_they_are_needed():
    """A corpus must not wait in memory for a process that is slow."""
    taken = []
    results = in_order(tasks.square_slowly, (taken.append(number) or number for number in range(1000)), 2)
    assert next(results) == 0
    assert len(taken) <= 2 * workers._AHEAD + 1
    results.close()


def test_a_killed_process_is_named():
    with pytest.raises(UserError, match="want of memory; give fewer --processes"):
        list(in_order(tasks.die, range(4), 2))


def test_a_failing_process_is_a_defect(capfd):
    with pytest.raises(RuntimeError, match="code 1"):
        list(in_order(tasks.fail, range(4), 2))
    assert "ValueError: no number" in capfd.readouterr().err


def _children(process):
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def _is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


_STANDS_STILL = """
import sys, time
sys.argv[0] = "tfnmt-corpus"
from tfnmt.commands import corpus
from tfnmt.corpora.output import CorpusFiles
done = CorpusFiles.{method}
CorpusFiles.{method} = lambda *words: ({before}, print("here", flush=True), time.sleep(600))
corpus.main()
"""


@pytest.mark.parametrize(("method", "before", "processes"), [("write", "done(*words)", 2), ("publish", "None", 0)])
def test_a_killed_run_leaves_the_corpus_of_before(tmp_path, method, before, processes):
    """Behind the first bytes and before the last step: no process stays, and the next run clears up."""
    source, output = _write(tmp_path, _pairs(200)), tmp_path / "out"
    written = _prepare(source, output)
    _write(tmp_path, _pairs(300))
    flags = ["--corpus=files", f"--train_source={source.train_source[0]}", f"--train_target={source.train_target[0]}"]
    code = _STANDS_STILL.format(method=method, before=before)
    words = [sys.executable, "-c", code, *flags, f"--output={output}", "--processes=2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        try:
            assert run.stdout.readline() == "here\n"
            children = _children(run.pid)
        finally:
            run.kill()
    assert len(children) == processes
    assert list(output.glob(".train.*.writing"))
    assert {name: (output / name).read_bytes() for name in written} == written
    deadline = time.monotonic() + 60
    while any(map(_is_running, children)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert set(_prepare(source, output)) == set(written)


def test_the_command_does_without_tensorflow():
    """Which would take half of the memory that 30 million pairs may."""
    code = (
        "import sys; sys.argv[0] = 'tfnmt-corpus'; import tfnmt.commands.corpus; sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
