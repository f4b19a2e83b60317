"""Stops a task of a cluster for good while the chief is about to save, and prints the chief's exit code.

python -m tests.engines.stall_child JOB NUMBER between|behind
"""

import dataclasses
import multiprocessing
import os
import signal
import sys

from tests.engines.kill_child import SECONDS, call, until
from tfnmt.cluster.addresses import LOOPBACK, Cluster, free_ports
from tfnmt.cluster.probes import is_listening

STALL_SECONDS = 11.0  # a line before, and longer than a first block on a busy machine


def main(job, number, when):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.engines.kill_tasks"])
    chief, *workers, server = (f"{LOOPBACK}:{port}" for port in free_ports(4))
    cluster = Cluster(chief, tuple(workers), (server,), stall_timeout=STALL_SECONDS)
    processes = {}
    for each in cluster.tasks():
        own = dataclasses.replace(cluster, job=each[0], task=each[1])
        processes[each[:2]] = context.Process(target=call, args=("serve_task", own), daemon=True)
        processes[each[:2]].start()
    until(lambda: all(is_listening(address) for _, _, address in cluster.tasks()))
    connection, theirs = context.Pipe()
    leader = context.Process(target=call, args=("save", cluster, theirs, when == "behind"))
    leader.start()
    assert connection.poll(SECONDS), "the chief is silent"
    connection.recv()
    os.kill(processes[job, int(number)].pid, signal.SIGSTOP)
    connection.send("stopped")
    leader.join(SECONDS)
    print(leader.exitcode, flush=True)
    for process in [leader, *processes.values()]:
        process.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
