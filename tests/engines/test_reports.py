"""The numbers in reports against numbers counted by hand: tokens, sentences, seconds and waits."""

import itertools

import numpy as np
import pytest

from tests import toy
from tests.engines.building import build, local, run, run_with_pauses, simulated
from tfnmt.engines.servers import UpdateSequence
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.strategies import Async, Bmuf, ModelAverage, Sync

BATCHES = toy.make_batches(96)


def free_network(*stragglers):
    """Steps of a second, stragglers but for; transfers take no time."""
    return CostSettings(
        jitter=0.0,
        seconds_per_token=0.0,
        step_seconds=1.0,
        stragglers=stragglers,
        network_latency_seconds=0.0,
        network_bytes_per_second=1e30,
    )


def tokens(ids):
    return int(np.count_nonzero(ids))


class TestCounts:
    @staticmethod
    def step(batches, share):
        """The batches of one step: one, or as many as it takes to have so many target tokens."""
        taken = [next(batches)]
        while sum(tokens(batch.target_ids) for batch in taken) < share:
            taken.append(next(batches))
        return taken

    @pytest.mark.parametrize(
        "row, steps, wanted, share",
        [(Sync(), 1, 0, 0), (Sync(), 1, 100, 34), (Bmuf(local_steps=2), 2, 100, 34)],
    )
    def test_are_those_of_the_batches(self, row, steps, wanted, share):
        """Of which each of three workers takes its share of the tokens, and no batch more."""
        engine = simulated(row, BATCHES, workers=3, global_batch_tokens=wanted)
        readers = [iter(BATCHES[worker::3]) for worker in range(3)]
        for report in run(engine, 3):
            taken = [[batch for _ in range(steps) for batch in self.step(reader, share)] for reader in readers]
            assert [push.target_tokens for push in report.pushes] == [
                sum(tokens(batch.target_ids) for batch in each) for each in taken
            ]
            batches = list(itertools.chain(*taken))
            assert report.target_tokens == sum(tokens(batch.target_ids) for batch in batches)
            assert report.source_tokens == sum(tokens(batch.source_ids) for batch in batches)
            assert report.sentences == sum(len(batch.source_ids) for batch in batches)
            assert report.positions == sum(np.size(batch.source_ids) + np.size(batch.target_ids) for batch in batches)


class TestSeconds:
    def test_leave_out_what_comes_between_two_reports(self):
        """On a clock set by hand: evaluation and saving are not training."""
        now = [0.0]
        options = {"workers": 1, "clock": lambda: now[0]}
        servers = build(UpdateSequence, Sync(), BATCHES, options=options)
        worker = servers.new_worker(servers.worker_graph(), 0, servers.new_outbox())

        def report_at(seconds):
            _, push = worker.run(worker.next_block(), 1.0)
            now[0] = seconds
            return servers.absorb(push)

        reports = [report_at(5.0)]
        now[0] = 100.0
        servers.restart_clock()
        reports += [report_at(103.0), report_at(104.0)]
        assert [report.seconds for report in reports] == [5.0, 3.0, 1.0]
        assert [push.seconds for report in reports for push in report.pushes] == [5.0, 3.0, 1.0]

    def test_of_the_local_engine_leave_out_pauses(self):
        trained, passed = run_with_pauses(local(BATCHES).blocks())
        assert 0 < trained <= passed


class TestWaits:
    """In virtual time, in which steps take a second."""

    def test_behind_a_barrier_are_for_the_slowest(self):
        reports = run(simulated(Sync(), BATCHES, workers=3, costs=free_network("2:3", "1:2")), 4)
        waits = [[push.wait_seconds for push in report.pushes] for report in reports]
        assert waits == [[0, 0, 0], *[[2, 1, 0]] * 3]
        assert [[push.seconds for push in report.pushes] for report in reports] == [[1, 2, 3], *[[3, 3, 3]] * 3]

    def test_behind_a_barrier_do_not_depend_on_who_is_slowest(self):
        engine = simulated(Sync(), BATCHES, workers=3, costs=free_network("0:3", "1:2"))
        waits = [[push.wait_seconds for push in report.pushes] for report in run(engine, 4)]
        assert waits == [[0, 0, 0], *[[0, 1, 2]] * 3]

    def test_of_a_block_are_once_for_all_its_steps(self):
        engine = simulated(ModelAverage(local_steps=4), BATCHES, workers=2, costs=free_network("1:3"))
        waits = [[push.wait_seconds for push in report.pushes] for report in run(engine, 3)]
        assert waits == [[0, 0], [8, 0], [8, 0]]

    def test_are_none_where_nobody_waits(self):
        """The negative control."""
        engine = simulated(Async(), BATCHES, workers=2, costs=free_network("1:3"))
        assert {push.wait_seconds for report in run(engine, 8) for push in report.pushes} == {0}


class TestBlockEndsByTheClock:
    @pytest.mark.parametrize("seconds, steps", [(1e-9, 1), (1e9, 5), (0.0, 5)])
    def test_in_the_graph_of_a_whole_block(self, seconds, steps):
        """Behind one step at least; the local engine runs blocks as one graph."""
        engine = local(BATCHES, ModelAverage(local_steps=5, sync_every_seconds=seconds))
        assert [report.sentences for report in run(engine, 2)] == [4 * steps] * 2
