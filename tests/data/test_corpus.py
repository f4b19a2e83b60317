"""Which files a run reads."""

import json
import os
import pathlib

import pytest

from tests.data.text import generated_pairs, write_gzip_pair, write_pair
from tfnmt.data.corpus import Corpus, count_pairs, find_corpus
from tfnmt.data.files import TextPair
from tfnmt.data.settings import DataSettings
from tfnmt.errors import UserError
from tfnmt.settings import faults_of


def test_a_prepared_directory_says_its_languages(tmp_path):
    train = write_pair(tmp_path, "train", generated_pairs(5))
    validation = write_gzip_pair(tmp_path, "val", generated_pairs(3))
    with pytest.raises(UserError, match="give --languages="):
        find_corpus(DataSettings(data=str(tmp_path)))
    (tmp_path / "corpus.json").write_text(json.dumps({"languages": "en-de"}))
    found = find_corpus(DataSettings(data=str(tmp_path)))
    assert found == Corpus((train,), (validation,), "en", "de")
    assert found.inspect() == {"train": 5, "validation": 3}


def test_a_corpus_that_is_as_described_is_not_read_again(tmp_path):
    """Anything that may have been changed since is."""
    written = write_pair(tmp_path, "train", generated_pairs(50))
    sizes = {pathlib.Path(path).name: pathlib.Path(path).stat().st_size for path in written.paths}
    described = {"languages": "en-de", "files": {name: {"lines": 7, "bytes": size} for name, size in sizes.items()}}
    (tmp_path / "corpus.json").write_text(json.dumps(described))
    found = find_corpus(DataSettings(data=str(tmp_path)))
    later = (tmp_path / "corpus.json").stat().st_mtime_ns + 1
    assert found.inspect()["train"] == count_pairs(found.train) == 7
    os.utime(written.source, ns=(later, later))
    with pytest.raises(UserError, match="has 50 lines and"):
        found.inspect()
    os.utime(written.target, ns=(later, later))
    assert found.inspect()["train"] == count_pairs(found.train) == 50
    os.utime(tmp_path / "corpus.json", ns=(later, later))
    assert found.inspect()["train"] == 7
    with open(written.source, "a") as source, open(written.target, "a") as target:
        source.write("one more\n"), target.write("noch eine\n")
    os.utime(tmp_path / "corpus.json", ns=(2 * later, 2 * later))
    assert found.inspect()["train"] == 51


def test_the_flag_turns_the_direction_round(tmp_path):
    train = write_pair(tmp_path, "train", generated_pairs(5))
    found = find_corpus(DataSettings(data=str(tmp_path), languages="de-en"))
    assert found == Corpus((TextPair(train.target, train.source),), (), "de", "en")


def test_missing_files_of_a_directory_are_all_named(tmp_path):
    write_pair(tmp_path, "train", generated_pairs(5))
    write_pair(tmp_path, "validation", generated_pairs(5))
    with pytest.raises(UserError) as caught:
        find_corpus(DataSettings(data=str(tmp_path), languages="en-fr"))
    assert [fault.split(": ")[1].split(" or")[0] for fault in caught.value.faults] == [
        "found no train.fr",
        "found no validation.fr",
    ]
    assert "It has train.de, train.en" in caught.value.faults[0]


def test_beside_a_pipe_a_directory_need_not_have_training_files(tmp_path):
    validation = write_pair(tmp_path, "validation", generated_pairs(5))
    settings = DataSettings(data=str(tmp_path), languages="en-de", train_pipe="-")
    assert find_corpus(settings) == Corpus((), (validation,), "en", "de")
    assert find_corpus(settings).inspect() == {"train": 0, "validation": 5}
    assert find_corpus(DataSettings(train_pipe="-")) == Corpus(())


@pytest.mark.parametrize("languages", ["en", "en-", "-de", "ende"])
def test_a_pair_that_is_none_is_refused(tmp_path, languages):
    with pytest.raises(UserError, match="such as en-de"):
        find_corpus(DataSettings(data=str(tmp_path), languages=languages))


def test_files_by_flags_are_aligned_by_place():
    settings = DataSettings(train_source=("a.en", "b.en"), train_target=("a.de", "b.de"), validation_source=("v.tsv",))
    assert find_corpus(settings) == Corpus(
        (TextPair("a.en", "a.de"), TextPair("b.en", "b.de")), (TextPair("v.tsv"),), None, None
    )


def test_flags_that_do_not_fit_each_other_are_refused():
    settings = DataSettings(data="d", train_source=("a", "b"), train_target=("c",), validation_target=("e",))
    faults = faults_of(settings)
    assert len(faults) == 3
    assert "--train_source names 2 files and --train_target 1" in faults[0]
    assert "--data names the files already" in faults[1]
    assert "--validation_source names 0 files" in faults[2]


def test_sampling_among_one_segmentation_is_refused():
    (fault,) = faults_of(DataSettings(data="d", subword_nbest=1))
    assert fault.startswith("--subword_nbest=1: ")
    assert not any(faults_of(DataSettings(data="d", subword_nbest=number)) for number in (-1, 0, 2))


def test_nothing_to_train_on_is_refused():
    with pytest.raises(UserError, match="nothing to train on"):
        find_corpus(DataSettings())


def test_the_faults_of_all_splits_are_raised_together(tmp_path):
    corpus = Corpus((TextPair(str(tmp_path / "a"), str(tmp_path / "b")),), (TextPair(str(tmp_path / "c")),))
    with pytest.raises(UserError) as caught:
        corpus.inspect()
    assert len(caught.value.faults) == 3
