"""A cluster of one worker and one server, in one process, whose connections another process holds; see `train`."""

import dataclasses
import os

from tfnmt import runtime  # before TensorFlow, whose start it makes quiet

# isort: split
from tests import toy
from tests.engines.building import build
from tfnmt.cluster.addresses import ClusterSettings, find_cluster
from tfnmt.cluster.chief import tasks_of
from tfnmt.engines.cluster import ClusterEngine
from tfnmt.strategies import Sync


def train(connection, updates):
    """Sends the worker's address and the server's, and takes those under which the chief shall reach them.

    Then it trains, sends the push of each update, and waits for a word before the next.
    """
    runtime.prepare()
    cluster = find_cluster(ClusterSettings(workers=1, parameter_servers=1), {})
    with tasks_of(cluster):
        connection.send((*cluster.workers, *cluster.servers))
        worker, server = connection.recv()
        wired = dataclasses.replace(cluster, workers=(worker,), servers=(server,))
        engine = build(ClusterEngine, Sync(), toy.make_batches(8), model=toy.WideModel(), options={"cluster": wired})
        blocks = engine.blocks()
        for _ in range(updates):
            (push,) = next(blocks).pushes
            connection.send(push._asdict())
            connection.recv()
    os._exit(0)
