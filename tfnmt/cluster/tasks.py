"""Workers and parameter servers: how such a task starts, and how it learns that training has ended.

A task that is no chief runs TensorFlow's server and waits for a number in a queue of its own: the exit code that the
chief puts there when training ends. A task whose chief is gone or silent for too long ends by itself.
"""

import contextlib
import threading
import time
from collections.abc import Callable

import tensorflow as tf
from absl import logging

from tfnmt.cluster.addresses import CHIEF, Cluster
from tfnmt.cluster.loopback import keep_to_address
from tfnmt.cluster.probes import answers, is_listening
from tfnmt.cluster.waits import Wait
from tfnmt.errors import UserError
from tfnmt.signals import StopSignals

GONE = 70
"""Exit code of a task that has lost its chief."""

_QUEUE = "tfnmt_end"
_LOOK_SECONDS = 2.0
_TOLD_SECONDS = 10.0
_ANSWER = "this task ends with the chief, which saves first; once more ends it at once."


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
    logging.info("%s %d listens on %s; the chief is %s.", cluster.job, cluster.task, cluster.address(), cluster.chief)
    chief = _Chief(cluster)
    # A scheduler sends its signal to all tasks, and the chief still has to save what is here.
    with StopSignals(_ANSWER), tf.Graph().as_default(), tf.device(device_of(cluster.job, cluster.task)):
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


def end_tasks(cluster: Cluster, code: int) -> None:
    """Tells the other tasks, from the chief, that training has ended; waits a moment for those that do not listen."""

    def tell(job: str, task: int, address: str) -> None:
        if answers(address):
            with contextlib.suppress(tf.errors.OpError), tf.device(device_of(job, task)):
                tf.raw_ops.QueueEnqueueV2(handle=_queue(), components=[tf.constant(code)])

    # One thread each: a task may fall silent while it is told.
    threads = [threading.Thread(target=tell, args=task, daemon=True) for task in cluster.tasks()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _TOLD_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def device_of(job: str, task: int) -> str:
    """The name of a task's first processor."""
    return f"/job:{job}/replica:0/task:{task}/device:CPU:0"


def _queue() -> tf.Tensor:
    return tf.raw_ops.FIFOQueueV2(component_types=[tf.int32], shared_name=_QUEUE, container="")


class _Chief:
    """Watches, on a task's side, whether the chief is there and alive."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic):
        self._cluster, self._seen = cluster, False
        self._wait = Wait(lambda: f"the {CHIEF} at {cluster.chief}", clock)

    def is_gone(self) -> bool:
        """Whether the chief, once seen, has not answered for longer than the stall timeout.

        Raises:
          UserError: it has never been seen, and the time for that is over.
        """
        if answers(self._cluster.chief):
            self._seen = True
            self._wait.restart()
            return False
        if not self._wait.is_over(self._cluster.stall_timeout if self._seen else self._cluster.rendezvous_timeout):
            return False
        if not self._seen:
            raise UserError(
                f"The chief at {self._cluster.chief} did not come within "
                f"--rendezvous_timeout={self._cluster.rendezvous_timeout:g} seconds. Start it with the same hosts and "
                "--job_name=chief."
            )
        logging.error(
            "The chief at %s has not answered for %.0f s (--stall_timeout=%g); this task ends.",
            self._cluster.chief,
            self._wait.seconds,
            self._cluster.stall_timeout,
        )
        return True
