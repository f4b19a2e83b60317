"""The log: plain lines on standard error, and in a file once a run directory is known."""

import logging as standard_logging
import os
import sys
from pathlib import Path

from absl import logging
from absl.logging import converter


class _Lines(standard_logging.Formatter):
    """The time and the text; the level too where it is more than information."""

    def formatMessage(self, record: standard_logging.LogRecord) -> str:  # noqa: N802 (the base class names it)
        """The record as one line."""
        ordinary = record.levelno <= standard_logging.INFO
        level = "" if ordinary else f"{record.levelname.lower()}: "
        return f"{record.asctime} {level}{record.message}"

    def usesTime(self) -> bool:  # noqa: N802 (the base class names it)
        """Says that each line has the time."""
        return True


class _File(standard_logging.FileHandler):
    """A log file. Where it cannot be written, standard error says so, once, and the program goes on.

    Attributes:
      is_whole: whether it holds all that was logged.
    """

    is_whole = True

    def __init__(self, path: Path):
        """Opens the file, which is continued if it exists; its directory is made if it does not."""
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path)
        self.setFormatter(_Lines(datefmt="%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: standard_logging.LogRecord) -> None:  # noqa: N802 (the base class names it)
        """A full disk is no defect."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._say(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        """Ends the file, though what it did not take may be left out."""
        try:
            super().close()
        except OSError as error:
            self._say(error)

    def _say(self, error: OSError) -> None:
        if self.is_whole:
            text = f"warning: {self.baseFilename} cannot be written ({error.strerror}); the program goes on without it."
            print(text, file=sys.stderr)
        self.is_whole = False


_files: list[_File] = []


def log_to_standard_error() -> None:
    """Makes absl log plain lines, `HH:MM:SS text`, from the level of information on."""
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(_Lines(datefmt="%H:%M:%S"))
    logging.set_verbosity(logging.INFO)


def say_on_standard_error(level: int | None) -> None:
    """Leaves what is less than one of absl's levels, or everything, to the files: another process says it."""
    standard = standard_logging.CRITICAL + 1 if level is None else converter.absl_to_standard(level)
    logging.get_absl_handler().setLevel(standard)


def log_to(directory: Path | str, name: str | None = None) -> Path:
    """Adds a log file to which every line goes too, and returns its path.

    The directory, such as a run directory's `logs`, is made if it does not exist. The name has no `.log`; by default it
    is the program's.
    """
    path = (Path(directory) / f"{name or Path(sys.argv[0]).name}.log").absolute()
    if path in (Path(handler.baseFilename) for handler in _files):
        return path
    handler = _File(path)
    logging.get_absl_logger().addHandler(handler)
    _files.append(handler)
    return path


def divert_tensorflow(directory: Path | str) -> Path:
    """Sends what TensorFlow itself has to say to a file beside ours; returns it.

    A cluster's runtime reports on standard error, from C++ and from Python, every peer that comes or goes, several
    times. What matters of it comes as an exception. Standard error stays where it was for everybody else.
    """
    path = Path(directory) / "tensorflow.log"
    if os.fstat(2).st_ino == (path.stat().st_ino if path.exists() else None):
        return path
    handler = _File(path)
    logger = standard_logging.getLogger("tensorflow")
    logger.handlers, logger.propagate = [handler], False

    def is_ours(record: standard_logging.LogRecord) -> bool:
        """Whether a record of absl's log, to which some of TensorFlow's modules write, is this project's."""
        theirs = "/tensorflow/" in record.pathname
        if theirs:
            handler.handle(record)
        return not theirs

    logging.get_absl_logger().addFilter(is_ours)
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 2)
    logging.get_absl_handler().python_handler.stream = sys.stderr
    return path


def note(text: str) -> list[Path]:
    """Writes `text`, such as a stack trace, to the log files alone; returns those that took it."""
    record = standard_logging.LogRecord("tfnmt", standard_logging.ERROR, "", 0, text, None, None)
    for handler in _files:
        handler.handle(record)
    return [Path(handler.baseFilename) for handler in _files if handler.is_whole]


def close() -> None:
    """Ends logging to files."""
    while _files:
        handler = _files.pop()
        logging.get_absl_logger().removeHandler(handler)
        handler.close()
