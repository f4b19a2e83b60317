"""From raw text to BLEU with the installed commands: train, resume, stop, refuse, translate, evaluate."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from tests.jobs import SHALLOW, UNEVALUATED
from tests.programs import SECONDS, command, run
from tfnmt.checkpoints import CheckpointStore
from tfnmt.run_directory import lock

TINY = "--flagfile=configs/transformer_tiny.flags"
SHORT = (*SHALLOW, "--batch_positions=512", "--evaluate_every_updates=4", "--validation_sentences=8", "--dropout=0.1")


@pytest.fixture(name="solved", scope="module")
def _solved(corpus, tmp_path_factory):
    """A run that has learned the synthetic language."""
    directory = tmp_path_factory.mktemp("solved") / "run"
    run("train", "--flagfile=configs/generated.flags", f"--data={corpus}", f"--run_directory={directory}")
    return directory


def read_lines(path):
    return path.read_text("utf-8").splitlines()


def test_a_solved_language_is_translated_from_the_run_directory_alone(corpus, solved, tmp_path):
    run("translate", f"--run_directory={solved}", f"--input={corpus / 'test.en'}", f"--output={tmp_path / 'out'}")
    of_text, _ = run("evaluate", f"--hypotheses={tmp_path / 'out'}", f"--reference={corpus / 'test.de'}")
    of_run, _ = run("evaluate", f"--run_directory={solved}", "--split=test")
    assert of_text == of_run
    (record,) = [json.loads(line) for line in read_lines(solved / "evaluation.jsonl")]
    assert record["bleu"] > 90


def test_validation_rose_and_was_recorded(solved):
    records = [json.loads(line) for line in read_lines(solved / "metrics.jsonl")]
    scores = [record["bleu"] for record in records if record["kind"] == "validation"]
    assert scores[0] < scores[-1] and scores[-1] > 90
    assert list((solved / "events").glob("events.out.tfevents.*"))
    assert list((solved / "logs").glob("*.log"))


def test_standard_input_keeps_order_and_empty_lines(corpus, solved):
    first, second = read_lines(corpus / "test.en")[:2]
    out, _ = run("translate", f"--run_directory={solved}", text=f"{first}\n\n{second}\n{first}\n")
    lines = out.splitlines()
    assert lines[1] == "" and lines[0] == lines[3] and len(lines) == 4 and all((lines[0], lines[2]))


def test_the_reference_scores_higher_than_another_sentence(corpus, solved, tmp_path):
    sources, references = read_lines(corpus / "test.en")[:4], read_lines(corpus / "test.de")[:4]
    (tmp_path / "en").write_text("\n".join(sources + sources) + "\n")
    (tmp_path / "de").write_text("\n".join(references + references[::-1]) + "\n")
    out, _ = run("score", f"--run_directory={solved}", f"--source={tmp_path / 'en'}", f"--target={tmp_path / 'de'}")
    scores = [float(line.split("\t")[0]) for line in out.splitlines()]
    assert all(right > wrong for right, wrong in zip(scores[:4], scores[4:]))


EXACT = (*SHORT, "--average_rate=0.01", "--shuffle_buffer=200", "--pool_pairs=100")


@pytest.fixture(name="through", scope="module")
def _through(corpus, tmp_path_factory):
    """A run of 16 updates, which go through several blocks of pairs."""
    directory = tmp_path_factory.mktemp("through") / "run"
    run("train", *EXACT, f"--data={corpus}", f"--run_directory={directory}", "--max_updates=16")
    return directory


def assert_same(directory, other):
    """Every file of the last checkpoint but the clock's is the same."""
    through, parts = (each / "checkpoints" / "update-0000000016" for each in (directory, other))
    names = sorted(path.name for path in through.glob("*.safetensors"))
    assert len(names) == 4
    for name in names:
        assert (through / name).read_bytes() == (parts / name).read_bytes(), name


