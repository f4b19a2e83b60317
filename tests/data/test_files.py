"""Parallel text files: every fault is found, at once, with its file and line."""

import gzip
import os
import random

import pytest
import tensorflow as tf

from tests.data.text import generated_pairs, write_gzip_pair, write_pair, write_table
from tfnmt.data import files
from tfnmt.data.files import TextPair, count_lines, inspect_file, inspect_pairs, read_lines, read_pairs
from tfnmt.data.lines import line_pairs


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_file_that_the_system_does_not_show_is_unreadable(tmp_path, ending):
    """As in a directory closed to everybody but root, who may run this."""
    path = str(tmp_path / f"{'n' * 300}{ending}")
    assert inspect_file(path).faults == [f"{path}: unreadable (File name too long)."]


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "-"):
        (fault,) = inspect_file(path).faults
        assert fault.startswith(f"{path}: must be a regular file, because it is read more than once; ")


@pytest.fixture(params=[write_pair, write_gzip_pair, write_table])
def write(request):
    return request.param


def test_every_kind_of_file_gives_its_pairs(tmp_path, write):
    pairs = generated_pairs(2500)
    file = write(tmp_path, "train", pairs)
    assert list(read_pairs(file)) == pairs
    assert inspect_pairs([file, file]) == (5000, [])
    assert count_lines(file.source) == 2500


