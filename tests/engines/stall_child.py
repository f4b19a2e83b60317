"""Stops or kills tasks of a cluster for good at some moment, and prints the chief's exit code.

python -m tests.engines.stall_child SIGNAL JOB NUMBERS before|connecting|between|behind
"""

import dataclasses
import multiprocessing
import os
import signal
import sys

from tests.engines.kill_child import SECONDS, call, until
from tfnmt.cluster.addresses import LOOPBACK, Cluster, free_ports
from tfnmt.cluster.probes import answers

STALL_SECONDS = 30.0  # a line before, and longer than a first block on a busy machine


def main(name, job, numbers, when):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.engines.kill_tasks"])
    chief, *workers, server = (f"{LOOPBACK}:{port}" for port in free_ports(4))
    cluster = Cluster(chief, tuple(workers), (server,), rendezvous_timeout=STALL_SECONDS, stall_timeout=STALL_SECONDS)
    patient = dataclasses.replace(cluster, rendezvous_timeout=SECONDS)
    processes = {}
    for each in cluster.tasks():
        own = dataclasses.replace(patient, job=each[0], task=each[1])
        processes[each[:2]] = context.Process(target=call, args=("serve_task", own), daemon=True)
        processes[each[:2]].start()
    until(lambda: all(answers(address) for _, _, address in cluster.tasks()))
    connection, theirs = context.Pipe()
    leader = context.Process(target=call, args=("save", cluster, theirs, when))

    def strike():
        for number in numbers.split(","):
            os.kill(processes[job, int(number)].pid, signal.Signals[name])

    if when == "before":
        strike()
    leader.start()
    if when != "before":
        assert connection.poll(SECONDS), "the chief is silent"
        connection.recv()
        strike()
        connection.send("done")
    leader.join(SECONDS)
    print(leader.exitcode, flush=True)
    for process in [leader, *processes.values()]:
        process.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
