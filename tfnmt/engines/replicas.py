"""Replicas of what the servers hold, where each worker's own moves by all of its own gradient."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from graphs.encodings import DENSE
from graphs.local_gradient import OwnGradient, average_replicas
from graphs.reduce_average import ServerVariables, Update
from tfnmt.engines.learning_rates import LearningRates
from tfnmt.engines.server_graph import Arrived, Numbers, ServerGraph, update_of
from tfnmt.engines.worker import WORKER_VECTOR, Push, worker_vector
from tfnmt.strategies import Strategy

_REPLICA = "replica_"
_OF_REPLICA = re.compile(rf"{WORKER_VECTOR}\d+_{_REPLICA}")


class Replicas:
    """Those that are in this process: of all workers in a simulation, of one on a rank.

    Attributes:
      servers: worker -> its replica, of which the first one's are the servers' own variables.
    """

    def __init__(
        self,
        server: ServerVariables,
        workers: Sequence[int],
        strategy: Strategy,
        rates: LearningRates,
        clip_norm: float,
    ):
        """Gives each of the `workers` a replica of what the server variables hold; for the others see `ServerGraph`."""
        others = [_replica_of(server, strategy) for _ in workers[1:]]
        self.servers = dict(zip(workers, (server, *others)))
        self._graphs = {number: ServerGraph(each, strategy, rates, clip_norm) for number, each in self.servers.items()}
        self._pushed: dict[int, OwnGradient] = {}

    def note(self, push: Push, weight: float) -> None:
        """Remembers what a worker has pushed for the next update, and the weight that counts of it."""
        assert push.gradient is not None
        self._pushed[push.worker] = OwnGradient(push.gradient, push.payload, tf.constant(weight, tf.float64))

    def move(self, arrived: Arrived, numbers: Numbers) -> Update:
        """Moves each by the sum of what has arrived and by what its own worker has not sent; the first one's update."""
        packed = [
            graph.update_from(DENSE, arrived, numbers, own=self._pushed[number])
            for number, graph in self._graphs.items()
        ]
        return update_of(packed[0])

    def average(self) -> None:
        """Averages their parameters."""
        average_replicas(list(self.servers.values()))

    def vectors(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds of them, by name."""
        return {
            _name(number, name): np.concatenate([shard.numpy() for shard in shards])
            for number, server in self.servers.items()
            for name, shards in _own(server)
        }

    def restore(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Takes up what `vectors` returned; a replica that is not there begins as the mean.

        The server variables must have been restored, and so their counters.
        """
        first = next(iter(self.servers.values()))
        for number, server in self.servers.items():
            for name, shards in _own(server):
                vector = vectors.get(_name(number, name), vectors[name])
                for shard, piece in zip(shards, np.split(vector, len(shards))):
                    shard.assign(piece)
            _count_as(server, first)


def means_of_replicas(vectors: Mapping[str, np.ndarray], workers: int) -> dict[str, np.ndarray]:
    """The vectors, of which the servers' are the means of the replicas' as far as there are any."""
    found = dict(vectors)
    for name in vectors:
        replicas = [vectors[_name(number, name)] for number in range(workers) if _name(number, name) in vectors]
        if replicas:
            # Not the sum over the number, which is another number where all are equal: three times x by three.
            first = replicas[0]
            found[name] = first + sum(replica - first for replica in replicas[1:]) / len(replicas)
    return found


def without_replicas(vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The vectors but those of replicas: what other workers, or another row, can go on from."""
    return {name: vector for name, vector in vectors.items() if not _OF_REPLICA.match(name)}


def _name(worker: int, vector: str) -> str:
    return worker_vector(worker, f"{_REPLICA}{vector}")


def _own(server: ServerVariables) -> Iterator[tuple[str, list[tf.Variable]]]:
    """The vectors in which replicas differ."""
    return ((name, shards) for name, shards in server.vectors().items() if name != "received")


def _replica_of(server: ServerVariables, strategy: Strategy) -> ServerVariables:
    shards = server.shards
    start = tf.concat([shard.parameters.read_value() for shard in shards], axis=0)
    replica = ServerVariables(start, [shard.device for shard in shards], shards[0].average is not None)
    replica.begin(strategy.server_update, summed=False)
    of_server = dict(_own(server))
    for name, variables in _own(replica):
        for variable, value in zip(variables, of_server[name]):
            variable.assign(value)
    _count_as(replica, server)
    return replica


def _count_as(replica: ServerVariables, server: ServerVariables) -> None:
    for name in ("version", "updates", "steps"):
        getattr(replica, name).assign(getattr(server, name))
