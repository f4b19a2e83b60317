"""TensorFlow's coordinator of a cluster's workers, and the only place that uses private parts of TensorFlow."""

import time
from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.eager import context, executor

from tfnmt.cluster.addresses import CHIEF, Cluster
from tfnmt.cluster.loopback import keep_to_address

_LOOK_SECONDS = 0.1


class Coordinator:
    """A thread of the chief for each worker, in which a loop of ours runs on the worker's device."""

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
        if not cluster.is_embedded:
            keep_to_address(cluster.chief)

    def run_on_each_worker(self, loop: Callable[[], None], workers: int) -> None:
        """Has every worker's thread run the loop; after an error in it, again when the worker is back."""
        for _ in range(workers):
            # The public `schedule` takes graph functions only, which cannot decide at run time what to do next.
            self._coordinator._cluster.schedule(loop, None, None)

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
