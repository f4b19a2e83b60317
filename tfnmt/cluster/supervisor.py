"""The tasks of a cluster as processes of this machine: started, watched, started again, ended.

A worker of a cluster that dies is started again, alone. When the chief, a parameter server or a rank dies, the
parameters are lost or nobody drives: all tasks end, and start again from the newest checkpoint.
"""

import contextlib
import ctypes
import dataclasses
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from absl import logging

from tfnmt.cluster.addresses import CHIEF
from tfnmt.settings import setting
from tfnmt.signals import StopSignals

DISMISSED = 71
"""Exit code of a task that the leading one, which fails, has told to end: no failure of its own."""

_LOOK_SECONDS = 0.2
_SHOWN_LINES = 15
_SETTLE_SECONDS = 3.0
_NOTICE_SECONDS = 20.0
_ANSWER = "the leading task saves and ends, and the others with it; once more kills all tasks."


@dataclasses.dataclass(frozen=True)
class SupervisionSettings:
    """How the processes of a launched job are looked after."""

    max_restarts: int = setting(3, "Times that lost tasks, or the whole job, are started again.", minimum=0)
    grace_seconds: float = setting(
        60.0, "Seconds in which the tasks may save and end after Ctrl-C or SIGTERM, before they are killed.", minimum=0
    )
    print_commands: bool = setting(False, "Print the command of each task, for its host, and exit.")


@dataclasses.dataclass(frozen=True)
class Task:
    """One process to be."""

    job: str
    number: int  # among the tasks of its job
    command: tuple[str, ...]
    log: Path | None  # the file of its output; None for this terminal
    leads: bool = False  # it is the one whose exit code counts, and which gets the signals
    is_replaceable: bool = False  # it may be started again alone
    environment: Mapping[str, str] | None = dataclasses.field(default=None, hash=False)  # None for this process's own

    @property
    def name(self) -> str:
        """The task's name in messages."""
        return CHIEF if self.job == CHIEF else f"{self.job} {self.number}"


