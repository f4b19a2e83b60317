"""All ranks of a test, which train and are compared with the simulation."""

import dataclasses
import itertools

import numpy as np

from tests import toy
from tests.engines.building import EQUAL_SPEED, HALF_SPEED, SCHEDULE, at_half_speed, build, run, simulated
from tests.engines.rows import ROWS, columns
from tfnmt.cluster.ranks import END, Command, RankSettings
from tfnmt.engines.horovod import HorovodEngine

BATCHES = toy.make_batches(128)
UPDATES = 4
UNCHECKED = RankSettings(check_replicas_every=0)
SHARDED = RankSettings(vocabulary_parallel=True, check_replicas_every=1)
PAIRS = dataclasses.replace(SHARDED, model_parallel=2, reduction_pieces=2)


class Team:
    """All ranks, each of which runs the same scenarios; results are rank 0's, the others get none.

    Attributes:
      engine_before: what has trained last on this rank.
    """

    def __init__(self, ranks):
        self.ranks, self.engine_before = ranks, None
        self.options = {"workers": ranks.size, "optimizer": "adam", "schedule": SCHEDULE}

    def engine(self, row, batches=BATCHES, settings=UNCHECKED, **options):
        more = {"ranks": self.ranks, "settings": settings}
        engine = build(HorovodEngine, ROWS[row], batches, options=more, **{**self.options, **options})
        if columns(row).meetings.by_speed:
            absorb = engine._servers.absorb_reduced

            def absorb_at_half_speed(arrivals, *numbers):
                return absorb([each._replace(push=at_half_speed(each.push)) for each in arrivals], *numbers)

            engine._servers.absorb_reduced = absorb_at_half_speed
        return engine

    def train(self, row, updates=UPDATES, start=None, **options):
        """The reports of a run and its last state."""
        reports, _, state = self.train_in_halves(row, updates, start, looks=False, **options)
        return reports, state

    def train_in_halves(self, row, updates=UPDATES, start=None, looks=True, halfway=0, **options):
        """The reports of a run, its state half of the way, or at another update, if it `looks`, and its last."""
        self.engine_before = engine = self.engine(row, **options)
        if self.ranks.rank:
            engine.follow()
            return [], None, None
        if start:
            engine.restore(start)
        blocks, halfway = engine.blocks(), halfway or updates // 2
        reports = list(itertools.islice(blocks, halfway))
        half = engine.state() if looks else None
        reports += itertools.islice(blocks, updates - halfway)
        state = engine.state()
        self.ranks.command(Command(END))
        return reports, half, state

    def simulate(self, row, updates=UPDATES, start=None, batches=BATCHES, **options):
        """The same under a virtual clock."""
        costs = HALF_SPEED if columns(row).meetings.by_speed else EQUAL_SPEED
        engine = simulated(ROWS[row], batches, **{"costs": costs, **self.options, **options})
        if start:
            engine.restore(start)
        return run(engine, updates), engine.state()


def difference(state, other):
    vectors = state.vectors
    return {
        "names": sorted(vectors) == sorted(other.vectors),
        "distance": max(np.abs(vectors[name] - other.vectors[name]).max() for name in other.vectors),
        "progress": state.counters["workers"] == other.counters["workers"],
        "noise": [each.counters["noise"] for each in (state, other)],
    }
