"""tfnmt-vocabulary, as it is called."""

import sys

import pytest

from tests.data.text import generated_pairs, write_pair
from tfnmt.commands import vocabulary
from tfnmt.data.files import read_pairs
from tfnmt.data.vocabulary import load_vocabularies


def _run(monkeypatch, *arguments: str) -> int | None:
    monkeypatch.setattr(sys, "argv", ["tfnmt-vocabulary", *arguments])
    with pytest.raises(SystemExit) as end:
        vocabulary.main()
    return end.value.code


def test_it_makes_and_shows_the_vocabulary(tmp_path, monkeypatch, capfd):
    write_pair(tmp_path, "train", generated_pairs(200))
    data = (f"--data={tmp_path}", "--languages=en-de")
    assert not _run(
        monkeypatch, *data, "--vocabulary_size=90", "--nojoint_vocabulary", f"--vocabulary={tmp_path / 'v'}"
    )
    source, target = load_vocabularies(tmp_path / "v")
    shown = capfd.readouterr().out
    assert source.size == target.size == 90
    assert f"source: 90 pieces in {source.path}" in shown and "pieces a word" in shown
    assert "100.0000% of the characters covered" in shown
    assert f"  {' '.join(source.segment(generated_pairs(1)[0][0]))}\n" in shown


def test_a_large_corpus_is_sampled(tmp_path, monkeypatch, capfd):
    """Of three pairs one: the vocabulary is that of these pairs alone."""
    files = write_pair(tmp_path, "train", generated_pairs(900))
    flags = ("--languages=en-de", "--vocabulary_size=90")
    assert not _run(monkeypatch, f"--data={tmp_path}", *flags, "--vocabulary_sentences=600")
    assert "vocabulary from one of every 3 of 900 sentence pairs." in capfd.readouterr().out
    (tmp_path / "sample").mkdir()
    write_pair(tmp_path / "sample", "train", list(read_pairs(files, every=3)))
    assert not _run(monkeypatch, f"--data={tmp_path / 'sample'}", *flags)
    assert "vocabulary from 300 sentence pairs." in capfd.readouterr().out
    assert load_vocabularies(tmp_path)[0].pieces() == load_vocabularies(tmp_path / "sample")[0].pieces()


def test_it_goes_beside_the_data_by_default(tmp_path, monkeypatch):
    write_pair(tmp_path, "train", generated_pairs(200))
    assert not _run(monkeypatch, f"--data={tmp_path}", "--languages=en-de", "--vocabulary_size=90")
    assert load_vocabularies(tmp_path)[0].size == 90


def test_it_goes_to_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_pair(tmp_path, "train", generated_pairs(200))
    assert not _run(monkeypatch, "--data=~", "--languages=en-de", "--vocabulary_size=90")
    assert load_vocabularies(tmp_path)[0].size == 90
    assert not (tmp_path / "~").exists()


def test_bad_files_and_sizes_are_refused(tmp_path, monkeypatch, capfd):
    files = write_pair(tmp_path, "train", generated_pairs(20))
    given = (f"--train_source={files.source}", f"--vocabulary={tmp_path}")
    assert _run(monkeypatch, *given, f"--train_target={files.target}x") == 2
    assert f"did you mean {files.target}?" in capfd.readouterr().err
    assert _run(monkeypatch, *given, f"--train_target={files.target}", "--vocabulary_size=9000") == 2
    assert "this text supports at most" in capfd.readouterr().err
    assert _run(monkeypatch, given[0], f"--train_target={files.target}") == 2
    assert "--vocabulary is missing" in capfd.readouterr().err


def test_a_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch, capfd):
    write_pair(tmp_path, "train", generated_pairs(200))
    (tmp_path / "taken").write_text("a file")
    arguments = ("--languages=en-de", "--vocabulary_size=90", f"--vocabulary={tmp_path / 'taken'}")
    assert _run(monkeypatch, f"--data={tmp_path}", *arguments) == 2
    assert f"--vocabulary={tmp_path / 'taken'}: cannot write" in capfd.readouterr().err
