"""The parts that every console script shares: flags to settings, logging, and how it ends.

def main() -> None:
    application.run(_main, TrainingSettings, ModelChoice, Choice("model", registry.SETTINGS))

def _main(training: TrainingSettings, choice: ModelChoice, model: ModelSettings) -> None:
    ...
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags

from tfnmt import interruption
from tfnmt.cluster.launched import end_in_silence, launched
from tfnmt.commands import logs
from tfnmt.commands.command_line import Choice, CommandLine, HelpRequested, Request
from tfnmt.commands.help_text import help_text
from tfnmt.commands.logs import log_to
from tfnmt.errors import UserError, fault_of_the_disk
from tfnmt.settings import value_text

__all__ = ["Choice", "configuration_table", "given", "log_to", "run"]

FAILED, REFUSED, INTERRUPTED, OUTPUT_CLOSED = 1, UserError.exit_code, interruption.EXIT_CODE, 141
"""Exit codes: a defect of the program; the user's to mend; Ctrl-C; nobody reads standard output any more."""

_command_line = CommandLine([])
_ends_at_once = False


def run(main: Callable[..., int | None], *requests: Request) -> NoReturn:
    """Runs a console script and exits.

    Exit codes: what `main` returns (None is 0), 2 for a `UserError` or a disk that is full or closed to us, 75 for a
    `LostError`, 130 for Ctrl-C, 1 for a defect.

    A request is a settings class, or a `Choice` among several; `main` gets one instance for each, in order.
    """
    code = _run(main, requests)
    if _ends_at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else FAILED if code else 0)
    sys.exit(code)


def end_at_once() -> None:
    """Makes the process end without a word to TensorFlow: in a cluster that would wait for peers that are gone."""
    global _ends_at_once
    _ends_at_once = True


def given(name: str) -> bool:
    """Whether the flag was given explicitly, in a flagfile or on the command line."""
    return name in _command_line.given


def configuration_table(*settings: Any) -> str:
    """The settings by class: flag, value, and where the value comes from unless it is the default."""
    sections = {
        type(group).__name__: {name: value_text(value) or "(none)" for name, value in vars(group).items()}
        for group in settings
    }
    name_width = max(len(name) for values in sections.values() for name in values)
    value_width = min(40, max(len(value) for values in sections.values() for value in values.values()))
    lines = []
    for heading, values in sections.items():
        lines.append(f"{heading}:")
        lines += [
            f"  --{name:<{name_width}}  {value:<{value_width}}  {_origin(name)}".rstrip()
            for name, value in values.items()
        ]
    return "\n".join(lines)


def _origin(name: str) -> str:
    if not given(name):
        return ""
    return _command_line.given[name].argument.origin or "command line"


def _run(main: Callable[..., int | None], requests: Sequence[Request]) -> str | int | None:
    """Runs `main` and turns the way it ends into an exit code."""
    try:
        interruption.loaded()
        app.run(lambda settings: _call(main, settings), flags_parser=lambda words: _parse(main, requests, words))
    except SystemExit as end:
        return end.code
    except UserError as error:
        _show(error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return OUTPUT_CLOSED
    except Exception as error:
        if not (fault := fault_of_the_disk(error)):
            _show_defect()
            return FAILED
        _show(UserError(fault))
        logs.note(traceback.format_exc())
        return REFUSED
    finally:
        logs.close()
        _drop_output()


def _drop_output() -> None:
    """Drops what standard output does not take, which the interpreter would try to write once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _call(main: Callable[..., int | None], settings: Sequence[Any]) -> int | None:
    code = main(*settings)
    sys.stdout.flush()  # A reader that has gone is noticed here rather than by the interpreter at its end.
    return code


def _parse(main: Callable[..., int | None], requests: Sequence[Request], words: Sequence[str]) -> list[Any]:
    """The settings in `words`, of which the first is the program; exits behind the help if that is asked for."""
    global _command_line
    _command_line = CommandLine(requests)
    flags.FLAGS.mark_as_parsed()
    logs.log_to_standard_error()
    try:
        return _command_line.parse(words[1:])
    except UserError:
        if (own := launched()) and own.rank:
            end_in_silence(REFUSED)  # Rank 0 says it.
        raise
    except HelpRequested as request:
        print(_help(main, request.full), flush=True)
        sys.exit()


def _help(main: Callable[..., int | None], full: bool) -> str:
    summary = (sys.modules[main.__module__].__doc__ or "").strip().splitlines()
    text = help_text(Path(sys.argv[0]).name, summary[0] if summary else "", _command_line)
    return f"{text}\n{flags.FLAGS.get_help()}" if full else text


def _show(error: UserError) -> None:
    lines = "\n".join(f"error: {fault}" for fault in error.faults)
    print(lines, file=sys.stderr)
    logs.note(lines)


def _show_defect() -> None:
    traceback.print_exc()
    for path in logs.note(traceback.format_exc()):
        print(f"error: this stack trace is also in {path}.", file=sys.stderr)
