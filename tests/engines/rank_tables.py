"""Scenarios of ranks that share their tables, for `rank_child`."""

import dataclasses
import itertools

import numpy as np

from tests import toy
from tests.engines.building import run
from tests.engines.team import PAIRS, SHARDED, UPDATES, difference
from tests.engines.traffic import received_bytes
from tfnmt.cluster.ranks import END, Command, RankSettings
from tfnmt.errors import UserError


def tables(team, row):
    """Ranks that have a part of the rows each, under a norm that clips, with a moving average."""
    options = {"model": toy.TableModel(), "clip_norm": 0.05, "average_rate": 0.05}
    reports, state = team.train(row, settings=SHARDED, **options)
    _, in_pieces = team.train(row, settings=dataclasses.replace(SHARDED, reduction_pieces=2), **options)
    if state is None:
        return {}
    expected, virtual = team.simulate(row, **options)
    _, unclipped = team.simulate(row, **{**options, "clip_norm": 0.0})
    return {
        **difference(state, virtual),
        "losses": max(abs(one.loss - other.loss) for one, other in zip(reports, expected)),
        "norms": max(abs(one.gradient_norm - other.gradient_norm) for one, other in zip(reports, expected)),
        "from_unclipped": difference(state, unclipped)["distance"],
        "from_pieces": difference(state, in_pieces)["distance"],
        "bytes_pushed": [push.bytes_pushed for push in reports[0].pushes],
    }


def alone(team, row):
    """Ranks that have all rows each, though they might share them, and ranks that do not know of sharing."""
    options = {"model": toy.TableModel(), "clip_norm": 0.05}
    _, state = team.train(row, 2, settings=dataclasses.replace(SHARDED, model_parallel=1), **options)
    _, plain = team.train(row, 2, **options)
    return {} if state is None else difference(state, plain)


def pairs(team, row):
    """Pairs of ranks that have a copy of the tables each: 4 updates, and 1 + 3.

    Behind the first update go on two workers and, behind these, ranks that all share one copy.
    """
    options = {"model": toy.TableModel(), "clip_norm": 0.05, "average_rate": 0.05, "optimizer": "momentum"}
    reports, first, whole = team.train_in_halves(row, halfway=1, settings=PAIRS, **options)
    _, parts = team.train(row, UPDATES - 1, start=first, settings=PAIRS, **options)
    second = None if first is None else team.simulate(row, start=first, **options, workers=2)[1]
    _, third = team.train(row, start=second, settings=SHARDED, **options)
    error = _apart(team, row)
    if third is None:
        return {}
    expected, virtual = team.simulate(row, **options)
    measured = [[(each.loss, each.gradient_norm, each.momentum_norm) for each in run] for run in (reports, expected)]
    return {
        **difference(whole, virtual),
        "measured": np.abs(np.subtract(*measured)).max(),
        "resumed": difference(whole, parts)["distance"],
        "regrouped": difference(third, team.simulate(row, start=second, **options)[1])["distance"],
        "bytes_pushed": [push.bytes_pushed for push in reports[0].pushes],
        "apart": error,
    }


def _apart(team, row):
    """What is said of pairs that do not sum the gradients of their rows."""
    engine = team.engine(row, settings=PAIRS, model=toy.TableModel())
    engine._owners = None
    try:
        run(engine, 1) if team.ranks.rank == 0 else engine.follow()
    except UserError as error:
        return str(error)
    return ""


def share(team, row):
    """What each rank holds, and where the moving average is."""
    engine = team.engine(row, settings=SHARDED, model=toy.TableModel())
    if team.ranks.rank:
        engine.follow()
    else:
        run(engine, 1)
        team.ranks.command(Command(END))
    variables = engine._servers.server.shards[0].vectors()
    return {"sizes": team.ranks.gather([variable.shape[0] for variable in variables.values()])}


def interchange(team, row):
    """Sharded ranks, one process and sharded ranks; and N + N updates of sharded ranks."""
    options = {"model": toy.TableModel(), "average_rate": 0.05}
    _, first, whole = team.train_in_halves(row, 2 * UPDATES, settings=SHARDED, **options)
    _, parts = team.train(row, settings=SHARDED, start=first, **options)
    second = None if first is None else team.simulate(row, start=first, **options)[1]
    _, third = team.train(row, settings=SHARDED, start=second, **options)
    if third is None:
        return {}
    _, expected = team.simulate(row, 3 * UPDATES, **options)
    return {**difference(third, expected), "resumed": difference(whole, parts)["distance"]}


def spoil(team, row):
    """One rank's gradient is not a number once: nobody moves, because what others have of it cannot be taken out."""
    model = toy.PoisonedTableModel(place=team.ranks.size + 1)
    reports, state = team.train(row, settings=SHARDED, model=model)
    if state is None:
        return {}
    finite = all(bool(np.isfinite(vector).all()) for vector in state.vectors.values())
    return {"skipped": [report.skipped for report in reports], "finite": finite}


def carry(team, row):
    """What an update brings through the connections of rank 0 of 2, over what the other one says that it sends."""
    engine = team.engine(row, model=toy.WideTableModel(), settings=RankSettings(vocabulary_parallel=True))
    if team.ranks.rank:
        engine.follow()
        return {}
    received, reported = [], []
    for report in itertools.islice(engine.blocks(), UPDATES):
        received.append(received_bytes())
        reported.append(report.pushes[1].bytes_pushed)
    team.ranks.command(Command(END))
    shares = np.diff(received)[1:] / reported[2:]
    return {"least": shares.min().item(), "reported": reported}
