"""Runs scenarios on Horovod as one of its ranks; rank 0 prints what came out of each as a line of JSON.

python -m tests.engines.rank_child SCENARIO[:ROW]...          in the environment that `rank_tasks` makes
"""

import dataclasses
import itertools
import json
import os
import sys
import zlib

from tfnmt import runtime  # before TensorFlow, whose start it makes quiet

# isort: split
import numpy as np
import tensorflow as tf

from graphs.forward_backward import forward_backward
from tests import toy
from tests.engines import rank_tables
from tests.engines.building import (
    CONSTANT,
    CONTRACT,
    PLATEAU,
    SCHEDULE,
    local,
    parameters,
    parts_and_whole,
    rounds,
    run,
    run_past_a_plateau,
    run_with_pauses,
    simulated,
)
from tests.engines.rows import ROWS
from tests.engines.team import BATCHES, PAIRS, UPDATES, Team, difference
from tests.engines.traffic import received_bytes
from tfnmt.cluster.ranks import END, Command, Ranks, RankSettings
from tfnmt.errors import UserError


def compare(team, row):
    """With the simulation; a state that is taken on the way moves nothing."""
    reports, _, state = team.train_in_halves(row, **CONTRACT)
    copies = _copies(team)
    return {} if state is None else {**copies, **_compared(team, row, reports, state)}


