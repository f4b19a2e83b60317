"""Kills the second worker of a cluster in its pull, its steps and its push, and prints what became of each row as JSON.

python -m tests.engines.kill_child ROW...

Workers and servers are reached through wires, which hold a transfer when half of it is through; steps are held by the
model. The process held is killed, the wire cut there, and a new worker started in its place.
"""

import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.engines.wire import Wire
from tfnmt.cluster.addresses import LOOPBACK, SERVER, WORKER, Cluster, free_ports
from tfnmt.cluster.probes import is_listening

VICTIM = (WORKER, 1)
SHARD = (SERVER, 1)  # whose transfers are held; those of the other go through
HALF_BYTES = 1 << 17  # of a shard
SECONDS = 60


class Tasks:
    """Two workers, two servers and a chief, who believes that they are at the wires."""

    def __init__(self, directory, rows):
        self._directory = Path(directory)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.engines.kill_tasks"])
        chief, *others = (f"{LOOPBACK}:{port}" for port in free_ports(5))
        self._cluster = Cluster(chief, tuple(others[:2]), tuple(others[2:]), stall_timeout=SECONDS)
        self._wires = {(job, number): Wire(address) for job, number, address in self._cluster.tasks()}
        self._processes = {task: self._start(*task) for task in self._wires}
        until(lambda: all(is_listening(address) for _, _, address in self._cluster.tasks()))
        workers, servers = (tuple(self._wires[job, n].address for n in range(2)) for job in (WORKER, SERVER))
        self.connection, theirs = self._context.Pipe()
        wired = dataclasses.replace(self._cluster, workers=workers, servers=servers)
        self.chief = self._context.Process(target=call, args=("lead", wired, theirs, directory, rows))
        self.chief.start()
        theirs.close()

    def kill(self, phase, others_go_on):
        """Lets the chief go on, and kills the victim in this phase."""
        process = self._processes[VICTIM]
        release = self._hold_steps() if phase == "steps" else self._hold_transfer(phase)
        if others_go_on:
            while self.connection.poll():
                self.connection.recv()
            assert self.connection.poll(SECONDS), f"the other worker stands still while one is held in its {phase}"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        release()
        self._processes[VICTIM] = self._start(*VICTIM)
        self.connection.send("killed")

    def end(self):
        """The exit codes of everybody."""
        everybody = [self.chief, *self._processes.values()]
        for process in everybody:
            process.join(SECONDS)
        return [process.exitcode for process in everybody]

    def _start(self, job, number):
        cluster = dataclasses.replace(self._cluster, job=job, task=number)
        process = self._context.Process(target=call, args=("serve_task", cluster), daemon=True)
        process.start()
        return process

    def _hold_steps(self):
        """Returns once the victim is in its steps; what it returns lets steps go on."""
        hold, reached = self._directory / "hold-1", self._directory / "reached"
        reached.unlink(missing_ok=True)
        hold.touch()
        self.connection.send("go")
        until(reached.exists)
        return hold.unlink

    def _hold_transfer(self, phase):
        """The same of a pull, which the worker asks a server for, or a push, which the server asks the worker for."""
        asked, asking = (SHARD, VICTIM) if phase == "pull" else (VICTIM, SHARD)
        hold = self._wires[asked].hold(self._processes[asking].pid, HALF_BYTES)
        self.connection.send("go")
        until(hold.reached.is_set)
        return hold.released.set


def call(name, *arguments):
    """Runs a function of the module that the fork server has imported, and this process has not."""
    from tests.engines import kill_tasks

    getattr(kill_tasks, name)(*arguments)


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "nothing of the kind happens"
        time.sleep(0.005)


def main(rows):
    with tempfile.TemporaryDirectory() as directory:
        tasks = Tasks(directory, rows)
        phases = []
        while rows:
            assert tasks.connection.poll(SECONDS), "the chief is silent"
            kind, *message = tasks.connection.recv()
            if kind == "ready":
                tasks.kill(*message)
                phases.append(message[0])
            elif kind == "row":
                print(json.dumps({**message[0], "killed": phases}), flush=True)
                rows, phases = rows[1:], []
        print(json.dumps({"row": "end", "codes": tasks.end()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
