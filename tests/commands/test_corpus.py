"""tfnmt-corpus, as it is called."""

import errno
import gzip
import itertools
import json
import os
import sys

import pytest

from tests.corpora.wheelhouse import english_german, make_wheel, messages, small_wheelhouse
from tfnmt.commands import corpus
from tfnmt.corpora.pairs import skeleton

FILES = sorted(f"{name}.{code}" for name in ("train", "validation", "test") for code in ("en", "de"))


def _run(monkeypatch, *arguments: str) -> str | int | None:
    monkeypatch.setattr(sys, "argv", ["tfnmt-corpus", *arguments])
    with pytest.raises(SystemExit) as end:
        corpus.main()
    return end.value.code


@pytest.fixture
def software(tmp_path, monkeypatch):
    """Runs tfnmt-corpus over a small wheelhouse instead of the pinned packages."""
    monkeypatch.setattr(corpus, "SOFTWARE", tuple(small_wheelhouse(tmp_path / "wheels")))
    return lambda *arguments: _run(monkeypatch, f"--wheel_directory={tmp_path / 'wheels'}", *arguments)


def _lines(path):
    return path.read_text().splitlines()


def _bytes(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_software_is_read_cleaned_and_split(software, tmp_path):
    assert not software(f"--output={tmp_path / 'out'}")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*FILES, "corpus.json"])
    facts = json.loads((tmp_path / "out/corpus.json").read_text())
    sizes = {name: len(_lines(tmp_path / "out" / name)) for name in FILES}
    assert sizes == {name: described["lines"] for name, described in facts["files"].items()}
    assert sizes["train.en"] == 288 and sizes["test.de"] == sizes["validation.de"] == 36
    assert facts["languages"] == "en-de" and facts["pairs_kept_by_source"] == {"home": 180, "tree": 180}
    assert [(source["name"], source["licence"], source["translated"]) for source in facts["sources"]] == [
        ("home", "MIT", 183),
        ("tree", "MIT", 180),
    ]
    written = zip(_lines(tmp_path / "out/train.en"), _lines(tmp_path / "out/train.de"), strict=True)
    assert all(english_german()[english] == german for english, german in written)


def test_the_counts_add_up(software, tmp_path):
    software(f"--output={tmp_path}")
    steps = json.loads((tmp_path / "corpus.json").read_text())["steps"]
    assert [step["step"] for step in steps] == ["align", "cut into paragraphs", "clean", "split"]
    assert all(step["read"] + step["added"] == step["kept"] + sum(step["dropped"].values()) for step in steps)
    assert all(after["read"] == before["kept"] for before, after in itertools.pairwise(steps))
    assert steps[2]["dropped"] == {"markup": 1, "placeholders differ": 1, "same on both sides": 1}


def test_a_message_of_several_lines_is_one_line_without_cleaning_too(tmp_path, monkeypatch):
    texts = english_german() | {
        "Open\nthe door.\n\nClose it.": "Öffne\ndie Tür.\n\nSchließe sie.",
        "One\n\nTwo": "Eins Zwei",
    }
    wheel = make_wheel(tmp_path / "wheels", "tree", {"tree/locale/de/LC_MESSAGES/tree.mo": messages(texts)})
    monkeypatch.setattr(corpus, "SOFTWARE", (wheel,))
    assert not _run(
        monkeypatch, f"--wheel_directory={tmp_path / 'wheels'}", f"--output={tmp_path / 'out'}", "--cleaning=off"
    )
    sides = (
        [line for name in FILES if name.endswith(code) for line in _lines(tmp_path / "out" / name)]
        for code in ("en", "de")
    )
    expected = english_german() | {
        "Open the door.": "Öffne die Tür.",
        "Close it.": "Schließe sie.",
        "One Two": "Eins Zwei",
    }
    assert dict(zip(*sides, strict=True)) == expected


def test_two_runs_write_the_same_bytes(software, tmp_path):
    for name in ("one", "two", "two"):
        software(f"--output={tmp_path / name}")
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_no_source_and_no_target_is_in_two_splits(software, tmp_path):
    software(f"--output={tmp_path}")
    for code in ("en", "de"):
        splits = [
            {skeleton(line) for line in _lines(tmp_path / f"{name}.{code}")} for name in ("train", "validation", "test")
        ]
        assert len(set.union(*splits)) == sum(map(len, splits))


def test_an_unknown_language_is_refused_with_those_that_exist(software, tmp_path, capfd):
    assert software(f"--output={tmp_path / 'out'}", "--languages=en-xx") == 2
    assert "--languages=en-xx: no catalogue is in xx; there are de, en, zh." in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_generated(tmp_path, monkeypatch):
    assert not _run(monkeypatch, "--corpus=generated", "--generated_pairs=300", f"--output={tmp_path}")
    assert [len(_lines(tmp_path / f"{name}.en")) for name in ("train", "validation", "test")] == [240, 30, 30]


def _write_multi30k(directory, names=("train", "val", "test_2016_flickr")):
    for name in names:
        for code in ("en", "de"):
            with gzip.open(directory / f"{name}.{code}.gz", "wt") as file:
                file.writelines(f"{name} {code} {line}\n" for line in (1, 2, 2))


def test_multi30k_stays_as_it_is(tmp_path, monkeypatch):
    _write_multi30k(tmp_path)
    arguments = ("--corpus=multi30k", f"--input={tmp_path}", f"--output={tmp_path / 'out'}")
    assert not _run(monkeypatch, *arguments, "--languages=de-en")
    assert _lines(tmp_path / "out/train.de") == ["train de 1", "train de 2", "train de 2"]
    assert _lines(tmp_path / "out/validation.en") == ["val en 1", "val en 2", "val en 2"]
    assert _lines(tmp_path / "out/test.en") == [f"test_2016_flickr en {line}" for line in (1, 2, 2)]