def resume(team, row):
    """The same, and N + N updates in place of 2 N; with encoded payloads no more than this."""
    row, *encoding = row.split("+")
    options = CONTRACT | ({"encoding": encoding[0], "topk_fraction": 0.25} if encoding else {})
    reports, half, whole = team.train_in_halves(row, **options)
    copies = _copies(team)
    _, parts = team.train(row, UPDATES - UPDATES // 2, start=half, **options)
    if whole is None:
        return {}
    compared = {} if encoding else _compared(team, row, reports, whole)
    return {**copies, **compared, "resumed": difference(whole, parts)}


def _compared(team, row, reports, state):
    expected, virtual = team.simulate(row, **CONTRACT)
    return {
        **difference(state, virtual),
        "losses": max(abs(one.loss - other.loss) for one, other in zip(reports, expected)),
        "steps": [worker["step"] for worker in state.counters["workers"]],
        "tokens": [[report.target_tokens for report in each] for each in (reports, expected)],
        "workers": [[push.worker for push in report.pushes] for report in reports],
        "staleness": [push.staleness for report in reports for push in report.pushes],
        "parts": parts_and_whole(reports),
        "bytes_pushed": sorted({push.bytes_pushed for report in reports for push in report.pushes}),
        "bytes_pulled": sorted({push.bytes_pulled for report in reports for push in report.pushes}),
        "model_bytes": state.vectors["parameters"].nbytes,
    }


def _copies(team):
    """How many different copies of the servers' vectors there are, and of what each rank's worker keeps."""
    vectors = team.engine_before.live().vectors
    own = [name for name in sorted(vectors) if name.startswith("own_")]
    held = [[name for name in sorted(vectors) if name not in own], own]
    hashes = [zlib.crc32(b"".join(vectors[name].tobytes() for name in names)) for names in held]
    return {"copies": [len(set(each)) for each in zip(*team.ranks.gather(hashes))], "held": held}


def plain(team, row):
    """With plain training on joined batches, and with its first update."""
    _, state = team.train(row)
    return {} if state is None else _from_plain(team, state, UPDATES)


def _from_plain(team, state, updates):
    alone = local(rounds(BATCHES, team.ranks.size), optimizer="adam", schedule=SCHEDULE)
    blocks = alone.blocks()
    next(blocks)
    first = parameters(alone)
    list(itertools.islice(blocks, updates - 1))
    distances = {"from_plain": parameters(alone), "from_start": first}
    return {name: np.abs(state.vectors["parameters"] - other).max() for name, other in distances.items()}


def regroup(team, row):
    """As elastic ranks do: each goes on from what it alone holds, and rank 0 may be an update behind.

    All of it is compared with the simulation, and with plain training.
    """
    rank, behind = team.ranks.rank, row == "ring_allreduce"
    before, after = team.engine(row), team.engine(row)
    if rank:
        before.follow()
        live = before.live()
    else:
        blocks = before.blocks()
        run_on = [next(blocks) for _ in range(UPDATES - behind)]
        live = before.live()
        run_on += [next(blocks) for _ in range(behind)]
        team.ranks.command(Command(END))
    held = team.ranks.gather([report.update for report in live.reports])
    after.restore(live)
    if rank:
        after.follow()
        return {}
    found = [report.update for report in run(after, UPDATES + behind)]
    state = after.state()
    team.ranks.command(Command(END))
    _, whole = team.simulate(row, 2 * UPDATES)
    return {**difference(state, whole), **_from_plain(team, state, 2 * UPDATES), "held": held, "found": found}


def exchange(team, row):
    """From the simulation to the ranks, and back."""
    whole, first = simulated(ROWS[row], BATCHES, **team.options), None
    if team.ranks.rank == 0:
        run(whole, UPDATES)
        first = whole.state()
    _, second = team.train(row, start=first)
    if second is None:
        return {}
    _, third = team.simulate(row, start=second)
    run(whole, 2 * UPDATES)
    return difference(third, whole.state())


def poison(team, row):
    """One rank's gradient is not a number once: its push is left out."""
    reports, state = team.train(row, model=toy.PoisonedModel(place=team.ranks.size + 1))
    if state is None:
        return {}
    expected, virtual = team.simulate(row, model=toy.PoisonedModel(place=team.ranks.size + 1))
    refused = [[push.refused for push in report.pushes] for report in reports]
    same = refused == [[push.refused for push in report.pushes] for report in expected]
    return {**difference(state, virtual), "refused": refused, "same": same}


def uneven(team, row):
    """Shards that end at different times."""
    _, state = team.train(row, 9, batches=BATCHES[: 2 * team.ranks.size + 1])
    if state is None:
        return {}
    return difference(state, team.simulate(row, 9, batches=BATCHES[: 2 * team.ranks.size + 1])[1])


def half(team, row):
    """Payloads in 16 bits, for SGD: the distance, and that of one update over the most that rounding can make of it."""
    how = {"optimizer": "sgd", "schedule": CONSTANT}
    reports, once, state = team.train_in_halves(row, halfway=1, encoding="float16", **how)
    if state is None:
        return {}
    pushed = sorted({push.bytes_pushed for report in reports for push in report.pushes})
    virtual = simulated(ROWS[row], BATCHES, **{**team.options, **how})
    blocks = virtual.blocks()
    next(blocks)
    off = np.abs(once.vectors["parameters"] - parameters(virtual))
    list(itertools.islice(blocks, UPDATES - 1))
    layout = toy.layout()
    found = [
        forward_backward(toy.ToyModel().loss, layout, layout.initialize(1, tf.float64), batch, None)
        for batch in BATCHES[: team.ranks.size]
    ]
    # Half of the last of 11 bits for each rank's element, and once more for their sum; 2^-24 is the smallest number.
    sizes = np.sum([np.abs(gradient) for gradient, _ in found], axis=0) / sum(float(sums[2]) for _, sums in found)
    most = CONSTANT.learning_rate * (2.0**-10 * sizes + 3 * 2.0**-25 / 256)
    return {
        **difference(state, virtual.state()),
        "bytes_pushed": pushed,
        "off": off.max(),
        "excess": (off - most).max(),
    }


def encode(team, row):
    """Payloads that are gathered, and the simulation's."""
    row, options = row.split("+")[0], {"encoding": row.split("+")[1], "topk_fraction": 0.25}
    reports, state = team.train(row, **options)
    if state is None:
        return {}
    _, virtual = team.simulate(row, **options)
    return {
        **difference(state, virtual),
        "bytes_pushed": sorted({push.bytes_pushed for report in reports for push in report.pushes}),
        "size": virtual.vectors["parameters"].size,
    }


def own(team, row):
    """Replicas that move by all of their own ranks' gradients, compared where they are averaged; and N + N updates."""
    options = CONTRACT | {"encoding": "topk", "topk_fraction": 0.25, "local_gradient_updates": 3}
    settings = RankSettings(check_replicas_every=1)
    reports, half, whole = team.train_in_halves(row, 2 * UPDATES, settings=settings, **options)
    _, parts = team.train(row, start=half, settings=settings, **options)
    if whole is None:
        return {}
    expected, virtual = team.simulate(row, 2 * UPDATES, **options)
    _, carried = team.simulate(row, start=half, **options)
    first, second = (whole.vectors[f"worker_{rank}_replica_parameters"] for rank in range(2))
    return {
        **difference(whole, virtual),
        "resumed": difference(whole, parts)["distance"],
        "carried": difference(carried, virtual)["distance"],
        "spread": np.abs(first - second).max(),
        "bytes_pushed": [[[push.bytes_pushed for push in each.pushes] for each in run] for run in (reports, expected)],
        "norms": max(abs(one.gradient_norm - other.gradient_norm) for one, other in zip(reports, expected)),
    }


def pieces(team, row):
    """Sums on their way before the gradient is whole; one gradient is not a number once, and then nobody moves."""
    settings = RankSettings(reduction_pieces=2)
    _, state = team.train(row, settings=settings)
    model = toy.PoisonedModel(place=team.ranks.size + 1)
    reports, poisoned = team.train(row, settings=settings, model=model)
    if state is None:
        return {}
    finite = all(bool(np.isfinite(vector).all()) for vector in poisoned.vectors.values())
    skipped = [report.skipped for report in reports]
    return {**difference(state, team.simulate(row)[1]), "skipped": skipped, "finite": finite}


def plateau(team, row):
    """The rate falls; the same in the simulation, and behind a resume."""
    first, second = (team.engine(row, schedule=PLATEAU) for _ in range(2))
    if team.ranks.rank:
        first.follow(), second.follow()
        return {}
    virtual = simulated(ROWS[row], BATCHES, **{**team.options, "schedule": PLATEAU})
    blocks = virtual.blocks()
    expected = [*run_past_a_plateau(virtual, blocks), next(blocks)]
    reports = run_past_a_plateau(first, first.blocks())
    state = first.state()
    team.ranks.command(Command(END))
    second.restore(state)
    reports += run(second, 1)
    found = difference(second.state(), virtual.state())
    team.ranks.command(Command(END))
    rates = [[report.learning_rate for report in each] for each in (reports, expected)]
    return {**found, "rates": rates, "saved": state.counters["plateau_scale"]}


def pause(team, row):
    """The time between two reports."""
    engine = team.engine(row)
    if team.ranks.rank:
        engine.follow()
        return {}
    trained, passed = run_with_pauses(engine.blocks())
    team.ranks.command(Command(END))
    return {"trained": trained, "passed": passed}


def wire(team, row):
    """What an update brings through the connections of rank 0, and what the reports say that a rank sends.

    The least of several updates: Horovod asks all ranks a thousand times a second whether they are ready.
    """
    found = {}
    for name, encoding in (("whole", "none"), ("half", "float16"), ("gathered", "int8")):
        engine = team.engine(row, model=toy.WideModel(), encoding=encoding)
        if team.ranks.rank:
            engine.follow()
            continue
        received, sent = [], set()
        for report in itertools.islice(engine.blocks(), UPDATES):
            received.append(received_bytes())
            sent |= {push.bytes_pushed for push in report.pushes}
        team.ranks.command(Command(END))
        found[name] = {"received": min(np.diff(received[1:])).item(), "reported": sorted(sent)}
    return found


def drift(team, row):
    """One rank's parameters change by themselves."""
    engine = team.engine("ring_allreduce", settings=RankSettings(check_replicas_every=1))
    ranks, found = team.ranks, ""
    compared = engine._compare_replicas

    def disturbed():
        if ranks.rank == int(row):
            vector = engine._servers.server.shards[0].parameters
            vector.assign(vector + np.eye(1, vector.shape[0], toy.layout().offsets[1])[0] * 1e-12)
        compared()

    engine._compare_replicas = disturbed
    try:
        run(engine, 1) if ranks.rank == 0 else engine.follow()
    except UserError as error:
        found = str(error)
    return {"error": found}


def fail(team, row):
    """One rank cannot compute its third batch."""
    batches, place = list(BATCHES), 2 * team.ranks.size + int(row)
    batches[place] = batches[place]._replace(source_ids=tf.fill([1, 2], 999))
    engine = team.engine("ring_allreduce", batches=batches)
    return {"code": team.ranks.follow(engine.follow) if team.ranks.rank else team.ranks.lead(lambda: len(run(engine)))}


def refuse(team, row):
    """What one rank alone does not like."""
    try:
        with team.ranks.agreeing():
            if team.ranks.rank == int(row):
                raise UserError("--data=here: is missing.")
    except UserError as error:
        return {"error": str(error)}
    except SystemExit as end:
        return {"code": end.code}
    return {}


def main(scenarios: list[str]) -> None:
    runtime.prepare()
    with Ranks(dataclasses.replace(PAIRS, stall_timeout=240.0)) as ranks:  # who are a grid from their beginning
        team = Team(ranks)
        for scenario in scenarios:
            name, _, row = scenario.partition(":")
            found = (vars(rank_tables) | globals())[name](team, row)
            if ranks.rank == 0:
                print(json.dumps({"scenario": scenario, **found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
