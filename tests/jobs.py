"""Jobs of several real processes, for tests: started, watched, killed."""

import os
import subprocess
import time
from pathlib import Path

from tests.programs import command

SECONDS = 240  # a hang must not hold up the suite
TRAINING = (
    "--flagfile=configs/transformer_tiny.flags",
    "--batch_positions=512",
    "--learning_rate=0.004",
    "--warmup_updates=100",
    "--evaluate_every_updates=40",
    "--validation_sentences=8",
    "--samples=0",
)


class Job:
    """A job under way.

    Attributes:
      directory: of the run.
      log: the file of everything that it says.
    """

    def __init__(self, directory, words, environment=None):
        self.directory = directory
        self.log = directory.parent / "job.log"
        with open(self.log, "w") as log:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
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

    def end(self):
        """The exit code and the log, once it has ended; nothing may be left of it."""
        code = self._process.wait(timeout=SECONDS)
        assert not self._tasks(), self._tasks()
        return code, self.log.read_text()

    def _tasks(self):
        """The words in command and environment of every process that trains in this directory."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words, environment = ((process / name).read_text().split("\0") for name in ("cmdline", "environ"))
            except OSError:
                continue
            ours = f"--run_directory={self.directory}" in words
            ours |= f"--flagfile={self.directory / 'logs' / 'launch.flags'}" in words
            is_task = any(word.endswith(("tfnmt-train", "tfnmt.commands.train")) for word in words[:3])
            if ours and is_task and int(process.name) != self._process.pid:
                found[int(process.name)] = {*words, *environment}
        return found