def test_n_and_n_updates_equal_two_n(corpus, through, tmp_path):
    """I1 for whole processes."""
    flags = (*EXACT, f"--data={corpus}", f"--run_directory={tmp_path}")
    run("train", *flags, "--max_updates=8")
    half = CheckpointStore(tmp_path / "checkpoints").newest
    run("train", *flags, "--max_updates=16")
    assert half == 8
    assert_same(through, tmp_path)


def rows(corpus):
    """The training pairs as lines of a pipe."""
    sides = (read_lines(corpus / f"train.{language}") for language in ("en", "de"))
    return [f"{source}\t{target}\n" for source, target in zip(*sides)]


def test_a_pipe_trains_as_a_file_does(corpus, through, tmp_path):
    """Its producer begins anew when training goes on; another one is refused."""
    flags = (*EXACT, UNEVALUATED, f"--data={corpus}", "--train_pipe=-", f"--run_directory={tmp_path}")
    pairs = rows(corpus)
    run("train", *flags, "--max_updates=8", text="".join(pairs))
    _, log = run("train", *flags, "--max_updates=16", text="".join(pairs[1:]), expect=2)
    assert "--train_pipe=-: its first 200 pairs are not those with which the run began" in log
    _, log = run("train", *flags, "--max_updates=16", text="".join(pairs))
    assert "Going on from update 8" in log
    assert_same(through, tmp_path)


def test_workers_share_a_pipe_to_its_end(corpus, tmp_path):
    cluster = ("--engine=cluster", "--strategy=sync", "--workers=2", "--parameter_servers=1")
    flags = (*SHORT, UNEVALUATED, *cluster, f"--data={corpus}", "--train_pipe=-", f"--run_directory={tmp_path}")
    _, log = run("train", *flags, text="".join(rows(corpus)[:400]))
    assert "400 of the first 400 pairs kept" in log and "--train_pipe=- has ended" in log
    assert "Training ends: --max_epochs=1 reached." in log
    store = CheckpointStore(tmp_path / "checkpoints")
    (*_, newest) = store.progress()
    update_sentences = 2 * 512 / 4  # at most: sentences have some tokens
    assert 400 < newest["trainer"]["totals"]["sentences"] < 400 + update_sentences


def test_sigterm_saves_and_ends(corpus, tmp_path):
    flags = (*SHORT, UNEVALUATED, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}")
    metrics = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(command("train", *flags), stderr=subprocess.PIPE, text=True) as training:
        deadline = time.monotonic() + SECONDS
        while training.poll() is None and not metrics.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        training.send_signal(signal.SIGTERM)
        _, log = training.communicate(timeout=SECONDS)
    assert training.returncode == 143, log
    assert "SIGTERM" in log and "Traceback" not in log
    saved = CheckpointStore(tmp_path / "run" / "checkpoints").newest
    assert saved is not None and saved >= 1
    _, log = run("train", *flags, f"--max_updates={saved + 1}")
    assert f"from update {saved}" in log


def test_other_settings_are_refused_for_an_old_run(corpus, solved):
    preset = "--flagfile=configs/generated.flags"
    flags = (preset, f"--data={corpus}", f"--run_directory={solved}", "--learning_rate=0.5")
    _, log = run("train", *flags, expect=2)
    assert "--learning_rate" in log and "0.5 now" in log


@pytest.mark.parametrize(("program", "flags"), [("train", ()), ("launch", ("--strategy=sync", "--workers=2"))])
def test_nothing_is_recorded_where_another_process_trains(corpus, tmp_path, program, flags):
    with lock(tmp_path):
        _, log = run(program, TINY, *flags, f"--data={corpus}", f"--run_directory={tmp_path}", expect=2)
    assert f"process {os.getpid()} on " in log and "is training here" in log
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_all_faults_of_a_command_line_at_once(tmp_path):
    _, log = run("train", "--learning_rte=1", "--dropout=3", "--model=transfomer", "--hends=2", expect=2)
    for word in ("--learning_rate", "--dropout=3", "--model=transfomer", "--heads", "--run_directory"):
        assert word in log