def test_a_sample_has_one_of_so_many_after_so_many(tmp_path, write):
    """Both sides of the same pairs, from everywhere, and the same again: files end where they end."""
    pairs = generated_pairs(1003)
    numbers = [int(source.split()[0]) for source, _ in pairs]
    file = write(tmp_path, "train", pairs)
    sample = list(read_pairs(file, file, every=10))
    assert set(sample) <= set(pairs) and sample == list(read_pairs(file, file, every=10))
    places = [int(source.split()[0]) for source, _ in sample[:100]]
    assert numbers == list(range(1003)) and [place // 10 for place in places] == list(range(100))
    assert {place % 10 for place in places} == set(range(10))
    assert sample[:100] == sample[len(sample) // 2 :][:100]


def test_the_graph_reads_the_same_lines_as_python(tmp_path, write):
    pairs = [("a\r", "b c"), ("", " d"), ("é\u2028 x", "y\x0bz")]
    file = write(tmp_path, "train", pairs)
    in_graph = [tuple(side.decode() for side in pair) for pair in line_pairs([file]).as_numpy_iterator()]
    assert in_graph == list(read_pairs(file))


def test_a_byte_order_mark_at_the_beginning_is_dropped(tmp_path, write):
    mark = "\ufeff"
    pairs = [(f"{mark}a", "b"), (f"{mark}c", f"d{mark}"), ("", "e")]
    file = write(tmp_path, "train", pairs)
    wanted = [("a", "b"), *pairs[1:]]
    assert list(read_pairs(file)) == wanted
    in_graph = [tuple(side.decode() for side in pair) for pair in line_pairs([file, file]).as_numpy_iterator()]
    assert in_graph == 2 * wanted
    assert inspect_pairs([file]) == (3, [])


def test_a_last_line_without_an_end_counts(tmp_path):
    (tmp_path / "text").write_bytes(b"one\r\ntwo")
    assert inspect_file(str(tmp_path / "text")).lines == 2
    assert list(read_lines(str(tmp_path / "text"))) == ["one", "two"]
    assert len(list(tf.data.TextLineDataset(str(tmp_path / "text")))) == 2


def test_all_faults_are_found_at_once(tmp_path):
    good = write_pair(tmp_path, "good", generated_pairs(10))
    short = tmp_path / "short.de"
    short.write_text("1\n2\n3\n")
    (tmp_path / "latin.en").write_bytes(b"one\ntwo\nna\xefve\nfour\n")
    (tmp_path / "empty.de").write_bytes(b"")
    pairs, faults = inspect_pairs(
        [
            good,
            TextPair(good.source, str(short)),
            TextPair(str(tmp_path / "latin.en"), str(tmp_path / "empty.de")),
            TextPair(str(tmp_path / "godo.en"), str(tmp_path)),
        ]
    )
    expected = (
        "good.en has 10 lines and",
        "latin.en, line 3: byte 0xef is not UTF-8",
        "empty.de: the file is empty",
        f"godo.en: there is no such file; did you mean {good.source}?",
        "this is a directory",
    )
    assert pairs == 13
    assert len(faults) == len(expected)
    assert all(part in fault for part, fault in zip(expected, faults))
    assert "short.de has 3" in faults[0]


def test_the_first_fault_of_a_kind_is_named_with_its_line(tmp_path):
    for content, part in (
        ("äöü\n€uro\nx".encode() + b"\xc3\nnext\n", "line 3: byte 0xc3"),
        ("äöü\n\nthe end €".encode()[:-1], "line 3: byte 0xe2"),
        ("äöü\n€\0\n\0".encode(), "line 2: a NUL"),
    ):
        (tmp_path / "text").write_bytes(content)
        (fault,) = inspect_file(str(tmp_path / "text")).faults
        assert part in fault
    (tmp_path / "text").write_text("äöü\n€uro\n\U0001f600\n")
    assert inspect_file(str(tmp_path / "text")) == files.FileReport(str(tmp_path / "text"), lines=3)


@pytest.mark.parametrize("block", [1, 2, 3, 7])
@pytest.mark.parametrize("tab_separated", [False, True])
def test_blocks_have_the_faults_of_lines(tmp_path, monkeypatch, block, tab_separated):
    """What is looked at together is told as if each line had been."""
    monkeypatch.setattr(files, "_BLOCK_BYTES", block)
    pieces = [b"a", b"\n", b"\n", b"\t", "ä€".encode(), b"\xc3", b"\xa4", b"\0", b"\r"]
    seen = set()
    for _ in range(200):
        content = b"".join(random.choices(pieces, [9, 3, 3, 9, 3, 0.2, 0.2, 0.2, 1], k=random.randint(0, 14)))
        (tmp_path / "text").write_bytes(content)
        report = inspect_file(str(tmp_path / "text"), tab_separated)
        lines = content.split(b"\n")[: -1 if content.endswith(b"\n") or not content else None]
        first = {
            kind: next((number for number, line in enumerate(lines, 1) if is_bad(line)), None)
            for kind, is_bad in {
                "UTF-8": lambda line: "\ufffd" in line.decode("utf-8", "replace"),
                "NUL": lambda line: b"\0" in line,
                "no tab": lambda line: tab_separated and b"\t" not in line,
            }.items()
        }
        assert report.lines == len(lines)
        for kind, number in first.items():
            told = [fault for fault in report.faults if kind in fault and ", line " in fault]
            assert len(told) == (number is not None) and all(f", line {number}: " in fault for fault in told)
            seen.add((kind, bool(told)))
    assert len(seen) == 6 - (not tab_separated)


def test_damaged_and_misnamed_gzip_files_are_named(tmp_path):
    whole = gzip.compress(b"a line of text\n" * 1000)
    for name, content, part in (
        ("cut.gz", whole[: len(whole) // 2], "damaged gzip"),
        ("flipped.gz", whole[:-8] + b"\0\0\0\0" + whole[-4:], "damaged gzip"),
        ("text.gz", b"plain\n", "damaged gzip"),
        ("compressed", whole, "must end in .gz"),
    ):
        (tmp_path / name).write_bytes(content)
        (fault,) = inspect_file(str(tmp_path / name)).faults
        assert name in fault and part in fault


def test_a_row_without_a_tab_is_named(tmp_path):
    (tmp_path / "table.tsv").write_text("a\tb\nc\td\ne f\n")
    (fault,) = inspect_pairs([TextPair(str(tmp_path / "table.tsv"))])[1]
    assert "table.tsv, line 3: there is no tab" in fault


def test_a_missing_directory_is_named(tmp_path):
    assert f"there is no directory {tmp_path / 'none'}" in inspect_file(str(tmp_path / "none" / "train.en")).faults[0]
