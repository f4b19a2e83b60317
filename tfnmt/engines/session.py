"""Where a run trains: a session of an engine, as one of its processes takes part in it."""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from graphs.encodings import DENSE
from tfnmt import runtime
from tfnmt.cluster.elasticity import is_elastic
from tfnmt.cluster.launched import threads_of_rank
from tfnmt.cluster.supervisor import Task
from tfnmt.engines.base import Engine, EngineState
from tfnmt.engines.recipe import Recipe
from tfnmt.layout import Layout
from tfnmt.strategies import AVERAGE, Strategy, StrategySettings

CLUSTER, HOROVOD = "cluster", "horovod"


Drive = Callable[[Callable[[Engine], int]], int]
"""Has an engine, while the other tasks are there, for what is done with it; the exit code."""
Lead = Callable[[Drive, EngineState | None], int]
"""Trains in the run directory, from a live state if there is one; the exit code."""


class Job(Protocol):
    """A run, as a session carries it out."""

    dry_run: bool

    def refuse_unsuitable(self) -> None:
        """Refuses a row that has `Session.faults`."""

    def recipe(self) -> Recipe:
        """What is trained, unless it is refused; the files are read once, however often the workers change."""

    def leading(self) -> AbstractContextManager[Lead]:
        """Holds the run directory."""

    def speak(self, rank: int) -> None:
        """Leaves standard error to rank 0 and, where that cannot speak, rank 1."""

    def follow(self, rank: int) -> None:
        """Logs beside the process that leads."""

    def newest_saved(self) -> int:
        """The update of the newest checkpoint; 0 for none."""


