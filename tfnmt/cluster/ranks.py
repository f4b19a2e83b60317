"""The ranks of a Horovod job: which of them this process is, how they talk to each other, and who is missing."""

import contextlib
import dataclasses
import functools
import math
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from tfnmt import installation
from tfnmt.cluster.addresses import LOOPBACK
from tfnmt.cluster.elasticity import Elasticity, is_elastic
from tfnmt.cluster.grid import Grid
from tfnmt.cluster.launched import end_in_silence, launched, require_horovod
from tfnmt.cluster.meeting import awaiting_others
from tfnmt.cluster.pulse import Pulse, feel
from tfnmt.cluster.stall_watch import Busy, StallSettings, StallWatch
from tfnmt.errors import LostError, UserError, fault_of_the_disk
from tfnmt.settings import setting
from tfnmt.transport import Transport, horovod_transport, load_horovod

END = 0
"""The last command: it ends the work of the ranks that follow."""

_SETTLE_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class RankSettings(StallSettings):
    """Ranks that reduce among themselves, on Horovod."""

    workers: int = setting(1, "Ranks that tfnmt-launch starts; horovodrun and mpirun count theirs.", minimum=1)
    reduction_pieces: int = setting(
        1,
        "Pieces in which a gradient is summed while the rest of it is still computed, which pays where the network is "
        "slow, for rows that push at every step, without --encoding and --global_batch_tokens; 1 sums it whole. Then "
        "compute_share holds the waits for other ranks' pieces too: nothing tells the two apart.",
        minimum=1,
    )
    vocabulary_parallel: bool = setting(
        False,
        "Whether each rank has a part of the rows of the embedding tables and of the output layer, with their "
        "optimizer's slots, for rows that push at every step, without --encoding and --global_batch_tokens: less "
        "memory, and fewer bytes where an update has fewer target tokens than the vocabulary.",
    )
    model_parallel: int = setting(
        0,
        "Ranks, neighbours, that have one copy of the tables among them, a divisor of the number of ranks; the fewer "
        "they are the fewer target tokens they exchange; 0 for all, 1 lets each rank have all rows.",
        minimum=0,
        only_with={"vocabulary_parallel": None},
    )
    check_replicas_every: int = setting(
        1000, "Updates between two comparisons of all ranks' parameters; 0 for none.", minimum=0
    )

    def grid(self, size: int) -> Grid:
        """Which of so many ranks share tables."""
        return Grid(size, (self.model_parallel or size) if self.vocabulary_parallel else 1)


class Command(NamedTuple):
    """The next thing that rank 0 tells the others to do."""

    what: float  # END, or one of the engine's commands
    plateau_scale: float = 1.0
    code: float = 0  # exit code behind END
    saved: float = 0  # the update of the newest checkpoint


class RegroupError(Exception):
    """Ranks have gone or come, under an elastic launcher: those that are there have to meet anew."""

    state: Any = None  # what this rank has come to; None when that is what it has begun with


