"""Runs scenarios on an embedded cluster, in a process of its own, and prints what came out as JSON.

python -m tests.engines.cluster_child WORKERS SERVERS UPDATES [SCENARIO:]ROW[+ENCODING[+PULL_ENCODING]]...
"""

import contextlib
import dataclasses
import itertools
import json
import math
import sys
import time

from tfnmt import runtime  # before TensorFlow, whose start it makes quiet

# isort: split
import numpy as np

from tests import toy
from tests.engines.building import (
    CONSTANT,
    CONTRACT,
    EQUAL_SPEED,
    HALF_SPEED,
    PLATEAU,
    SCHEDULE,
    at_half_speed,
    build,
    parts_and_whole,
    run,
    run_past_a_plateau,
    run_with_pauses,
    simulated,
)
from tests.engines.rows import ROWS, WITHOUT_BARRIER, columns
from tests.engines.traffic import received_bytes
from tests.listeners import interfaces
from tfnmt.cluster.addresses import Cluster, ClusterSettings, find_cluster
from tfnmt.cluster.chief import tasks_of
from tfnmt.commands import application
from tfnmt.engines.base import EngineState
from tfnmt.engines.cluster import ClusterEngine
from tfnmt.engines.report import BlockReport
from tfnmt.engines.worker import WORKER_VECTOR
from tfnmt.layout import Layout

BATCHES = toy.make_batches(96)
GRACE_SECONDS = 0.2


class _Part(Cluster):
    """The first servers of a cluster, all of whose tasks are there."""

    def __init__(self, cluster: Cluster, servers: int):
        super().__init__(**{**vars(cluster), "servers": cluster.servers[:servers]})
        object.__setattr__(self, "specification", cluster.specification)


