"""How commands end, what they print and what they log: a small program run as users run it."""

import os
import runpy
import signal
import subprocess
import sys

import pytest

PROGRAM = '''"""Does what it is told.

More about it.
"""

import dataclasses
import errno
import os
import time

from absl import logging

from tfnmt.commands import application
from tfnmt.errors import UserError
from tfnmt.settings import setting


@dataclasses.dataclass(frozen=True)
class ActSettings:
    """What is done."""

    act: str = setting("print", "What to do.")
    logs: str = setting("", "Directory of the log.")
    fast: bool = setting(False, "Whether to hurry.")


@dataclasses.dataclass(frozen=True)
class BaseSettings:
    """What every model has."""

    width: int = setting(8, "Width D, explained at such length here that the line must be broken once.", minimum=1)


@dataclasses.dataclass(frozen=True)
class LargeSettings(BaseSettings):
    """A large model."""

    heads: int | None = setting(None, "Heads.", maximum=16)
    share: float = setting(0.5, "Share.", above=0, below=1)


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which model."""

    model: str = setting("large", "Model.", choices=("large", "base"))


def main(act, which, model):
    if act.logs:
        application.log_to(act.logs, "program")
    logging.info("width %d", model.width)
    logging.warning("be careful")
    logging.debug("not shown")
    if act.act == "print":
        print(application.configuration_table(act, which, model))
        print(application.given("width"), application.given("heads"))
    if act.act == "refuse":
        raise UserError("--act=refuse: one.", "two.")
    if act.act == "break":
        raise RuntimeError("broken")
    if act.act in errno.__dict__:
        number = getattr(errno, act.act)
        raise OSError(number, os.strerror(number), "here")
    if act.act == "wait":
        print("waiting", flush=True)
        time.sleep(60)
    if act.act == "pour":
        while True:
            print("water")
    return 7 if act.act == "seven" else None


models = {"large": LargeSettings, "base": BaseSettings}
application.run(main, ActSettings, ModelSettings, application.Choice("model", models))
'''


COMMANDS = ["train", "launch", "translate", "evaluate", "score", "average", "export", "corpus", "vocabulary", "doctor"]


def _written(directory, name):
    path = directory / name
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return _written(tmp_path_factory.mktemp("program"), "tfnmt-act")


@pytest.fixture(scope="module")
def quick_program(tmp_path_factory):
    """The same under the name of the command that needs no TensorFlow, whose import is most of the time."""
    return _written(tmp_path_factory.mktemp("program"), "tfnmt-corpus")


def _run(program, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*program, *words], capture_output=True, text=True, check=False, timeout=60)


def _times_cut(text: str) -> list[str]:
    """The lines without `HH:MM:SS `."""
    lines = text.splitlines()
    assert all(line[2] == line[5] == ":" for line in lines)
    return [line[9:] for line in lines]


def test_the_table_shows_values_and_where_they_come_from(program, tmp_path):
    (tmp_path / "a.flags").write_text("--model=base\n--width=4\n")
    result = _run(program, f"--flagfile={tmp_path}/a.flags", "--fast")
    assert result.stdout.splitlines() == [
        "ActSettings:",
        "  --act    print",
        "  --logs   (none)",
        "  --fast   true    command line",
        "ModelSettings:",
        f"  --model  base    {tmp_path}/a.flags:1",
        "BaseSettings:",
        f"  --width  4       {tmp_path}/a.flags:2",
        "True False",
    ]
    assert _times_cut(result.stderr) == ["width 4", "warning: be careful"]
    assert result.returncode == 0


@pytest.mark.parametrize(("word", "lines"), [("--verbosity=-1", 1), ("--verbosity=1", 3)])
def test_flags_of_the_libraries_work(quick_program, word, lines):
    assert len(_times_cut(_run(quick_program, word).stderr)) == lines


def test_the_result_of_main_is_the_exit_code(quick_program):
    assert _run(quick_program, "--act=seven").returncode == 7


def test_faults_of_the_command_line_are_plain_lines(quick_program):
    result = _run(quick_program, "--wdith=3", "--heads=17")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: --wdith is not a flag of this command. Did you mean --width?",
        "error: --heads=17: must be at most 16.",
    ]


def test_what_the_user_must_mend_is_shown_without_a_stack_trace_and_logged(program, tmp_path):
    result = _run(program, "--act=refuse", f"--logs={tmp_path}")
    assert result.returncode == 2
    assert result.stderr.splitlines()[2:] == ["error: --act=refuse: one.", "error: two."]
    log = (tmp_path / "program.log").read_text()
    assert "error: be careful" not in log
    assert "error: --act=refuse: one.\nerror: two." in log