class Session(abc.ABC):
    """The processes of a run; every engine has a session of its own.

    Attributes:
      has_peers: whether there are several tasks, of whose coming and going TensorFlow tells, and for whom it waits.
      servers_are_here: whether the only worker holds the server parameters itself.
      workers: how many.
      servers: parameter servers, or shards that are updated side by side.
      streams: parts of a worker's batch that are computed side by side.
    """

    has_peers: ClassVar[bool] = False
    servers_are_here: ClassVar[bool] = False
    workers: int
    servers: int
    streams: int

    @abc.abstractmethod
    def __init__(self, settings: Any, threads: int | None, environment: Mapping[str, str]):
        """Makes TensorFlow ready, and finds the other processes.

        Args:
          settings: of the engine.
          threads: cores for each process; None for all, or a share where workers or ranks have one machine.
          environment: what launchers tell a process.
        """

    @classmethod
    def task_maker(cls, settings: Any) -> Callable[[Path, Sequence[str]], Sequence[Task]]:
        """What makes all tasks on this machine, the one that leads last, of a directory for logs and a command."""
        raise NotImplementedError

    @classmethod
    def commands(cls, settings: Any, given_but: Callable[..., str]) -> Iterable[str]:
        """The command of each task, for its host; `given_but` has the flags that were given, without some."""
        raise NotImplementedError

    def payloads(self, strategy: Strategy) -> int:
        """How many are on their way at once, beside one copy of the server parameters."""
        return self.workers

    def elements(self, layout: Layout) -> int:
        """Numbers of one vector that each process holds."""
        return layout.size

    @abc.abstractmethod
    def describe(self) -> str:
        """The processes in words."""

    def faults(self, shared: StrategySettings, strategy: Strategy) -> list[str]:
        """Why a row cannot run here, and what can."""
        found = []
        if strategy.most_workers is not None and self.workers > strategy.most_workers:
            found.append(f"--strategy={shared.strategy}: cannot use {self.workers} workers; choose another --strategy.")
        if strategy.encoding is not DENSE and strategy.averaged_slots and self.has_no_servers(strategy):
            found.append(
                f"--encoding={shared.encoding}: without parameter servers slots do not travel encoded; choose another "
                f"--local_slots than {AVERAGE}."
            )
        if strategy.pull_encoding is not DENSE and self.has_no_servers(strategy):
            found.append(
                f"--pull_encoding={shared.pull_encoding}: nothing is pulled without parameter servers; leave it out."
            )
        if strategy.least_payloads is not None:
            found += self._quorum_faults(strategy.least_payloads, strategy)
        if strategy.local_gradient:
            found += self._local_gradient_faults(shared, strategy)
        if shared.sparse_embeddings:
            found += self._sparse_faults(shared, strategy)
        if strategy.meetings.by_speed and self.workers == 1 and not is_elastic():
            found.append("--blocks_by_speed: one worker is the fastest, and does all its steps; leave it out.")
        return found

    def _quorum_faults(self, least: int, strategy: Strategy) -> list[str]:
        """Why no update can go on without workers that are late."""
        if self.has_no_servers(strategy):
            return [
                f"--quorum={least}: without parameter servers all workers sum their payloads at once; leave it out, or "
                f"use --engine={CLUSTER}."
            ]
        if least >= self.workers:
            return [
                f"--quorum={least}: of {counted(self.workers, 'worker')} an update waits for all anyway; leave it out, "
                "or give less."
            ]
        return []

    def _local_gradient_faults(self, shared: StrategySettings, strategy: Strategy) -> list[str]:
        """What does not go with replicas that each move by their own worker's gradient."""
        flag, row = f"--local_gradient_updates={shared.local_gradient_updates}", f"--strategy={shared.strategy}"
        if not (strategy.pushes_gradients_at_once and strategy.exchange.clips_at_servers and strategy.has_barrier):
            return [f"{flag}: {row} does no update of all workers' gradients at every step; leave it out."]
        if not self.has_no_servers(strategy):
            return [
                f"{flag}: parameter servers move one set of parameters for all workers, and each would need its own; "
                f"leave it out, or train without servers: --engine={HOROVOD} or --strategy=ring_allreduce."
            ]
        if self.workers == 1 and not is_elastic():
            return [f"{flag}: one worker has nobody to whom it sends a part of its gradient; leave it out."]
        return []

    def _sparse_faults(self, shared: StrategySettings, strategy: Strategy) -> list[str]:
        """Why no rows of a table can travel by themselves."""
        flag, row = "--sparse_embeddings", f"--strategy={shared.strategy}"
        if self.servers_are_here or self.has_no_servers(strategy):
            return [f"{flag}: nothing is pulled without parameter servers; leave it out, or use --engine={CLUSTER}."]
        found = [
            f"{flag}: --{name}={encoding} encodes whole payloads; leave out either."
            for name, encoding in vars(shared).items()
            if name.endswith("encoding") and encoding not in ("none", "same")
        ]
        if strategy.exchange.trains_replicas:
            found.append(
                f"{flag}: {row} trains replicas, which move in every row; leave it out, or take --strategy=sync, async "
                "or another whose workers push gradients."
            )
        elif not strategy.pulls_for_every_push:
            found.append(
                f"{flag}: {row} pulls at other times than it pushes, and rows are asked for from push to push; leave "
                "it out, or give --pull_every the value of --push_every."
            )
        return found

    def has_no_servers(self, strategy: Strategy) -> bool:
        """Whether workers have what they would pull: each makes every server update of the row itself."""
        return strategy.ring

    @abc.abstractmethod
    def run(self, job: Job) -> int:
        """This process's part in a run; the exit code."""

    def lead(self, job: Job, drive: Callable[[Recipe, Callable[[Engine], int]], int]) -> int:
        """The part of the process that leads; the exit code."""
        recipe = job.recipe()
        with job.leading() as lead:
            return lead(lambda work: drive(recipe, work), None)


def counted(number: int, noun: str) -> str:
    """One thing, or several things."""
    return f"{number} {noun}{'s' if number > 1 else ''}"


def start_streams(threads: int | None, environment: Mapping[str, str], *, in_streams: bool = True) -> int:
    """Makes TensorFlow ready for a process that computes, in several streams or not; in how many."""
    runtime.prepare(threads or threads_of_rank(environment), in_streams=in_streams)
    return runtime.streams()