class Team:
    """The cluster, and how many updates each scenario trains."""

    def __init__(self, cluster: Cluster, updates: int):
        self.cluster, self.updates = cluster, updates
        self.options = {"workers": len(cluster.workers), "servers": len(cluster.servers)}
        self.options |= {"optimizer": "adam", "schedule": SCHEDULE}

    def engine(self, row: str, cluster: Cluster | None = None, **options) -> ClusterEngine:
        options = {**self.options, **options}
        engine = build(ClusterEngine, ROWS[row], BATCHES, options={"cluster": cluster or self.cluster}, **options)
        if columns(row).meetings.by_speed:
            absorb = engine._servers.absorb
            engine._servers.absorb = lambda push, *how: absorb(at_half_speed(push), *how)
        return engine

    def train(
        self,
        row: str,
        updates: int,
        start: EngineState | None = None,
        servers: int | None = None,
        looks: bool = False,
        **options,
    ) -> tuple[list[BlockReport], EngineState | None, EngineState]:
        """The reports of a run, its state half of the way if it `looks`, and its last.

        It has all servers or as many as are asked for.
        """
        cluster = self.cluster if servers is None else _Part(self.cluster, servers)
        engine = self.engine(row, servers=len(cluster.servers), cluster=cluster, **CONTRACT, **options)
        if start:
            engine.restore(start)
        blocks = engine.blocks()
        reports = list(itertools.islice(blocks, updates // 2))
        half = engine.state() if looks else None
        reports += itertools.islice(blocks, updates - updates // 2)
        state = engine.state()
        engine.stop()
        return reports, half, state


def compare(team: Team, row: str) -> dict:
    """With the simulation; a state that is taken on the way moves nothing."""
    # Where nobody waits it would have in it the reports of what came meanwhile.
    reports, _, state = team.train(row, team.updates, looks=row not in WITHOUT_BARRIER)
    return _compared(team, row, reports, state)


def resume(team: Team, row: str, *encodings: str) -> dict:
    """The same, and N + N updates in place of 2 N; with encodings no more than this."""
    options = dict(zip(("encoding", "pull_encoding"), encodings))
    reports, half, whole = team.train(row, team.updates, looks=True, **options)
    *_, parts = team.train(row, team.updates - team.updates // 2, start=half, **options)
    moved = abs(half.vectors["parameters"] - whole.vectors["parameters"]).max()
    compared = {} if encodings else _compared(team, row, reports, whole)
    return {**compared, "resumed": {**_difference(whole, parts), "moved": moved}}


def _compared(team: Team, row: str, reports: list[BlockReport], state: EngineState) -> dict:
    costs = HALF_SPEED if columns(row).meetings.by_speed else EQUAL_SPEED
    virtual = simulated(ROWS[row], BATCHES, costs=costs, **team.options, **CONTRACT)
    run(virtual, state.counters["version"])  # a worker that does not wait may have been further on at once
    expected = virtual.state()
    if row in WITHOUT_BARRIER:  # workers are already somewhere in their next block
        state, expected = (dataclasses.replace(each, vectors=_of_servers(each)) for each in (state, expected))
    return {
        **_difference(state, expected),
        "steps": [worker["step"] for worker in state.counters["workers"]],
        "updates": [report.update for report in reports],
        "staleness": [push.staleness for report in reports for push in report.pushes],
        "parts": parts_and_whole(reports),
        "pushes": sum(len(report.pushes) for report in reports),
        "parameters": state.vectors["parameters"].tolist(),
    }


def end(team: Team, row: str) -> dict:
    """Nothing but the reports."""
    engine = team.engine(row)
    reports = run(engine, team.updates)
    engine.stop()
    return {"updates": [report.update for report in reports], "pushes": sum(len(report.pushes) for report in reports)}


def encode(team: Team, row: str, encoding: str, pull_encoding: str = "none") -> dict:
    """Encoded payloads and pulls, and the simulation's."""
    options = {"encoding": encoding, "pull_encoding": pull_encoding, "topk_fraction": 0.25}
    engine = team.engine(row, **options)
    virtual = simulated(ROWS[row], BATCHES, **options, **team.options)
    reports, expected = run(engine, team.updates), run(virtual, team.updates)
    found = _difference(engine.state(), virtual.state())
    engine.stop()
    moved = [
        sorted({(push.bytes_pulled, push.bytes_pushed) for report in each for push in report.pushes})
        for each in (reports, expected)
    ]
    return {**found, "moved_bytes": moved}


def sparse(team: Team, row: str) -> dict:
    """Of the source table the rows that a batch reads, against the simulation that moves all; behind a resume, too."""
    how = {**team.options, **CONTRACT, "model": toy.SourceTableModel(dropout=0.3), "clip_norm": 0.5}
    batches, is_free = toy.with_other_sources(BATCHES), row in WITHOUT_BARRIER

    def train(updates: int, start: EngineState | None) -> tuple[list[BlockReport], EngineState]:
        engine = build(
            ClusterEngine, ROWS[row], batches, options={"cluster": team.cluster}, sparse_embeddings=True, **how
        )
        if start:
            engine.restore(start)
        reports, state = run(engine, updates), engine.state()
        engine.stop()
        return reports, state

    reports, state = train(team.updates, None)
    if not is_free:  # or its workers are somewhere in a block
        _, state = train(1, state)
    virtual, counting = (simulated(ROWS[row], batches, sparse_embeddings=each, **how) for each in (False, True))
    run(virtual, state.counters["version"])
    found, moved = virtual.state(), (reports, run(counting, team.updates))
    if is_free:
        state, found = (dataclasses.replace(each, vectors=_of_servers(each)) for each in (state, found))
    bytes_moved = [
        [(push.bytes_pulled, push.bytes_pushed) for report in each for push in report.pushes] for each in moved
    ]
    return {**_difference(state, found), "moved_bytes": bytes_moved}


def servers(team: Team, row: str) -> dict:
    """Three runs on two, three and one server, each from the state of the run before, and one on all that there are."""
    states, numbers = [], (2, 3, 1)
    for number in numbers:
        start = states and _repacked(states[-1], numbers[len(states) - 1], number)
        states.append(team.train(row, team.updates // 2, start=start or None, servers=number)[-1])
    *_, whole = team.train(row, 3 * (team.updates // 2))
    first, expected = _repacked(states[0], 2, 1), _repacked(whole, len(team.cluster.servers), 1)
    moved = abs(first.vectors["parameters"] - expected.vectors["parameters"]).max()
    return {**_difference(states[-1], expected), "moved": moved}


def _repacked(state: EngineState, before: int, now: int) -> EngineState:
    """The state for another number of servers, as files carry it: by parameters, for its padding is another."""
    one, other = (Layout(toy.ToyModel.parameters, shards) for shards in (before, now))
    vectors = {name: vector for name, vector in state.vectors.items() if vector.ndim}
    return state.with_vectors({name: other.pack_arrays(one.unpack_array(each)) for name, each in vectors.items()})


def fall(team: Team, row: str) -> dict:
    """Worker 1 of a resumed run falls before its first push, and again behind it: the ages of both workers' slots."""
    *_, start = team.train(row, team.updates)
    engine, ages = team.engine(row), []
    engine.restore(start)
    engine._fall(1, RuntimeError("before"))
    for report in engine.blocks():
        vectors = engine.state().vectors
        ages.append([float(vectors[f"worker_{worker}_updates"]) for worker in range(2)])
        if report.update == team.updates + 1:
            engine._fall(1, RuntimeError("behind"))
            down = sorted(engine.state().vectors)
        if report.update == team.updates + 2:
            engine.stop()
    return {"ages": ages, "saved_while_down": [name for name in down if name.startswith("worker_1_")]}


def _of_servers(state: EngineState) -> dict:
    unfinished = (WORKER_VECTOR, "received")
    return {name: vector for name, vector in state.vectors.items() if not name.startswith(unfinished)}


def wait(team: Team, row: str) -> dict:
    """No push is absorbed until every worker has two that wait: what the servers make of them, and a state behind."""
    engine, first = team.engine(row), 2 * len(team.cluster.workers)
    servers = engine._servers
    absorb, deadline = servers.absorb, time.monotonic() + 60

    def absorb_late(*arguments):
        while sum(map(engine._pace.pushed, range(first // 2))) < first and time.monotonic() < deadline:
            time.sleep(0.01)
        return absorb(*arguments)

    servers.absorb = absorb_late
    staleness, contained = [], []
    for report in engine.blocks():
        staleness += [push.staleness for push in report.pushes]
        if not contained:
            state = engine.state()
            contained = [worker["block"] for worker in state.counters["workers"]]
            staleness += [push.staleness for report in state.reports for push in report.pushes]
            engine.stop()
    last = engine.state()
    return {
        "staleness": staleness[:first],
        "contained": contained,
        "delivered": [engine._pace.pushed(worker) for worker in range(first // 2)],
        "contained_at_the_end": [worker["block"] for worker in last.counters["workers"]],
    }


def stale(team: Team, row: str) -> dict:
    """What pushes were computed at, and how they move the servers.

    The first ones wait until all workers have two, and each for its worker's next, which has pulled since.
    """
    engine, shards, pushes = team.engine(row, optimizer="sgd", schedule=CONSTANT), team.options["servers"], 6
    servers, rule = engine._servers, columns(row).staleness
    absorb, deadline = servers.absorb, time.monotonic() + 60
    held, found = {0: servers.state().vectors["parameters"]}, []

    def absorb_late(push, *how):
        def may_go() -> bool:
            least = min(map(engine._pace.pushed, range(team.options["workers"])))
            return least >= 2 and engine._pace.pushed(push.worker) > push.block

        while push.block <= 2 and not may_go() and time.monotonic() < deadline:
            time.sleep(0.01)
        report, theta = absorb(push, *how), held[servers.version - 1]
        gradient, pulled = (np.concatenate([part.numpy() for part in parts]) for parts in _halves(push.payload, shards))
        age, mean = servers.version - 1 - push.version, gradient / push.work.sums.target_tokens
        held[servers.version] = theta - 0.1 * rule.share(age) * (mean + rule.strength(age) * mean**2 * (theta - pulled))
        found.append(
            {
                "age": age,
                "pulled": float(abs(pulled - held[push.version]).max()),
                "pulled_later": float(abs(pulled - theta).max()),
                "distance": float(abs(servers.state().vectors["parameters"] - held[servers.version]).max()),
            }
        )
        return report

    servers.absorb = absorb_late
    run(engine, pushes)
    engine.stop()
    return {"pushes": found[:pushes]}


def patient(team: Team, row: str) -> dict:
    """A quorum of one with a grace time that does not end, and the simulation's barrier."""
    settings = dataclasses.replace(ROWS[row], quorum=1, quorum_grace_seconds=math.inf)
    options = {**team.options, **CONTRACT}
    engine = build(ClusterEngine, settings, BATCHES, options={"cluster": team.cluster}, **options)
    virtual = simulated(ROWS[row], BATCHES, **options)
    run(engine, team.updates), run(virtual, team.updates)
    found = _difference(engine.state(), virtual.state())
    engine.stop()
    return found


def late(team: Team, row: str) -> dict:
    """The second worker's first payload comes behind three updates of a quorum of one; an update is the mean."""
    settings = dataclasses.replace(ROWS[row], quorum=1, quorum_grace_seconds=GRACE_SECONDS)
    options = {**team.options, "optimizer": "sgd", "schedule": CONSTANT}
    engine = build(ClusterEngine, settings, BATCHES, options={"cluster": team.cluster}, **options)
    servers, shards, deadline = engine._servers, team.options["servers"], time.monotonic() + 60
    find, absorb, payloads, distances = engine._worker, servers.absorb, [], []
    theta = [servers.state().vectors["parameters"]]

    def find_slow(index, lane):
        worker = find(index, lane)
        if lane == 1 and "run" not in vars(worker):
            run_at_once = worker.run

            def run_late(*arguments):
                done = run_at_once(*arguments)
                while servers.version < 3 and time.monotonic() < deadline:
                    time.sleep(0.01)
                return done

            worker.run = run_late
        return worker

    def noted(push, *how):
        payload = np.concatenate([part.numpy() for part in push.payload[:shards]])
        payloads.append((payload, push.work.sums.target_tokens))
        report = absorb(push, *how)
        if report:
            mean = sum(each for each, _ in payloads) / sum(tokens for _, tokens in payloads)
            theta.append(servers.state().vectors["parameters"])
            distances.append(float(abs(theta[-1] - (theta[-2] - 0.1 * mean)).max()))
            payloads.clear()
        return report

    engine._worker, servers.absorb = find_slow, noted
    reports = run(engine, 6)
    engine.stop()
    return {
        "pushes": [[(push.worker, push.staleness) for push in report.pushes] for report in reports],
        "tokens": [report.target_tokens == sum(push.target_tokens for push in report.pushes) for report in reports],
        "seconds": [report.seconds for report in reports],
        "distance": max(distances[:6]),
        "moved": float(abs(theta[1] - theta[0]).max()),
    }


def _halves(variables, shards: int):
    return variables[:shards], variables[shards:]


def plateau(team: Team, row: str) -> dict:
    """The rate falls; the same in the simulation, and behind a resume."""
    virtual = simulated(ROWS[row], BATCHES, **{**team.options, "schedule": PLATEAU})
    blocks = virtual.blocks()
    expected = [*run_past_a_plateau(virtual, blocks), next(blocks)]
    first, second = (team.engine(row, schedule=PLATEAU) for _ in range(2))
    reports = run_past_a_plateau(first, first.blocks())
    state = first.state()
    first.stop()
    second.restore(state)
    reports += run(second, 1)
    found = _difference(second.state(), virtual.state())
    second.stop()
    rates = [[report.learning_rate for report in each] for each in (reports, expected)]
    return {**found, "rates": rates, "saved": state.counters["plateau_scale"]}


def pause(team: Team, row: str) -> dict:
    """The time between reports; of the pushes behind a long pause, how long their workers waited, and all seconds."""
    engine = team.engine(row)
    blocks = engine.blocks()
    trained, passed = run_with_pauses(blocks)
    time.sleep(5 * max(next(blocks).seconds for _ in range(2)))
    report = next(blocks)
    engine.stop()
    return {
        "trained": trained,
        "passed": passed,
        "waits": [[push.wait_seconds, push.seconds] for push in report.pushes],
    }


def wire(team: Team, row: str, encoding: str = "none", pull_encoding: str = "none") -> dict:
    """What two blocks of all workers bring through the connections between the tasks, and what the reports say."""
    return _wire(team.engine(row, model=toy.WideModel(), encoding=encoding, pull_encoding=pull_encoding))


def wire_sparse(team: Team, row: str) -> dict:
    """The same where of a large table no more than the rows of a batch travel."""
    return _wire(team.engine(row, model=toy.WideSourceModel(), sparse_embeddings=True))


def _wire(engine: ClusterEngine) -> dict:
    reports, received = [], []
    for report in engine.blocks():
        reports.append(report)
        received.append(received_bytes())
        if report.update == 4:
            engine.stop()
    pushes = [push for report in reports[2:] for push in report.pushes]
    return {
        "received": received[3] - received[1],
        "reported": sum(push.bytes_pulled + push.bytes_pushed for push in pushes),
        "model_bytes": engine.state().vectors["parameters"].nbytes,
        "steps": sum(report.sentences for report in reports[2:]) // 4,
    }


def _difference(state: EngineState, other: EngineState) -> dict:
    vectors, expected = state.vectors, other.vectors
    return {
        "names": sorted(vectors) == sorted(expected),
        "distance": max(abs(vectors[each] - expected[each]).max() for each in expected),
        "progress": state.counters["workers"] == other.counters["workers"],
        "noise": [each.counters["noise"] for each in (state, other)],
    }


def main(workers: int, servers: int, updates: int, scenarios: list[str]) -> None:
    runtime.prepare()
    cluster = find_cluster(ClusterSettings(workers=workers, parameter_servers=servers), {})
    with tasks_of(cluster):
        team = Team(cluster, updates)
        for each in scenarios:
            *scenario, row = each.split("+")[0].split(":")
            with contextlib.redirect_stdout(sys.stderr):
                found = globals()[scenario[0] if scenario else "compare"](team, row, *each.split("+")[1:])
            print(json.dumps({"row": each, **found}), flush=True)
        ports = [int(address.rpartition(":")[2]) for _, _, address in cluster.tasks()]
        print(json.dumps({"row": "interfaces", "of_tasks": [interfaces()[port] for port in ports]}), flush=True)


if __name__ == "__main__":
    application.end_at_once()
    main(*(int(word) for word in sys.argv[1:4]), sys.argv[4:])
    sys.stdout.flush()
    import os

    os._exit(0)
