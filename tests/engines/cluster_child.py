"""Runs rows on an embedded cluster, in a process of its own, and prints what came out as JSON.

python -m tests.engines.cluster_child WORKERS SERVERS UPDATES ROW...
"""

import contextlib
import json
import sys

from tfnmt import runtime  # before TensorFlow, whose start it makes quiet

# isort: split
from tests import toy
from tests.engines.building import SCHEDULE, build, run, simulated
from tests.engines.rows import ROWS
from tests.listeners import interfaces
from tfnmt.cluster.addresses import ClusterSettings, find_cluster
from tfnmt.cluster.chief import tasks_of
from tfnmt.commands import application
from tfnmt.engines.cluster import ClusterEngine

BATCHES = toy.make_batches(48)


def main(workers: int, servers: int, updates: int, rows: list[str]) -> None:
    runtime.prepare()
    cluster = find_cluster(ClusterSettings(workers=workers, parameter_servers=servers), {})
    options = {"workers": workers, "servers": servers, "optimizer": "adam", "schedule": SCHEDULE}
    with tasks_of(cluster):
        for name in rows:
            with contextlib.redirect_stdout(sys.stderr):
                engine = build(ClusterEngine, ROWS[name], BATCHES, options={"cluster": cluster}, **options)
                reports = run(engine, updates)
                vectors = dict(engine.state().vectors)
                engine.stop()
                virtual = simulated(ROWS[name], BATCHES, **options)
                run(virtual, updates)
            expected = virtual.state().vectors
            found = {
                "row": name,
                "updates": [report.update for report in reports],
                "staleness": [push.staleness for report in reports for push in report.pushes],
                "pushes": sum(len(report.pushes) for report in reports),
                "distance": max(abs(vectors[each] - expected[each]).max() for each in expected),
                "names": sorted(vectors) == sorted(expected),
                "parameters": vectors["parameters"].tolist(),
            }
            print(json.dumps(found), flush=True)
        ports = [int(address.rpartition(":")[2]) for _, _, address in cluster.tasks()]
        print(json.dumps({"row": "interfaces", "of_tasks": [interfaces()[port] for port in ports]}), flush=True)


if __name__ == "__main__":
    application.end_at_once()
    main(*(int(word) for word in sys.argv[1:4]), sys.argv[4:])
    sys.stdout.flush()
    import os

    os._exit(0)
