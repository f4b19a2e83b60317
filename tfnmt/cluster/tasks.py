"""Workers and parameter servers: how such a task starts, and how it learns that training has ended.

A task that is no chief runs TensorFlow's server and waits for a number in a queue of its own: the exit code that the
chief puts there when training ends. A task whose chief is gone for too long ends by itself.
"""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

import tensorflow as tf
from absl import logging

from tfnmt.cluster.addresses import CHIEF, Cluster
from tfnmt.cluster.loopback import keep_to_address
from tfnmt.cluster.probes import is_listening
from tfnmt.errors import UserError

GONE = 70
"""Exit code of a task that has lost its chief."""

_QUEUE = "tfnmt_end"
_LOOK_SECONDS = 2.0
_TOLD_SECONDS = 10.0
_SAME_REQUEST_SECONDS = 1.0


def start_server(cluster: Cluster, job: str, task: int) -> tf.distribute.Server:
    """TensorFlow's server of one task, in this process.

    Each push that waits for a lock or a transfer holds a thread: fewer threads than workers can stand still for ever.

    Raises:
      UserError: its port is in use.
    """
    address = cluster.specification()[job][task]
    port = int(address.rpartition(":")[2])
    if is_listening(f"localhost:{port}"):
        raise UserError(f"{job} {task}: port {port} of this machine is in use; give another in --{job}_hosts.")
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=len(cluster.workers) + 4)
    config.intra_op_parallelism_threads = tf.config.threading.get_intra_op_parallelism_threads()
    server = tf.distribute.Server(
        cluster.specification(), job_name=job, task_index=task, protocol="grpc", config=config, start=False
    )
    keep_to_address(address)  # it listens already, but nobody is served
    server.start()
    return server


def serve(cluster: Cluster) -> int:
    """Is one worker or parameter server until training ends; the exit code.

    Raises:
      UserError: the chief did not come in time.
    """
    server = start_server(cluster, cluster.job, cluster.task)
    _leave_the_end_to_the_chief()
    logging.info("%s %d listens on %s; the chief is %s.", cluster.job, cluster.task, cluster.address(), cluster.chief)
    chief = _Chief(cluster.chief, cluster.rendezvous_timeout, cluster.stall_timeout)
    with tf.Graph().as_default(), tf.device(device_of(cluster.job, cluster.task)):
        queue = _queue()
        end = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.int32])
        # A session that could reach the other tasks would wait for them.
        own = tf.compat.v1.ConfigProto(device_filters=[f"/job:{cluster.job}/task:{cluster.task}"])
        with tf.compat.v1.Session(server.target, config=own) as session:
            look = tf.compat.v1.RunOptions(timeout_in_ms=int(1000 * _LOOK_SECONDS))
            while True:
                try:
                    (code,) = session.run(end, options=look)
                    logging.info("Training has ended; %s %d ends with code %d.", cluster.job, cluster.task, code)
                    return int(code)
                except tf.errors.DeadlineExceededError:
                    if chief.is_gone():
                        return GONE


def _leave_the_end_to_the_chief() -> None:
    """Goes on behind a signal that a scheduler sends to all tasks: the chief still has to save what is here."""
    told_at: list[float] = []

    def receive(number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not told_at:
            told_at.append(now)
            name = signal.Signals(number).name
            logging.warning("%s: this task ends with the chief, which saves first; once more ends it at once.", name)
        elif now - told_at[0] > _SAME_REQUEST_SECONDS:
            raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, receive)


def end_tasks(cluster: Cluster, code: int) -> None:
    """Tells the other tasks, from the chief, that training has ended; waits a moment for those that do not listen."""

    def tell() -> None:
        for job, task, address in reversed(cluster.tasks()):
            if is_listening(address):
                with tf.device(device_of(job, task)):
                    tf.raw_ops.QueueEnqueueV2(handle=_queue(), components=[tf.constant(code)])

    # A task that is stopped accepts connections and answers nothing.
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    thread.join(timeout=_TOLD_SECONDS)


def device_of(job: str, task: int) -> str:
    """The name of a task's first processor."""
    return f"/job:{job}/replica:0/task:{task}/device:CPU:0"


def _queue() -> tf.Tensor:
    return tf.raw_ops.FIFOQueueV2(component_types=[tf.int32], shared_name=_QUEUE, container="")


class _Chief:
    """Watches whether the chief is there."""

    def __init__(
        self,
        address: str,
        rendezvous_timeout: float,
        stall_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._address, self._clock = address, clock
        self._rendezvous_timeout, self._stall_timeout = rendezvous_timeout, stall_timeout
        self._seen = False
        self._missed_since: float | None = None
        self._told = 0.0

    def is_gone(self) -> bool:
        """Whether the chief, once seen, has been away for longer than the stall timeout.

        Raises:
          UserError: it has never been seen, and the time for that is over.
        """
        if is_listening(self._address):
            self._seen, self._missed_since, self._told = True, None, 0.0
            return False
        now = self._clock()
        self._missed_since = now if self._missed_since is None else self._missed_since
        away = now - self._missed_since
        if away - self._told >= _TOLD_SECONDS:
            self._told = away
            logging.warning("Waiting for the %s at %s for %.0f s.", CHIEF, self._address, away)
        if not self._seen and away >= self._rendezvous_timeout:
            raise UserError(
                f"The chief at {self._address} did not come within --rendezvous_timeout={self._rendezvous_timeout:g} "
                "seconds. Start it with the same hosts and --job_name=chief."
            )
        if self._seen and away >= self._stall_timeout:
            logging.error("The chief at %s has been away for %.0f s; this task ends.", self._address, away)
            return True
        return False
