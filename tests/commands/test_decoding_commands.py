"""tfnmt-translate, tfnmt-evaluate, tfnmt-score, tfnmt-average and tfnmt-export, as a user runs them."""

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.decoding.tiny_run import SOURCES, TARGETS, make_run
from tfnmt.checkpoints import CheckpointStore
from tfnmt.commands import average, evaluate, export, score, translate
from tfnmt.decoding.scoring import PairScore
from tfnmt.run_directory import RunDirectory

INPUT = "".join(f"{line}\n" for line in SOURCES)


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("tiny") / "first", seeds={10: 1, 20: 2, 30: 3}, metrics={10: 5.0, 20: 7.0})


def test_translate_keeps_order_and_empty_lines(run, call, tmp_path):
    flags = [f"--run_directory={run.path}", "--beam_size=2"]
    from_standard_input, _ = call(translate, *flags, "--chunk_sentences=2", standard_input=INPUT.encode())
    (tmp_path / "in").write_text(INPUT)
    call(translate, *flags, f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
    assert (tmp_path / "out").read_text().splitlines() == from_standard_input
    assert len(from_standard_input) == 6 and from_standard_input[2] == from_standard_input[4] == ""


def test_translate_with_scores_and_several_results(run, call):
    flags = [f"--run_directory={run.path}", "--beam_size=3", "--nbest=2", "--scores", "--checkpoint=newest,10"]
    lines, _ = call(translate, *flags, standard_input=INPUT.encode())
    columns = [line.split("\t") for line in lines]
    assert all(len(row) == 4 for row in columns)
    assert [int(row[0]) for row in columns] == [1, 1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert float(columns[0][1]) >= float(columns[1][1]) > float(columns[1][2])


def test_nothing_in_nothing_out(run, call):
    assert call(translate, f"--run_directory={run.path}", "--beam_size=2")[0] == []


def test_bad_bytes_on_standard_input(run, call):
    flags = [f"--run_directory={run.path}", "--beam_size=2"]
    lines, error = call(translate, *flags, standard_input=b"a man\n\xff\n", expect=2)
    assert len(lines) == 1 and "standard input, line 2" in error and "Traceback" not in error


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--run_directory=/no/such/place"], "no such directory"),
        ([], "--run_directory is missing"),
        (["--run_directory={run}", "--input=/no/such/file"], "/no/such/file"),
        (["--run_directory={run}", "--checkpoint=latest"], "must be best, newest"),
        (["--run_directory={run}", "--checkpoint=77"], "update 77"),
        (["--run_directory={run}", "--nbest=9"], "raise --beam_size"),
        (["--run_directory={run}", "--input={run}/flags.txt", "--output={run}/flags.txt"], "name another file"),
        (["--run_directory={run}", "--beam=3"], "--beam_size"),
    ],
)
def test_what_translate_refuses(run, call, flags, message):
    _, error = call(translate, *(flag.format(run=run.path) for flag in flags), expect=2)
    assert message in error and "Traceback" not in error


def test_evaluate_uses_the_runs_own_files(run, call, tmp_path):
    flags = [f"--run_directory={run.path}", "--beam_size=2"]
    out, _ = call(evaluate, *flags, f"--output={tmp_path / 'hypotheses'}")
    assert [line.split()[0] for line in out] == ["BLEU", "chrF", "TER"]
    call(evaluate, *flags, "--split=test", "--bootstrap_samples=10")
    records = [json.loads(line) for line in (run.path / "evaluation.jsonl").read_text().splitlines()]
    assert [record["sentences"] for record in records] == [6, 6]
    assert records[0]["models"] == [f"{run.path} at update 20"] and records[0]["files"][0].endswith("validation.en")
    assert records[1]["intervals"].keys() == {"bleu", "chrf", "ter"}
    # The translations that were written have the score that was found.
    reference = records[0]["files"][1]
    again, _ = call(evaluate, f"--hypotheses={tmp_path / 'hypotheses'}", f"--reference={reference}")
    assert again == out


def test_evaluate_files(run, call, tmp_path):
    (tmp_path / "de").write_text("".join(f"{line}\n" for line in TARGETS))
    (tmp_path / "short").write_text("ein Mann\n")
    out, _ = call(evaluate, f"--hypotheses={tmp_path / 'de'}", f"--reference={tmp_path / 'de'}")
    assert re.match(r"BLEU +100.00 .*tok:13a", out[0])
    _, error = call(evaluate, f"--hypotheses={tmp_path / 'short'}", f"--reference={tmp_path / 'de'}", expect=2)
    assert "1 lines" in error and "6" in error
    _, error = call(evaluate, f"--hypotheses={tmp_path / 'de'}", expect=2)
    assert "--reference is missing" in error
    _, error = call(evaluate, expect=2)
    assert "--run_directory is missing" in error


@pytest.mark.parametrize("flags", [["--nbest=1"], ["--split=test", "--source={run}/a", "--reference={run}/b"]])
def test_what_evaluate_would_not_heed_is_refused(run, call, flags):
    _, error = call(evaluate, f"--run_directory={run.path}", *(flag.format(run=run.path) for flag in flags), expect=2)
    assert f"{flags[0].partition('=')[0]} does nothing " in error


