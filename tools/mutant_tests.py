"""Processes in which the tests meet a mutant, forked from one that has TensorFlow already.

Whoever imports this module pays for TensorFlow once and must not compute with it: a fork has none of its threads. A
child forgets every module of the project, imports it anew from a copy of the tree, which holds the mutant, and runs
pytest. What it is to run is known from a recording: the lines of the core that each test executes, and for how long.
"""

import contextlib
import faulthandler
import functools
import importlib
import itertools
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import coverage
import pytest
import tensorflow as tf

OWN_PACKAGES = ("graphs", "tests", "tfnmt", "tools")
PASSED, KILLING = 0, (1, 2, 4, 5)
"""pytest's exit codes: all tests passed; some failed, or could not be imported, or are not there with the mutant."""
START_SECONDS = 120.0  # for the imports
TEST_SECONDS = 60.0  # and a multiple of what the test took:
TEST_TIMES = 10.0
IMPORT, SHARED = "", "fixture"
"""Who executes lines outside of every test: the import of a file, and a fixture that several tests share."""

# What the tests import beside TensorFlow.
for _name in ("numpy.testing", "unittest.mock", "sentencepiece", "tensorflow.python.ops.while_v2"):
    importlib.import_module(_name)


class Copy:
    """A copy of the project's files, in which mutants take the place of files.

    Attributes:
      path: where it is.
    """

    def __init__(self, root: pathlib.Path, path: pathlib.Path):
        """Copies what git knows, or would."""
        self.path = path
        words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, names):
            if (root / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, path / name)
        self._changes = 0

    @property
    def report(self) -> pathlib.Path:
        """What a child leaves behind."""
        return self.path / "report.json"

    @property
    def log(self) -> pathlib.Path:
        """What a child and its tests print."""
        return self.path / "output.txt"

    @contextlib.contextmanager
    def changed(self, file: str, source: str) -> Iterator[None]:
        """Gives a file other content for a while."""
        path = self.path / file
        original = path.read_bytes()
        try:
            self._write(path, source.encode())
            yield
        finally:
            self._write(path, original)

    def _write(self, path: pathlib.Path, content: bytes) -> None:
        path.write_bytes(content)
        # Python tells compiled files of another source by its second and size alone.
        self._changes += 1
        os.utime(path, (self._changes, self._changes))


def start(copy: Copy, work: Callable[[], int]) -> multiprocessing.Process:
    """Has `work` done within the copy by a process that leads a group of its own; its result is the exit code."""
    copy.report.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_in_copy, args=(copy, work))
    process.start()
    return process