class Ranks:
    """All ranks, as one of them sees them.

    Attributes:
      rank: the number of this process.
      size: how many ranks there are.
      hosts: the names of the ranks' machines, by rank.
      transport: the collective calls that all ranks make together.
    """

    def __init__(self, settings: RankSettings):
        """Meets the other ranks.

        Raises:
          UserError: Horovod is missing or does not fit, nobody has started the other ranks, or it cannot talk to them.
        """
        require_horovod()
        own = launched()
        if own is None and settings.workers > 1:
            raise UserError(
                f"--workers={settings.workers}: a single process was started; start all ranks with tfnmt-launch, or "
                f"with: horovodrun --gloo -np {settings.workers} tfnmt-train ..."
            )
        # Who is silent is found out here, by name; Horovod would name tensors, and give up sooner.
        os.environ.setdefault("HOROVOD_STALL_CHECK_DISABLE", "1")
        os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", str(int(settings.stall_timeout) + 60))
        # Vectors are summed as they are: fused as they happen to be ready, the order of additions would change with it.
        os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
        self._hvd, self._settings = load_horovod(), settings
        self.transport = horovod_transport(self._hvd)
        self._elastic = Elasticity() if is_elastic() else None
        parts = settings.grid(own.size).parts() if own and not self._elastic else ()
        self._process_sets = {part: self._hvd.ProcessSet(part) for part in parts}
        self._meet()
        if own is not None and own.size != self.size and not self._elastic:
            if own.rank:
                end_in_silence(UserError.exit_code)
            raise UserError(
                "--engine=horovod: this Horovod cannot talk to the ranks that mpirun has started: it was built without "
                f"MPI, or with another one. Run: {installation.HOROVOD_COMMAND}, or use horovodrun --gloo."
            )

    @functools.cached_property
    def _pulse(self) -> Pulse:
        """This rank's pulse; whether others than this machine's must feel it is known once the ranks have met."""
        near = self._hvd.local_size() == self.size or os.environ.get("HOROVOD_GLOO_IFACE") == "lo"
        own_name = os.environ.get("HOROVOD_HOSTNAME") or socket.gethostname()
        return Pulse(LOOPBACK if near and not self._elastic else own_name)

    def _meet(self) -> None:
        while True:
            try:
                return self._try_to_meet()
            except RegroupError:
                self._part()

    def _try_to_meet(self) -> None:
        self._is_awaited = False  # by the others, who are in the middle of something
        self._addresses: list[str] = []  # nobody's is known yet, when somebody is lost in the middle of this
        if self._elastic:  # whose launcher decides how long it looks for hosts
            with self._elastic.connecting(), awaiting_others(None, math.inf):
                self._hvd.init()
        else:
            with awaiting_others(launched(), self._settings.stall_timeout):
                self._hvd.init(process_sets=self._process_sets.values())
        self.rank, self.size = self._hvd.rank(), self.transport.size()
        self.hosts = self.gather(socket.gethostname())
        self._addresses = self.gather(self._pulse.address)
        self._answered = [time.monotonic()] * self.size
        self._watch = StallWatch(
            self._settings.stall_timeout,
            self._busy,
            self._name,
            is_alive=lambda rank: feel(self._addresses[rank]) is not None,
        )

    def among(self, members: range) -> Transport:
        """The calls of all ranks, or those of a part of their grid, to which this rank belongs."""
        if len(members) == self.size:
            return self.transport
        return horovod_transport(self._hvd, self._process_sets[members])

    @property
    def have_changed(self) -> bool:
        """Whether an elastic launcher wants to add or remove ranks; only rank 0 hears of it."""
        return self._elastic is not None and self._elastic.has_news

    def regroup(self) -> None:
        """Meets the ranks that are there now, under an elastic launcher; they get new numbers."""
        self._watch.__exit__()
        self._part()
        self._meet()
        self._watch.__enter__()

    def _part(self) -> None:
        assert self._elastic is not None
        self._elastic.disconnect()
        self._hvd.shutdown()

    def __enter__(self) -> "Ranks":
        """Begins to watch: rank 0 watches all other ranks, and they watch rank 0."""
        self._watch.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends watching and, at a good end, leaves the others in order."""
        self._watch.__exit__(*error)
        if not any(error):
            self._hvd.shutdown()

    @contextlib.contextmanager
    def agreeing(self) -> Iterator[None]:
        """Has all ranks refuse what one of them refuses inside; rank 0 says it.

        Raises:
          UserError: on rank 0; the others end.
        """
        faults: Sequence[str] = ()
        try:
            yield
        except UserError as error:
            faults = error.faults
        except OSError as error:
            if not (fault := fault_of_the_disk(error)):
                raise
            faults = [fault]
        faults_by_rank = self.gather(faults)
        if not any(faults_by_rank):
            return
        if self.rank:
            end_in_silence(UserError.exit_code)
        others = (
            f"{self._name(rank)}: {fault}"
            for rank, faults_of_rank in enumerate(faults_by_rank)
            for fault in faults_of_rank
            if fault not in faults_by_rank[0]
        )
        raise UserError(*faults_by_rank[0], *others)

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Times what is done inside, so that ranks which wait for this one see that it computes."""
        return self._pulse.computing()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of the ranks."""
        return [self.share_object(value, root) for root in range(self.size)]

    def share_object(self, value: Any, root: int = 0) -> Any:
        """The value of one rank, on all."""
        own = pickle.dumps(value) if self.rank == root else b""
        count = int(self._share(tf.constant(len(own)), root, "length"))
        content = self._share(tf.constant(np.frombuffer(own.ljust(count, b"\0"), np.uint8)), root, "value")
        return pickle.loads(content.tobytes())

    def share_vectors(self, vectors: Mapping[str, np.ndarray], root: int = 0) -> dict[str, np.ndarray]:
        """The vectors of one rank, on all."""
        shapes = {name: (vector.shape, vector.dtype) for name, vector in vectors.items()}
        shared = {}
        for name, (shape, kind) in self.share_object(shapes, root).items():
            own = vectors[name] if self.rank == root else np.zeros(shape, kind)
            shared[name] = self._share(tf.constant(own), root, "vector")
        return shared

    def _share(self, tensor: tf.Tensor, root: int, name: str) -> np.ndarray:
        return self.run(self.transport.broadcast, tensor, root, name).numpy()

    def command(self, command: Command | None = None) -> Command:
        """Rank 0 gives a command, and all ranks get it: what they do next."""
        numbers = tf.constant(command or Command(END), tf.float64)
        return Command(*self._share(numbers, 0, "command").tolist())

    @contextlib.contextmanager
    def commanding(self, command: Command) -> Iterator[None]:
        """Rank 0's own part of what it has all ranks do."""
        self.command(command)
        self._is_awaited = True
        yield
        self._is_awaited = False

    def lead(self, work: Callable[[], int]) -> int:
        """Does rank 0's work, and tells the others when it ends; the exit code.

        Where it fails in the middle of what all ranks do, the others hear nothing more, and find rank 0 gone.
        """
        try:
            code = work()
        except (LostError, RegroupError):
            raise
        except BaseException:
            if not self._is_awaited:
                self.command(Command(END, code=1))
            raise
        self.command(Command(END, code=code))
        return code

    def follow(self, work: Callable[[], int]) -> int:
        """Does another rank's work; the exit code that rank 0 gives."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # rank 0 gets it too, and decides
        code = work()
        if code:
            end_in_silence(code)
        return code

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls something that exchanges with the other ranks.

        Raises:
          LostError: one of them is gone. Only the first of those that are left raises it; the others end.
          RegroupError: one is gone, and the launcher is elastic.
        """
        try:
            return function(*arguments)
        except tf.errors.UnknownError as error:
            if "horovod" not in str(error).lower():
                raise
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        gone = self._gone()
        names = " and ".join(map(self._name, gone))
        if self._elastic:
            logging.warning("%s gone; the others go on.", f"{names} is" if names else "A rank is")
            raise RegroupError from error
        if not gone:
            raise error
        if any(rank not in gone for rank in range(self.rank)):
            end_in_silence(LostError.exit_code)
        raise LostError(
            f"{names} {'are' if len(gone) > 1 else 'is'} gone; training ends. Start it again, and it goes on from the "
            "newest checkpoint."
        ) from error

    def _gone(self) -> list[int]:
        """The ranks that do not answer; one that is about to end may still do so for a moment."""
        others = [(rank, address) for rank, address in enumerate(self._addresses) if rank != self.rank]
        deadline = time.monotonic() + (0.0 if self._elastic else _SETTLE_SECONDS)
        while True:
            gone = [rank for rank, address in others if feel(address) is None]
            if gone or time.monotonic() > deadline:
                return gone
            time.sleep(0.1)

    def _name(self, rank: int) -> str:
        return f"rank {rank} on {self.hosts[rank]}"

    def _busy(self) -> list[Busy]:
        """The ranks that this one watches: number, seconds of computing or silence, and the longest computation."""
        watched = range(1, self.size) if self.rank == 0 else [0]
        busy = []
        for rank in watched:
            pulse, now = feel(self._addresses[rank]), time.monotonic()
            if pulse is not None:
                self._answered[rank] = now
            busy.append((rank, *(pulse or (now - self._answered[rank], 0.0))))
        return busy