def test_score(run, call, caplog, tmp_path):
    flags = [f"--run_directory={run.path}", f"--source={run.path.parent / 'test.en'}"]
    lines, _ = call(score, *flags, f"--target={run.path.parent / 'test.de'}", "--chunk_sentences=4")
    rows = [[float(column) for column in line.split("\t")] for line in lines]
    assert len(rows) == 6 and all(total < 0 and mean == pytest.approx(total / n, rel=1e-3) for total, n, mean in rows)
    assert "perplexity" in caplog.text
    (tmp_path / "both.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in zip(SOURCES, TARGETS)))
    again, _ = call(score, flags[0], f"--source={tmp_path / 'both.tsv'}")
    for line, row in zip(again, rows, strict=True):
        assert [float(column) for column in line.split("\t")] == pytest.approx(row, rel=1e-5)


def test_the_perplexity_of_a_hopeless_model_is_finite(run, call, caplog, monkeypatch):
    monkeypatch.setattr(score.Scorer, "score", lambda *_, **__: [PairScore(-1e6, 2)])
    lines, _ = call(
        score,
        f"--run_directory={run.path}",
        f"--source={run.path.parent / 'test.en'}",
        f"--target={run.path.parent / 'test.de'}",
    )
    assert lines == ["-1000000.000000\t2\t-500000.000000"]
    assert "perplexity 1.01423e+304" in caplog.text


@pytest.mark.parametrize(
    "choice, updates", [("--last=2", [20, 30]), ("--best=2", [10, 20]), ("--checkpoint=10,30", [10, 30])]
)
def test_average(run, call, tmp_path, choice, updates):
    call(average, f"--run_directory={run.path}", f"--output={tmp_path / 'mean'}", choice)
    found = CheckpointStore(RunDirectory(tmp_path / "mean").checkpoints).load("best")
    members = [CheckpointStore(run.checkpoints).load(update) for update in updates]
    assert found.update == max(updates) and found.progress["averaged_updates"] == updates
    for name, array in found.parameters.items():
        expected = np.mean([np.float64(member.parameters[name]) for member in members], axis=0)
        np.testing.assert_array_equal(array, expected.astype(np.float32))
    if choice == "--last=2":
        flags = [f"--run_directory={tmp_path / 'mean'}", "--beam_size=1"]
        assert len(call(translate, *flags, standard_input=INPUT.encode())[0]) == 6


@pytest.mark.parametrize(
    "flags, message", [(["--last=9"], "--keep_last=9"), ([], "Give one of"), (["--last=1", "--best=1"], "Give one of")]
)
def test_what_average_refuses(run, call, tmp_path, flags, message):
    _, error = call(average, f"--run_directory={run.path}", f"--output={tmp_path / 'mean'}", *flags, expect=2)
    assert message in error and not (tmp_path / "mean").exists()


def test_average_on_a_full_disk(run, call, tmp_path, monkeypatch):
    def write_nothing(file, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tfnmt.durable_files._write_whole", write_nothing)
    _, error = call(average, f"--run_directory={run.path}", f"--output={tmp_path / 'mean'}", "--last=2", expect=2)
    assert error.endswith(f"error: {tmp_path / 'mean' / 'settings.json'}: No space left on device. Make room there.\n")
    assert "Traceback" not in error


def test_export_is_read_by_tensorflow_alone(run, call, tmp_path):
    flags = [f"--run_directory={run.path}", "--beam_size=2"]
    call(export, *flags, f"--output={tmp_path / 'exported'}")
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {
        *("assets", "fingerprint.pb", "saved_model.pb", "variables")
    }
    wanted, _ = call(translate, *flags, standard_input=INPUT.encode())
    program = (
        "import sys, tensorflow as tf, tensorflow_text; model = tf.saved_model.load(sys.argv[1]); "
        "found = model.translate(tf.constant(sys.stdin.read().splitlines()))['translations'].numpy(); "
        "assert 'tfnmt' not in sys.modules; print(*(row[0].decode() for row in found), sep='\\n')"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "exported")]
    ended = subprocess.run(words, input=INPUT, capture_output=True, text=True, timeout=120)
    assert ended.stdout.splitlines() == wanted, ended.stderr
    _, error = call(export, *flags, f"--output={tmp_path / 'exported'}", expect=2)
    assert "is not empty" in error


@pytest.mark.parametrize(
    "command, flag, more",
    [(translate, "input", ()), (score, "target", ("source",)), (evaluate, "reference", ("hypotheses",))],
)
def test_an_input_is_not_overwritten(run, call, tmp_path, command, flag, more):
    text, link = tmp_path / "text", tmp_path / "link"
    text.write_text(INPUT)
    link.symlink_to(text)
    flags = [f"--{each}={text}" for each in (flag, *more)]
    _, error = call(command, f"--run_directory={run.path}", *flags, f"--output={link}", expect=2)
    assert f"--output={link}: this is --{flag} too" in error
    assert text.read_text() == INPUT
