"""Numbers that a program of the user's finds: a real program, with real files."""

import logging
import shlex
import sys

import pytest

from tfnmt.training.metrics_command import faults_of_command, run_metrics_command
from tfnmt.training.validation import Evaluation

TEXTS = (["ein Haus", "zwei ö"], ["ein Haus", "zwei ä"], ["a house", "two"])


def _command(code):
    return shlex.join([sys.executable, "-c", f"import sys; {code}", "of its own"])


def test_it_gets_the_files_and_gives_numbers():
    code = """texts = [open(path, encoding='utf-8').read().splitlines() for path in sys.argv[2:]]
print(); print('equal', sum(map(str.__eq__, *texts[:2])) / 2); print('words  ', sum(len(t.split()) for t in texts[2]))
print('who', len(sys.argv[1])); print('a warning', file=sys.stderr)"""
    found = run_metrics_command(_command(f"exec({code!r})"), *TEXTS)
    assert found == (("equal", 0.5), ("words", 3.0), ("who", 10.0))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("sys.exit(3)", "exit status 3"),
        ("print('comet'); print('bleu 3')", "it printed 'comet.nbleu 3.n', and not lines of a name and a number"),
        ("print('comet nan')", "not lines of a name and a number"),
        ("print('comet 0.8 or so')", "not lines of a name and a number"),
        ("", "it printed '', and"),
    ],
)
def test_what_fails_is_told_and_training_goes_on(code, told, caplog):
    with caplog.at_level(logging.ERROR):
        assert run_metrics_command(_command(code), *TEXTS) == ()
    assert told in caplog.text.replace("\\", ".") and "training goes on without its numbers" in caplog.text


def test_a_program_that_is_missing_is_refused_beforehand():
    assert faults_of_command("") == faults_of_command(_command("")) == []
    (fault,) = faults_of_command("comet-scoer --model x")
    assert "there is no program comet-scoer; give its path" in fault
    (fault,) = faults_of_command("comet 'x")
    assert fault.startswith("--metrics_command=comet 'x: ")


def test_the_first_number_is_the_command_s_and_none_replaces_ours():
    found = Evaluation(2.0, 1.0, _Scores(), (), (("comet", 0.8), ("bleu", 99.0)))
    assert found.metrics() == {
        "loss": 2.0,
        "cross_entropy": 1.0,
        "bleu": 30.0,
        "chrf": 50.0,
        "ter": 60.0,
        "comet": 0.8,
        "command": 0.8,
    }
    assert "command" not in Evaluation(2.0, 1.0, _Scores(), ()).metrics()


class _Scores:
    bleu, chrf, ter = 30.0, 50.0, 60.0