def end(process: multiprocessing.Process) -> None:
    """Ends a process, if it is not yet at its end, and whatever it has left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def record(copy: Copy, test_file: str, core: Sequence[str]) -> int:
    """Runs a file of tests without a mutant, in a child; its report is what `covering` reads."""
    measured = coverage.Coverage(
        data_file=None, config_file=False, include=[str(copy.path / name) for name in core], messages=False
    )
    measured.start()
    recorder = _Recorder(measured.switch_context)
    code = pytest.main([*_words(copy), test_file], plugins=[recorder])
    measured.stop()
    data = measured.get_data()
    lines = {
        name: data.contexts_by_lineno(str(copy.path / name))
        for name in core
        if str(copy.path / name) in data.measured_files()
    }
    copy.report.write_text(json.dumps({"seconds": recorder.seconds, "lines": lines}))
    return code


def meet(copy: Copy, tests: Mapping[str, float]) -> int:
    """Runs tests, of so many seconds each, up to the first that fails, in a child; its report names that one."""
    found = _Verdict(copy, tests)
    return pytest.main([*_words(copy), "-x", *_files(tests)], plugins=[found])


def covering(recordings: Iterable[Mapping[str, Any]], file: str, span: tuple[int, int]) -> dict[str, float]:
    """The tests that execute one of the lines from `span[0]` to `span[1]` of a file, the fastest first, with seconds.

    Of lines that an import executes, such as a class's, it is all those that execute anything of the file; of lines
    that a shared fixture executes, all those that may use it.
    """
    found: dict[str, float] = {}
    for recording in recordings:
        lines = {int(number): tests for number, tests in recording["lines"].get(file, {}).items()}
        tests = {test for number in range(span[0], span[1] + 1) for test in lines.get(number, ())}
        if IMPORT in tests:
            tests |= {test for each in lines.values() for test in each}
        if SHARED in tests:
            tests |= set(recording["seconds"])
        found |= {test: recording["seconds"][test] for test in tests if test in recording["seconds"]}
    return dict(sorted(found.items(), key=lambda item: item[::-1]))


def within(tests: Mapping[str, float], seconds: float) -> dict[str, float]:
    """The first tests that take so many seconds together, one at least; all for 0."""
    ends = itertools.accumulate(tests.values())
    return {
        test: each
        for number, ((test, each), end) in enumerate(zip(tests.items(), ends))
        if not seconds or not number or end <= seconds
    }


def _files(tests: Iterable[str]) -> list[str]:
    return sorted({test.partition("::")[0] for test in tests})


def _words(copy: Copy) -> list[str]:
    return ["-q", "--tb=short", "-p", "no:cacheprovider", f"--basetemp={copy.path / 'temporary'}"]


def _in_copy(copy: Copy, work: Callable[[], int]) -> None:
    """What a child does."""
    os.setsid()
    code = 3
    try:
        output = os.open(copy.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
            os.dup2(file, descriptor)
        _alarm(START_SECONDS)
        _enter(copy.path)
        # The core needs no conversion, which takes a third of the time, and would hide from coverage what it converts.
        tf.function = functools.partial(tf.function, autograph=False)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # TensorFlow's threads are not waited for


def _enter(path: pathlib.Path) -> None:
    """Makes `path` the place where the project's modules and its child processes come from."""
    own = {name for name in sys.modules if name.partition(".")[0] in OWN_PACKAGES}
    roots = {str(pathlib.Path(file).parent.parent) for file in map(_file_of, own) if file}
    for name in own:
        del sys.modules[name]
    sys.path[:] = [str(path), *(each for each in sys.path if each not in roots)]
    os.chdir(path)
    os.environ["PYTHONPATH"] = str(path)
    logging.root.handlers.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.disable()


def _file_of(name: str) -> str | None:
    return getattr(sys.modules[name], "__file__", None) if "." not in name else None


def _alarm(seconds: float) -> None:
    """Ends the process when so many seconds have gone; nothing in it, TensorFlow included, can stand in the way."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


class _Recorder:
    """A plugin that tells coverage which test runs, and remembers how long each takes.

    Attributes:
      seconds: by test.
    """

    def __init__(self, switch: Callable[[str], object]):
        self.seconds: dict[str, float] = {}
        self._switch, self._running = switch, IMPORT

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        _alarm(30 * TEST_SECONDS)
        self._running = item.nodeid
        self._switch(item.nodeid)
        try:
            return (yield)
        finally:
            self._running = IMPORT
            self._switch(IMPORT)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope != "function":
            self._switch(SHARED)
        try:
            return (yield)
        finally:
            self._switch(self._running)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


class _Verdict:
    """A plugin that runs the tests in the order given, each within its time, and reports which one is to blame."""

    def __init__(self, copy: Copy, tests: Mapping[str, float]):
        self._copy, self._tests = copy, tests

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        places = {test: place for place, test in enumerate(self._tests)}
        items[:] = sorted((item for item in items if item.nodeid in places), key=lambda item: places[item.nodeid])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item):
        # Named before it fails: one that hangs, or crashes the process, says nothing afterwards.
        self._copy.report.write_text(json.dumps(item.nodeid))
        _alarm(TEST_SECONDS + TEST_TIMES * self._tests[item.nodeid])