class Supervisor:
    """Runs one job to its end."""

    def __init__(
        self, make_tasks: Callable[[], Sequence[Task]], settings: SupervisionSettings, retriable_codes: Sequence[int]
    ):
        """Takes what makes the tasks, anew for each start, so that addresses may change; the one that leads comes last.

        After these exit codes of the leading task a new start helps, and so it does after a signal.
        """
        self._make_tasks, self._settings, self._retriable_codes = make_tasks, settings, retriable_codes
        self._restarts = 0
        self._running: dict[Task, subprocess.Popen] = {}
        self._signals = StopSignals(_ANSWER, lambda number: self._hurry.set())
        self._hurry = threading.Event()

    def run(self) -> int:
        """Starts the tasks and watches them; the exit code of the job."""
        with self._signals:
            try:
                while True:
                    self._start(self._make_tasks())
                    code = self._watch()
                    self._end_all()
                    if self._signals.requested or not self._may_retry(code):
                        return self._exit_code(code)
                    logging.warning("Starting all tasks again from the newest checkpoint (%s).", self._count())
            finally:
                self._end_all()

    def _exit_code(self, code: int) -> int:
        """The exit code of the job, from that of the leading task."""
        if self._signals.requested and code:
            return self._signals.exit_code
        return 128 - code if code < 0 else code

    def _start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            output = open(task.log, "ab") if task.log else None  # noqa: SIM115 (closed behind the start)
            try:
                self._running[task] = subprocess.Popen(
                    task.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=task.environment,
                    start_new_session=True,  # Ctrl-C comes to us alone, and we pass it on
                    preexec_fn=_die_with_parent,
                )
            finally:
                if output:
                    output.close()

    def _watch(self) -> int:
        """Watches the tasks until the leading one ends, or should have noticed that another has failed.

        Returns:
          The exit code that counts.
        """
        told_at: float | None = None
        failed_since: float | None = None
        while True:
            leader = next(task for task in self._running if task.leads)
            code = self._running[leader].poll()
            if code is not None:
                if code and not self._signals.requested:
                    self._show_first_failure(leader, code)
                return self._code_that_counts(code)
            if self._hurry.is_set():
                logging.error("Told to end once more: all tasks are killed, unsaved.")
                return -signal.SIGKILL
            if self._signals.requested and told_at is None:
                told_at = time.monotonic()
                self._running[leader].send_signal(self._signals.requested)
            if told_at is not None and time.monotonic() - told_at > self._settings.grace_seconds:
                logging.error(
                    "The %s did not end within --grace_seconds=%g.", leader.name, self._settings.grace_seconds
                )
                return -signal.SIGKILL
            failed_since = (failed_since or time.monotonic()) if self._failed() or self._dismissed() else None
            if failed_since is not None and time.monotonic() - failed_since > _NOTICE_SECONDS:
                self._show_first_failure(leader, 0)
                codes = [self._running[task].returncode for task in self._failed()]
                return codes[0] if codes else -signal.SIGKILL  # the leading task has told the others, and hangs
            for task in [task for task in self._ended_badly() if task.is_replaceable]:
                self._restart(task)
                if not any(task.is_replaceable for task in self._running):
                    return -signal.SIGKILL  # nobody is left to work, and --max_restarts are used up
            time.sleep(_LOOK_SECONDS)

    def _restart(self, task: Task) -> None:
        """Starts a worker again, as long as that may be."""
        code = self._running[task].returncode
        if self._signals.requested:
            return
        if self._restarts >= self._settings.max_restarts:
            del self._running[task]
            logging.error("%s %s; --max_restarts are used up.", task.name.capitalize(), _describe(code))
            return
        self._restarts += 1
        logging.warning("%s %s; starting it again (%s).", task.name.capitalize(), _describe(code), self._count())
        self._start([task])

    def _code_that_counts(self, code: int) -> int:
        """The leading task's code; but where it has merely lost another task, that one's if a new start cannot help."""
        lost = self._failed() if code in self._retriable_codes else []
        others = [self._running[task].returncode for task in lost]
        return next((other for other in others if not self._may_help(other)), code)

    def _may_help(self, code: int) -> bool:
        """Whether a new start may help a task that has ended so."""
        return code < 0 or code in self._retriable_codes

    def _may_retry(self, code: int) -> bool:
        if not self._may_help(code) or self._restarts >= self._settings.max_restarts:
            return False
        self._restarts += 1
        return True

    def _count(self) -> str:
        return f"restart {self._restarts} of at most {self._settings.max_restarts}"

    def _show_first_failure(self, leader: Task, code: int) -> None:
        """Names what failed first: another's end is the cause of the leading task's, not the other way round."""
        killed = [leader] if code < 0 else []  # otherwise it has said itself, on this terminal, what was wrong
        for task in self._failed() or killed:
            logging.error("%s %s first.", task.name.capitalize(), _describe(self._running[task].returncode))
            lines = task.log.read_text(errors="replace").splitlines() if task.log and task.log.exists() else []
            if lines:
                end = "\n".join(f"  {line}" for line in lines[-_SHOWN_LINES:])
                logging.error("The end of %s:\n%s", task.log, end)

    def _failed(self) -> list[Task]:
        """The tasks that must not fail and have, beside the leading one."""
        return [task for task in self._ended_badly() if not task.leads and not task.is_replaceable]

    def _ended_badly(self) -> list[Task]:
        """The tasks that have ended with a code other than zero, and were not told to."""
        return [task for task, process in self._running.items() if process.poll() not in (None, 0, DISMISSED)]

    def _dismissed(self) -> list[Task]:
        """The tasks that the leading one has told to end, because it fails."""
        return [task for task, process in self._running.items() if process.poll() == DISMISSED]

    def _end_all(self) -> None:
        """Waits a moment for the tasks, which have been told to end, and kills those that stay."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self._running.clear()


def _describe(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it dies, however that happens (Linux)."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of sys/prctl.h
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