def test_a_defect_shows_its_stack_trace_and_logs_it(quick_program, tmp_path):
    for _ in range(2):
        result = _run(quick_program, "--act=break", f"--logs={tmp_path}/logs")
    assert result.returncode == 1
    assert "RuntimeError: broken" in result.stderr
    assert result.stderr.endswith(f"error: this stack trace is also in {tmp_path}/logs/program.log.\n")
    log = (tmp_path / "logs" / "program.log").read_text()
    assert log.count("RuntimeError: broken") == 2  # A log is continued.
    assert log.count(" width 8\n") == 2


@pytest.mark.parametrize(
    ("act", "line"),
    [
        ("ENOSPC", "here: No space left on device. Make room there."),
        ("EROFS", "here: Read-only file system. Choose a place that this user can use."),
        ("EACCES", "here: Permission denied. Choose a place that this user can use."),
    ],
)
def test_a_disk_that_is_full_or_closed_is_for_the_user_to_mend(quick_program, tmp_path, act, line):
    result = _run(quick_program, f"--act={act}", f"--logs={tmp_path}")
    assert result.returncode == 2
    assert result.stderr.splitlines()[2:] == [f"error: {line}"]
    assert "Traceback" in (tmp_path / "program.log").read_text()


def test_what_the_system_says_else_is_a_defect(quick_program):
    result = _run(quick_program, "--act=EBADF")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("word", ["--act=print", "--help"])
def test_standard_output_on_a_full_disk(quick_program, word):
    with open("/dev/full", "w") as full:
        result = subprocess.run([*quick_program, word], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "error: standard output, or a file: No space left on device. Make room there."
    )
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("act", "code"), [("seven", 7), ("refuse", 2), ("break", 1)])
def test_a_log_on_a_full_disk_is_told_of_once_and_changes_no_exit_code(quick_program, tmp_path, act, code):
    (tmp_path / "program.log").symlink_to("/dev/full")
    result = _run(quick_program, f"--act={act}", f"--logs={tmp_path}")
    assert result.returncode == code
    assert result.stderr.count("program.log") == 1
    assert (
        f"warning: {tmp_path}/program.log cannot be written (No space left on device); the program goes on without it."
        in result.stderr.splitlines()
    )
    assert "Logging error" not in result.stderr


def test_interruption_is_quiet(program):
    with subprocess.Popen(
        [*program, "--act=wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert _times_cut(errors) == ["width 8", "warning: be careful"]


@pytest.mark.parametrize("name", COMMANDS)
def test_interruption_while_tensorflow_is_imported_is_one_line(tmp_path, name):
    (tmp_path / "tensorflow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-m", f"tfnmt.commands.{name}"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "Interrupted while loading.\n")


@pytest.mark.parametrize("word", ["--act=pour", "--help"])
def test_a_reader_that_has_gone_is_no_defect(quick_program, word):
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen([*quick_program, word], stdout=writing, stderr=subprocess.PIPE, text=True) as process:
        os.close(writing)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 141
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


def test_help_shows_our_flags_by_class_with_defaults(program):
    result = _run(program, "--help")
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "tfnmt-act: Does what it is told.",
        "",
        "Usage: tfnmt-act [--flag=value ...] [--flagfile=path ...]",
        "",
        "A flagfile holds one flag a line; what is given on the command line overrides it. --helpfull shows",
        "the flags of the libraries too.",
        "",
        "What is done.",
        "  --act=print",
        "      What to do. (a text)",
        "  --logs=",
        "      Directory of the log. (a text)",
        "  --[no]fast=false",
        "      Whether to hurry. (true or false)",
        "",
        "Which model.",
        "  --model=large",
        "      Model. (one of large, base)",
        "",
        "What every model has.",
        "  --width=8",
        "      Width D, explained at such length here that the line must be broken once. (a whole number, at",
        "      least 1)",
        "",
        "A large model. With --model=large:",
        "  --heads=",
        "      Heads. (a whole number, at most 16, empty for none)",
        "  --share=0.5",
        "      Share. (a number, above 0, below 1)",
        "",
    ]


def test_full_help_shows_the_flags_of_the_libraries_too(quick_program):
    assert "verbosity" not in _run(quick_program, "--help").stdout
    assert "--verbosity" in _run(quick_program, "--helpfull").stdout


@pytest.mark.parametrize("name", ["average", "export", "corpus"])
def test_a_command_runs_as_a_module_too(name):
    """In a process of its own, as tests of the other commands start theirs."""
    result = _run([sys.executable, "-m", f"tfnmt.commands.{name}"], "--no_such_flag")
    assert "--no_such_flag is not a flag of this command" in result.stderr
    assert result.returncode == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_module_of_a_command_runs_it(name, monkeypatch, capsys):
    module = f"tfnmt.commands.{name}"
    monkeypatch.setattr("sys.argv", [module, "--no_such_flag"])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert "--no_such_flag is not a flag of this command" in capsys.readouterr().err
    assert end.value.code == 2
