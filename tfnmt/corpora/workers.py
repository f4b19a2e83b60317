"""Work on pieces of a corpus in several processes, with results in the order of the pieces."""

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from tfnmt.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 4  # tasks of each process that may be done before their turn comes


def in_order(function: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Iterator[Result]:
    """Yields `function(task)` for each of the `tasks`, in their order, computed in so many processes.

    One process is this one. The function and the tasks are pickled otherwise; at most some tasks for each process are
    in memory at once. The processes end with this one, however it ends.

    Raises:
      UserError: a process was killed.
    """
    if processes == 1:
        yield from map(function, tasks)
        return
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(_Worker(function)) for _ in range(processes)]
        busy: dict[_Worker, int] = {}
        results: dict[int, Result] = {}
        turn = 0
        for number, task in enumerate(tasks):
            while not idle or number - turn >= _AHEAD * processes:
                idle += _collect(busy, results)
                while turn in results:
                    yield results.pop(turn)
                    turn += 1
            worker = idle.pop()
            worker.send(task)
            busy[worker] = number
        while busy or results:
            if turn not in results:
                _collect(busy, results)
            else:
                yield results.pop(turn)
                turn += 1


def _collect(busy: dict["_Worker", int], results: dict[int, Any]) -> list["_Worker"]:
    """Waits for results and moves them from `busy` to `results`, both by the number of the task; the free workers."""
    free, _, _ = select.select(list(busy), [], [])
    for worker in free:
        results[busy.pop(worker)] = worker.receive()
    return free


class _Worker:
    """A process that computes one task after the other.

    It is a program of its own rather than a copy of this one: a copy would hold what this one has imported, and what
    runs in its threads.
    """

    def __init__(self, function: Callable):
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # Ctrl-C is for the command, which ends its workers itself.
        )
        self.send(function)

    def fileno(self) -> int:
        """What `select` looks at."""
        assert self._process.stdout
        return self._process.stdout.fileno()

    def send(self, task: Any) -> None:
        """Gives a task to a worker that has none: one that computes would not take it, and might not be able to end."""
        assert self._process.stdin
        try:
            pickle.dump(task, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._explain()

    def receive(self) -> Any:
        """The result of the task."""
        assert self._process.stdout
        try:
            return pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            self._explain()

    def _explain(self) -> NoReturn:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            raise UserError(
                "A process that worked on the corpus was killed, perhaps for want of memory; give fewer --processes."
            )
        raise RuntimeError(f"A process that worked on the corpus has ended with code {code}.")

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):  # what was not sent any more
            self._process.communicate()


def serve() -> None:
    """Runs a worker: reads a function and tasks from standard input, and writes the results to standard output."""
    with contextlib.suppress(EOFError, BrokenPipeError):  # The command has ended.
        function = pickle.load(sys.stdin.buffer)
        while True:
            pickle.dump(function(pickle.load(sys.stdin.buffer)), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
            sys.stdout.buffer.flush()