def test_missing_parts_of_multi30k_are_all_named(tmp_path, monkeypatch, capfd):
    _write_multi30k(tmp_path, ["train"])
    arguments = ("--corpus=multi30k", f"--output={tmp_path / 'out'}")
    assert _run(monkeypatch, *arguments, f"--input={tmp_path}") == 2
    shown = capfd.readouterr().err
    assert all(f"{name}.{code}" in shown for name in ("val", "test_2016_flickr") for code in ("en", "de"))
    assert _run(monkeypatch, *arguments) == 2
    assert "--input is missing" in capfd.readouterr().err


def _write_files(directory):
    pairs = english_german()
    (directory / "all.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs.items()))
    (directory / "t.en").write_text("".join(f"{source.upper()}\n" for source in list(pairs)[:40]))
    (directory / "t.de").write_text("".join(f"{target}\n" for target in list(pairs.values())[:40]))


def test_files_with_a_test_of_their_own(tmp_path, monkeypatch):
    _write_files(tmp_path)
    given = (f"--test_source={tmp_path / 't.en'}", f"--test_target={tmp_path / 't.de'}")
    out = tmp_path / "out"
    assert not _run(monkeypatch, "--corpus=files", f"--train_source={tmp_path / 'all.tsv'}", *given, f"--output={out}")
    assert _lines(out / "test.en") == _lines(tmp_path / "t.en")
    assert [len(_lines(out / f"{name}.de")) for name in ("train", "validation")] == [288, 32]
    separate = next(s for s in json.loads((out / "corpus.json").read_text())["steps"] if s["step"] == "separate")
    assert separate["dropped"] == {"also in validation or test": 40}


def test_files_are_cleaned_on_request(tmp_path, monkeypatch):
    _write_files(tmp_path)
    with (tmp_path / "all.tsv").open("a") as file:
        file.write("same\tsame\n")
    arguments = ("--corpus=files", f"--train_source={tmp_path / 'all.tsv'}", f"--output={tmp_path / 'out'}")
    for cleaning, kept in {"off": 289, "on": 288, "auto": 289}.items():
        assert not _run(monkeypatch, *arguments, f"--cleaning={cleaning}")
        assert len(_lines(tmp_path / "out/train.en")) == kept


def test_bad_files_are_refused_together(tmp_path, monkeypatch, capfd):
    _write_files(tmp_path)
    (tmp_path / "latin.de").write_bytes(b"\xe4\n")
    arguments = (f"--train_source={tmp_path / 'all.tsv'}", f"--train_target={tmp_path / 't.de'}")
    given = (f"--test_source={tmp_path / 't.en'}", f"--test_target={tmp_path / 'latin.de'}")
    assert _run(monkeypatch, "--corpus=files", *arguments, *given, f"--output={tmp_path / 'out'}") == 2
    shown = capfd.readouterr().err
    assert "has 360 lines and" in shown and "latin.de, line 1: byte 0xe4 is not UTF-8" in shown
    assert _run(monkeypatch, "--corpus=files", f"--output={tmp_path / 'out'}") == 2
    assert "--train_source is missing" in capfd.readouterr().err
    files = (f"--train_source={tmp_path / 't.en'}", f"--test_source={tmp_path / 't.en'}", "--test_target=a.de,b.de")
    assert _run(monkeypatch, "--corpus=files", *files, f"--output={tmp_path / 'out'}") == 2
    assert "--test_source names 1 files and --test_target 2" in capfd.readouterr().err


def test_what_is_read_is_not_overwritten(tmp_path, monkeypatch, capfd):
    _write_files(tmp_path)
    (tmp_path / "train.en").symlink_to(tmp_path / "all.tsv")
    before = (tmp_path / "all.tsv").read_bytes()
    flags = ("--corpus=files", f"--train_source={tmp_path / 'all.tsv'}")
    assert _run(monkeypatch, *flags, f"--output={tmp_path}") == 2
    assert "train.en is read, and would be overwritten" in capfd.readouterr().err
    assert (tmp_path / "all.tsv").read_bytes() == before
    assert not _run(monkeypatch, *flags, f"--output={tmp_path / 'out'}")


def test_files_of_another_corpus_are_refused(tmp_path, monkeypatch, capfd):
    assert _run(monkeypatch, "--train_source=my.en", f"--output={tmp_path / 'out'}") == 2
    assert "--train_source does nothing with --corpus=software" in capfd.readouterr().err


def test_the_output_must_be_a_directory(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("")
    assert _run(monkeypatch, "--corpus=generated", f"--output={tmp_path / 'file'}") == 2
    assert "this is a file; name a directory" in capfd.readouterr().err
    assert _run(monkeypatch, "--corpus=generated", f"--output={tmp_path / 'file' / 'below'}") == 2
    assert "name a directory that can be written" in capfd.readouterr().err
    assert _run(monkeypatch, "--corpus=generated") == 2
    assert "--output is missing" in capfd.readouterr().err


def test_a_full_disk_leaves_nothing_unfinished(tmp_path, monkeypatch, capfd):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    assert _run(monkeypatch, "--corpus=generated", f"--output={tmp_path / 'out'}") == 2
    assert "No space left on device" in capfd.readouterr().err
    assert not list((tmp_path / "out").iterdir())
