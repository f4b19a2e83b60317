"""Jobs of several real processes, for tests: started, watched, killed."""

import contextlib
import os
import re
import subprocess
import time
from pathlib import Path

from tests.programs import command
from tfnmt.cluster.probes import is_listening
from tfnmt.installation import ROOT

SECONDS = 240  # a hang must not hold up the suite
SHALLOW = (
    f"--flagfile={ROOT / 'configs' / 'transformer_tiny.flags'}",
    "--encoder_layers=1",
    "--decoder_layers=1",
)
"""A model whose graphs are built soon, which each process of a job does."""
TRAINING = (
    *SHALLOW,
    "--batch_positions=512",
    "--learning_rate=0.004",
    "--warmup_updates=100",
    "--evaluate_every_updates=40",
    "--validation_sentences=8",
    "--samples=0",
)
UNEVALUATED = "--evaluate_every_updates=0"
"""For a training of whose validation nothing is said: no process builds the graphs of translating and scoring."""


class Job:
    """A job under way.

    Attributes:
      directory: of the run.
      log: the file of everything that it says.
    """

    def __init__(self, directory, words, environment=None):
        self.directory = directory
        self.log = directory.parent / "job.log"
        self._temporary = directory.parent / "temporary"
        self._temporary.mkdir(exist_ok=True)
        with open(self.log, "w") as log:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self._temporary), **(environment or {})},
            )

    @classmethod
    def launched(cls, corpus, directory, *flags, program=None):
        """One of tfnmt-launch's, started as `program` where that is given."""
        program = program or command("launch")
        return cls(directory, [*program, *TRAINING, f"--data={corpus}", f"--run_directory={directory}", *flags])

    def wait_for(self, text):
        """Returns once the log has `text`."""
        deadline = time.monotonic() + SECONDS
        while text not in self.log.read_text():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def signal(self, number, *words):
        """Sends a signal to the task that has all the words in its command or its environment; to the job itself when
        there are none."""
        tasks = [task for task, found in self._tasks().items() if set(words) <= found] if words else [self._process.pid]
        (task,) = tasks
        os.kill(task, number)

    def end(self, others_seconds=0):
        """The exit code and the log, once it has ended; no process, port or temporary file may be left of it.

        Its processes have ended before it has, or so many seconds later.
        """
        code = self._process.wait(timeout=SECONDS)
        deadline = time.monotonic() + others_seconds
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == [], left
        assert list(self._temporary.iterdir()) == []
        logs = "".join(log.read_text() for log in self.directory.glob("logs/*.log"))
        assert not any(map(is_listening, re.findall(r" listens on ([^;]+);", logs)))
        return code, self.log.read_text()

    def _left(self):
        """The words of every process of the job."""
        return [words for words in _processes().values() if f"TMPDIR={self._temporary}" in words]

    def _tasks(self):
        """The words in command and environment of every process that trains in this directory."""
        ours = {f"--run_directory={self.directory}", f"--flagfile={self.directory / 'logs' / 'launch.flags'}"}
        return {
            number: words
            for number, words in _processes().items()
            if ours & words
            and any(word.endswith(("tfnmt-train", "tfnmt.commands.train")) for word in words)
            and number != self._process.pid
        }


def _processes():
    """The words in command and environment of every process."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            texts = [(process / name).read_text(errors="replace") for name in ("cmdline", "environ")]
            found[int(process.name)] = {word for text in texts for word in text.split("\0")}
    return found
