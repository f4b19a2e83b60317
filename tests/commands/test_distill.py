"""tfnmt-distill, as a user runs it, and what a student then finds."""

import json
import signal
import subprocess
import sys

import pytest

from tests.decoding import trained_transformer
from tests.programs import SECONDS
from tfnmt.commands import distill, export, translate
from tfnmt.data.corpus import find_corpus
from tfnmt.data.settings import TextSettings
from tfnmt.data.vocabulary import load_vocabularies
from tfnmt.decoding.distillation import best_score, nearest_to_reference
from tfnmt.decoding.translator import Hypothesis

KILLED = """
import os, signal, sys
from tfnmt import durable_files
from tfnmt.commands import distill

distill.CHUNK_PAIRS, replace = 16, durable_files.replace

def replace_and_die(path, content):
    replace(path, content)
    if path.name == "part-00000002":
        os.kill(os.getpid(), signal.SIGKILL)

durable_files.replace = replace_and_die
distill.main()
"""


@pytest.fixture(name="corpus", scope="module")
def _corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("taught") / "corpus"
    trained_transformer.make_run(directory, trained_transformer.SHAPE)
    facts = {"corpus": "toy", "sources": [{"name": "toys", "licence": "MIT"}]}
    (directory / "corpus.json").write_text(json.dumps({**facts, "languages": "en-de"}))
    return directory


def flags(corpus, output, *more):
    return [f"--teacher={corpus / 'run'}", f"--data={corpus}", f"--output={output}", "--beam_size=2", *more]


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(name="distilled", scope="module")
def _distilled(corpus, tmp_path_factory):
    """A corpus made by one process in one go."""
    output = tmp_path_factory.mktemp("distilled") / "corpus"
    words = [sys.executable, "-c", KILLED.replace("part-00000002", "never"), *flags(corpus, output)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr
    assert f"tfnmt-train --flagfile=configs/student_6_2.flags --data={output} --run_directory=" in ended.stderr
    return output


def test_a_student_learns_what_the_teacher_translates(corpus, distilled, call):
    found = contents(distilled)
    given = [f"--run_directory={corpus / 'run'}", f"--input={corpus / 'train.en'}", "--beam_size=2"]
    expected, _ = call(translate, *given, "--chunk_sentences=16")
    assert found["train.de"].decode().splitlines() == expected
    for name in ("train.en", "validation.en", "validation.de"):
        assert found[name] == (corpus / name).read_bytes()
    assert found["train.de"] != (corpus / "train.de").read_bytes()
    facts = json.loads(found["corpus.json"])
    assert facts["teacher"] == [f"{corpus / 'run'} at update {trained_transformer.STEPS}"]
    assert facts["sources"] == [{"name": "toys", "licence": "MIT"}] and facts["of"]["corpus"] == "toy"
    assert facts["search"]["beam_size"] == 2 and facts["files"].keys() == found.keys() - {"corpus.json"}


def test_what_was_made_is_a_corpus_with_a_vocabulary(corpus, distilled):
    assert find_corpus(TextSettings(data=str(distilled))).inspect() == {"train": 120, "validation": 40}
    (source, _), (teachers, _) = load_vocabularies(distilled), load_vocabularies(corpus / "run")
    assert source.fingerprint == teachers.fingerprint


def test_a_killed_command_goes_on_to_the_same_bytes(corpus, distilled, call, tmp_path, monkeypatch, caplog):
    output = tmp_path / "corpus"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *flags(corpus, output)], capture_output=True, text=True, timeout=SECONDS
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in output.iterdir()] == [".work"]
    monkeypatch.setattr(distill, "CHUNK_PAIRS", 16)
    _, error = call(distill, *flags(corpus, output, "--length_penalty=1"), expect=2)
    assert "was begun with other settings" in error and "length_penalty" in error
    call(distill, *flags(corpus, output, "--processes=2"))
    assert "Going on: 48 of 120 sentences are translated already." in caplog.text
    assert contents(output) == contents(distilled)
    _, error = call(distill, *flags(corpus, output), expect=2)
    assert "is not empty" in error


def test_a_process_that_fails_ends_the_command(corpus, call, tmp_path, monkeypatch):
    """A part that cannot be written: a directory has the name under which it is written."""
    begin = distill.Distillation.begin

    def begin_badly(distillation, facts):
        begin(distillation, facts)
        (distillation.work / ".part-00000000.writing").mkdir()

    monkeypatch.setattr(distill.Distillation, "begin", begin_badly)
    _, error = call(distill, *flags(corpus, tmp_path / "corpus", "--processes=2"), expect=2)
    assert "has ended with code 2" in error and "give the same command again" in error


def test_an_exported_teacher_and_the_reference(corpus, call, tmp_path):
    exported, output = tmp_path / "exported", tmp_path / "corpus"
    call(export, f"--run_directory={corpus / 'run'}", f"--output={exported}", "--format=ctranslate2")
    more = [f"--teacher={exported}", "--choose_by=reference", "--beam_size=3"]
    call(distill, *flags(corpus, output)[1:3], *more)
    given = [f"--exported={exported}", f"--input={corpus / 'train.en'}", "--beam_size=3", "--nbest=3"]
    candidates = {}
    for line in call(translate, *given)[0]:
        number, text = line.split("\t")
        candidates.setdefault(int(number), []).append(text)
    chosen = (output / "train.de").read_text().splitlines()
    references = (corpus / "train.de").read_text().splitlines()
    choose = nearest_to_reference("de")
    wanted = [
        choose([Hypothesis(text, 0, 0, ()) for text in texts], reference)
        for texts, reference in zip(candidates.values(), references)
    ]
    assert chosen == wanted
    assert sum(choice != texts[0] for choice, texts in zip(chosen, candidates.values())) > 5


def test_what_is_chosen():
    hypotheses = [Hypothesis(text, 0, 0, ()) for text in ("ein Hund", "ein Mann reitet heute", "ein Mann reitet heute")]
    assert best_score(hypotheses, "ein Mann reitet") == "ein Hund"
    assert nearest_to_reference("de")(hypotheses, "ein Mann reitet") == "ein Mann reitet heute"


@pytest.mark.parametrize(
    "given, message",
    [
        ([], "--teacher is missing"),
        (["--teacher=/no/such/run"], "--teacher=/no/such/run: there is no such directory"),
        (["--teacher={corpus}/run", "--nbest=3"], "--nbest does nothing here"),
        (["--teacher={corpus}/run", "--data=/no/such/corpus"], "--data=/no/such/corpus"),
    ],
)
def test_what_distill_refuses(corpus, call, tmp_path, given, message):
    words = [f"--output={tmp_path / 'out'}", *(word.format(corpus=corpus) for word in given)]
    words += [] if any("--data" in word for word in given) else [f"--data={corpus}"]
    _, error = call(distill, *words, expect=2)
    assert message in error and "Traceback" not in error and not (tmp_path / "out").exists()
