"""Stops workers of a cluster whose updates take two of three, and prints what becomes of it as JSON.

python -m tests.engines.silence_child
"""

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import signal
import time

from tests.engines.kill_child import SECONDS, call, until
from tfnmt.cluster.addresses import LOOPBACK, WORKER, Cluster, free_ports
from tfnmt.cluster.probes import answers

STALL_SECONDS = 10.0
SILENT_SECONDS = 15.0  # longer


class Tasks:
    """A chief, three workers and a server, each in a process of its own."""

    def __init__(self):
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.engines.kill_tasks"])
        chief, *workers, server = (f"{LOOPBACK}:{port}" for port in free_ports(5))
        self._cluster = Cluster(chief, tuple(workers), (server,), rendezvous_timeout=SECONDS, stall_timeout=SECONDS)
        self._processes = {each[:2]: self._start(*each[:2]) for each in self._cluster.tasks()}
        until(lambda: all(answers(address) for _, _, address in self._cluster.tasks()))
        self.connection, theirs = self._context.Pipe()
        self.chief = self._context.Process(target=call, args=("go_on", self._cluster, theirs, STALL_SECONDS))
        self.chief.start()
        theirs.close()

    def _start(self, job, number):
        own = dataclasses.replace(self._cluster, job=job, task=number)
        process = self._context.Process(target=call, args=("serve_task", own), daemon=True)
        process.start()
        return process

    def signal(self, name, *numbers):
        for number in numbers:
            os.kill(self._processes[WORKER, number].pid, signal.Signals[name])

    def restart(self, number):
        process = self._processes[WORKER, number]
        process.kill()
        process.join()
        self._processes[WORKER, number] = self._start(WORKER, number)

    def messages(self, until):
        """What the chief sends until a message is as `until` says, that one too."""
        found = []
        while not (found and until(found[-1])):
            assert self.connection.poll(SECONDS), f"the chief is silent behind {found[-1:]}"
            found.append(self.connection.recv())
        return found

    def until_push_of(self, number):
        return self.messages(lambda message: number in message[2])

    def updates_during(self, seconds):
        end = time.monotonic() + seconds
        return self.messages(lambda message: message[1] > end)

    def end(self):
        for process in [self.chief, *self._processes.values()]:
            process.kill()


def longest_gap(messages):
    moments = [message[1] for message in messages]
    return max(later - before for before, later in itertools.pairwise(moments))


def main():
    tasks = Tasks()
    try:
        print(json.dumps(strike(tasks)), flush=True)
    finally:
        tasks.end()


def strike(tasks):
    """Stops the third worker, lets it go on, stops and replaces it, and stops it at an end, and between two updates."""
    facts = {}
    for number in (0, 1, 2, 2):
        tasks.until_push_of(number)

    tasks.signal("SIGSTOP", 2)
    without = tasks.updates_during(SILENT_SECONDS)
    facts["gap"] = longest_gap(without)
    facts["pushes_while_silent"] = sum(2 in message[2] for message in without)
    tasks.signal("SIGCONT", 2)
    facts["back_seconds"] = _seconds_until_push(tasks)

    tasks.signal("SIGSTOP", 2)
    tasks.updates_during(6.0)
    tasks.restart(2)
    facts["restarted_seconds"] = _seconds_until_push(tasks)

    tasks.signal("SIGSTOP", 2)
    tasks.updates_during(6.0)
    began = time.monotonic()
    tasks.connection.send("stop")
    *_, (_, facts["wrongly_counted"], ended) = tasks.messages(lambda message: message[0] == "counted")
    facts["end_seconds"] = ended - began
    tasks.signal("SIGCONT", 2)

    tasks.connection.send("next")
    tasks.messages(lambda message: message == ("ready",))
    tasks.signal("SIGSTOP", 2)
    began = time.monotonic()
    tasks.connection.send("stopped")
    *_, (_, facts["saved"]) = tasks.messages(lambda message: message[0] == "saved")
    facts["save_seconds"] = time.monotonic() - began
    facts["gap_behind_save"] = longest_gap(tasks.updates_during(2.0))
    tasks.signal("SIGSTOP", 1)
    began = time.monotonic()
    with contextlib.suppress(EOFError):
        while tasks.connection.poll(SECONDS):
            tasks.connection.recv()
    tasks.chief.join(SECONDS)
    facts["code"], facts["lost_seconds"] = tasks.chief.exitcode, time.monotonic() - began
    return facts


def _seconds_until_push(tasks):
    began = time.monotonic()
    return tasks.until_push_of(2)[-1][1] - began


if __name__ == "__main__":
    main()