def test_all_faults_of_the_files_at_once(corpus, tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.de").write_text("eins\n")
    (tmp_path / "b.en").write_bytes(b"one\n\xff\n")
    (tmp_path / "b.de").write_text("eins\nzwei\n")
    flags = [
        f"--{side}={tmp_path}/a.{language},{tmp_path}/b.{language}"
        for side, language in (("train_source", "en"), ("train_target", "de"))
    ]
    _, log = run("train", TINY, *flags, f"--vocabulary={corpus}", f"--run_directory={tmp_path / 'run'}", expect=2)
    assert "a.en" in log and "b.en, line 2" in log
    assert not (tmp_path / "run").exists()


def test_fewer_pairs_than_workers_are_refused(corpus, tmp_path):
    for language in ("en", "de"):
        (tmp_path / f"few.{language}").write_text("\n".join(read_lines(corpus / f"train.{language}")[:3]) + "\n")
    files = (f"--train_source={tmp_path / 'few.en'}", f"--train_target={tmp_path / 'few.de'}", f"--vocabulary={corpus}")
    job = ("--engine=simulated", "--strategy=sync", "--workers=4", f"--run_directory={tmp_path / 'run'}")
    _, log = run("train", TINY, *files, *job, expect=2)
    assert "3 pairs are too few for 4 workers" in log
    assert not (tmp_path / "run").exists()


def test_dry_run_builds_and_prints_and_leaves_nothing(corpus, tmp_path):
    out, _ = run("train", TINY, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--dry_run")
    for word in (
        "--learning_rate",
        "parameters",
        "MB",
        "batches an epoch",
        "decoder/1",
        "no law scales it",
        "\nUpdate: about ",
    ):
        assert word in out
    assert not (tmp_path / "run").exists()


def test_dry_run_tells_memory_and_update(corpus, tmp_path):
    """Servers hold parameters, block update, filtered model, moving average and Adam's mean m and v, and a parameter
    delta with m and v of each of three workers and of their sum; a worker its replica, that as pulled, m and v."""
    flags = [f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--width=128", "--global_batch_tokens=3000"]
    row = ["--strategy=bmuf", "--local_steps=2", "--local_slots=average", "--average_rate=0.01"]
    out, _ = run("train", TINY, *flags, *row, "--engine=simulated", "--workers=3", "--dry_run")
    megabytes = parameters_of(out) * 4 / 1e6
    of_servers, of_worker = 6 + 3 * (3 + 1), 4
    assert f"Memory: {of_servers * megabytes:.0f} MB for what servers hold, {of_worker * megabytes:.0f} MB for" in out
    assert "Update: about 6,000 target tokens: 3 parameter deltas of 2 steps; all wait for all\n" in out


def parameters_of(text):
    """The number of parameters that a dry run tells."""
    return int(re.search(r"Model: \w+, ([\d,]+) parameters", text)[1].replace(",", ""))


def test_what_could_never_act_is_refused(corpus, tmp_path):
    """One table for two vocabularies of equal size; ends that wait for evaluations which never come."""
    run("vocabulary", f"--data={corpus}", f"--vocabulary={tmp_path}", "--vocabulary_size=60", "--nojoint_vocabulary")
    flags = [TINY, f"--data={corpus}", f"--run_directory={tmp_path / 'run'}", "--evaluate_every_updates=0"]
    waiting = ["--early_stopping_patience=1", "--early_stopping_target=5", "--schedule=plateau"]
    _, log = run("train", *flags, *waiting, f"--vocabulary={tmp_path}", expect=2)
    assert "--tied_embeddings=all: needs one joint vocabulary" in log
    for flag in ("--early_stopping_patience=1", "--early_stopping_target=5.0", "--schedule=plateau"):
        assert f"{flag}: needs evaluations, and there are none: --evaluate_every_updates=0." in log
