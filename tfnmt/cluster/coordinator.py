"""TensorFlow's coordinator of a cluster's workers, and the only place that uses private parts of TensorFlow."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context, executor

from tfnmt.cluster.addresses import CHIEF, WORKER, Cluster
from tfnmt.cluster.connections import disconnect, watch_host
from tfnmt.cluster.loopback import keep_to_address
from tfnmt.cluster.probes import answers

_LOOK_SECONDS = 0.1


class Coordinator:
    """A thread of the chief for each worker, in which a loop of ours runs on the worker's device.

    Attributes:
      away: workers that TensorFlow does not know, since they did not answer when one of them or another one failed.
      is_recovering: whether TensorFlow is about to learn who is there; a new graph might wait for that, too.
    """

    def __init__(self, cluster: Cluster):
        """Connects to all tasks, which must be there."""
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(cluster.specification()),
            **({} if cluster.is_embedded else {"task_type": CHIEF, "task_id": 0}),
            rpc_layer="grpc",
        )
        strategy = tf.distribute.ParameterServerStrategy(resolver)
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        _keep_functions()
        _keep_executors()
        self._addresses, self.away, self.is_recovering = cluster.workers, frozenset[int](), False
        self._recover_without_those_who_are_away()
        if not cluster.is_embedded:
            keep_to_address(cluster.chief)

    def run_on_each_worker(self, loop: Callable[[], None], is_over: Callable[[], bool]) -> None:
        """Has every worker's thread run the loop; after an error in it, again when the worker is back.

        Args:
          loop: of one worker.
          is_over: whether nobody waits any longer for a worker that is away.
        """

        def run() -> None:
            worker = current_task()
            while worker in self.away and not is_over():
                if answers(self._addresses[worker]):
                    self.check_known(worker)
                time.sleep(_LOOK_SECONDS)
            if worker not in self.away:
                watch_host(self._addresses[worker])
                loop()

        for _ in self._addresses:
            # The public `schedule` takes graph functions only, which cannot decide at run time what to do next.
            self._coordinator._cluster.schedule(run, None, None)

    def check_known(self, worker: int) -> None:
        """Has TensorFlow take in a worker that answers and that it does not know: by the error of one that failed.

        Raises:
          tf.errors.UnavailableError: it does not know the worker.
        """
        if worker in self.away:
            raise tf.errors.UnavailableError(None, None, f"/job:{WORKER}/task:{worker} was away.")

    @property
    def error(self) -> Exception | None:
        """The error that ended a worker's loop for good."""
        return self._coordinator._cluster.closure_queue._error  # the public `join` would wait for the other workers

    def join(self, silent: int = 0) -> None:
        """Waits until all loops have ended but those of so many workers, which are silent."""
        closures = self._coordinator._cluster.closure_queue
        while silent and closures.inflight_closure_count > silent:
            time.sleep(_LOOK_SECONDS)
        if not silent:
            self._coordinator.join()

    def _recover_without_those_who_are_away(self) -> None:
        """Has TensorFlow take in a worker that is back though others are not.

        TensorFlow 2.21 asks all tasks whenever one has failed, and waits for each of them: with one that never comes
        back, no other one would either. It would wait for the farewell of a silent one, too.
        """
        connected = context.context()

        def update_with_those_who_answer(everybody: Any) -> None:
            away = frozenset(worker for worker, address in enumerate(self._addresses) if not answers(address))
            there = type(everybody).FromString(everybody.SerializeToString())
            for job in there.cluster.job:
                for worker in away if job.name == WORKER else ():
                    del job.tasks[worker]
            self.away = away
            self.is_recovering = True
            for worker in away:
                disconnect(self._addresses[worker])
            # For what is on its way to them TensorFlow would wait with a lock that every call of a function takes.
            with contextlib.suppress(tf.errors.OpError):
                connected.executor.wait()
            try:
                type(connected).update_server_def(connected, there)
            finally:
                self.is_recovering = False

        connected.update_server_def = update_with_those_who_answer


def _keep_functions() -> None:
    """Keeps graph functions for the life of the process.

    When Python frees one, TensorFlow 2.21 asks every task to remove it, and waits for all of them with Python's global
    lock held: one silent task would stop every thread of the chief, the stall watch too. Most tasks never had the
    function and say so, in several lines each.
    """
    context.context().remove_function = lambda name: None


def _keep_executors() -> None:
    """Keeps the executors of workers for the life of the process.

    When Python frees one, TensorFlow waits for what its worker still has to do: the trace of a worker that is gone is
    printed at some later line, and a silent one stops the chief.
    """
    executor.Executor.__del__ = lambda self: None


def current_task() -> int:
    """The number of the worker whose loop calls this, without a question to the worker, which might hang."""
    return tf.DeviceSpec.from_string(context.context().device_name).task
