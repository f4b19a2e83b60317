"""Lines in and out."""

import gzip
import io

import pytest

from tfnmt.decoding.streams import chunks, count_lines, line_writer, lines_of
from tfnmt.errors import UserError


@pytest.mark.parametrize("name", ["text", "text.gz"])
def test_lines_of_a_file(tmp_path, name):
    path = tmp_path / name
    content = "one\r\n\n zwei \u2028 still zwei\ndrei".encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert count_lines(str(path)) == 4
    assert list(lines_of(str(path))) == ["one", "", " zwei \u2028 still zwei", "drei"]


def test_a_byte_order_mark_is_dropped(tmp_path, monkeypatch):
    content = "\ufeffone\ntwo\n".encode()
    (tmp_path / "text").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert list(lines_of(str(tmp_path / "text"))) == list(lines_of("-")) == ["one", "two"]


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert count_lines(str(tmp_path / "empty")) == 0
    assert list(lines_of(str(tmp_path / "empty"))) == []


def test_a_bad_file_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "bad").write_bytes(b"good\nb\xe4d\n")
    with pytest.raises(UserError, match="line 2: byte 0xe4"):
        count_lines(str(tmp_path / "bad"))


def test_a_bad_line_of_standard_input_comes_after_the_good_ones(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\nthree\n\xff\nfive\n")))
    given = []
    with pytest.raises(UserError, match="standard input, line 4: byte 0xff"):
        for chunk in chunks(lines_of("-"), 2):
            given.append(chunk)
    assert given == [["one", "two"], ["three"]]


def test_written_lines_stay_lines(tmp_path):
    with line_writer(str(tmp_path / "out")) as write:
        write(["grün", "a\nb"])
        write([""])
    assert (tmp_path / "out").read_text() == "grün\na b\n\n"


def test_an_output_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="--output"), line_writer(str(tmp_path / "no" / "out")):
        pass


def test_a_compressed_output_is_read_again(tmp_path):
    path = str(tmp_path / "out.gz")
    with line_writer(path) as write:
        write(["grün", "blau"])
        write([""])
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == "grün\nblau\n\n".encode()
    assert list(lines_of(path)) == ["grün", "blau", ""]


@pytest.mark.parametrize("name", ["out", "out.gz"])
def test_an_output_on_a_full_disk(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(UserError) as caught, line_writer(str(tmp_path / name)) as write:
        write(["grün"])
    assert caught.value.faults == (f"--output={tmp_path / name}: cannot be written (No space left on device).",)


def test_standard_output_on_a_full_disk(monkeypatch):
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(full, write_through=True))
        with pytest.raises(UserError, match="standard output: cannot be written"), line_writer("-") as write:
            write(["grün"])
