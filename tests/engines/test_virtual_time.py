"""What things cost under the virtual clock, in seconds that a person can compute."""

import numpy as np
import pytest

from tests import toy
from tests.engines.building import EQUAL_SPEED, local, run, simulated
from tfnmt.engines.schedule import ABSORBED, STEPPED, Fault
from tfnmt.engines.virtual_time import Costs, CostSettings, SharedTables
from tfnmt.layout import Layout
from tfnmt.strategies import Async, ModelAverage, RingAllreduce, SummedAsync, Sync

BATCHES = toy.make_batches(48)
FREE = {"jitter": 0.0, "seconds_per_token": 0.0, "step_seconds": 1.0, "network_latency_seconds": 0.0}
"""A step takes a second."""
INSTANT = {"network_bytes_per_second": 1e30}


def costs(*, workers=4, servers=2, vector_bytes=8, is_ring=False, seed=1, **settings):
    return Costs(CostSettings(**settings), seed, workers, servers, vector_bytes, is_ring=is_ring)


def noise(costs, workers, steps):
    """[workers, steps], the factors of steps that take a second."""
    return np.array([[costs.compute_seconds(n, step, 0) for step in steps] for n in range(workers)])


def one_second_a_vector(servers):
    """The speed of a link that carries a vector of the toy model in a second."""
    return {"network_bytes_per_second": float(Layout(toy.ToyModel.parameters, shards=servers).size * 8)}


def engine(row, workers, servers=1, **settings):
    return simulated(row, BATCHES, workers=workers, servers=servers, costs=CostSettings(**{**FREE, **settings}))


def seconds(row, workers, updates, servers=1, **settings):
    """Of each update."""
    return [report.seconds for report in run(engine(row, workers, servers, **settings), updates)]


class TestSharedTables:
    # The same as `graphs.vocabulary_parallel` counts, in `tests/graphs/test_vocabulary_parallel.py`.
    TABLES = SharedTables(rows=30_000, width=512, step_tokens=3_000, looked_up=0)

    def test_bytes_of_a_ring_are_those_of_the_rest_and_of_the_states(self):
        """Two vectors of which tables are a half; nothing is looked up."""
        tables, whole = self.TABLES, 2 * self.TABLES.table_bytes
        found = Costs(CostSettings(), 1, 4, 1, whole, is_ring=True, tables=tables)
        expected = 2 * tables.table_bytes * 3 / 4 + 4 * (3 * (3_000 * (2 * 512 + 5) + 1) + 2 * 512 * 3 / 4)
        assert found.ring_bytes(1) == pytest.approx(expected)
        assert found.held_bytes == tables.table_bytes + tables.table_bytes / 4

    @pytest.mark.parametrize(
        "workers, together, saves", [(9, 9, True), (90, 9, True), (10, 10, False), (90, 10, False)]
    )
    def test_groups_save_as_long_as_one_of_them_would(self, workers, together, saves):
        """`most_workers` is 9, however many groups there are; each worker has its part of one copy."""
        shared, whole = ({"tables": self.TABLES, "together": together}, {})
        shared, whole = (
            Costs(CostSettings(), 1, workers, 1, 2 * self.TABLES.table_bytes, is_ring=True, **options)
            for options in (shared, whole)
        )
        assert (shared.ring_bytes(1) < whole.ring_bytes(1)) == saves
        assert shared.held_bytes == pytest.approx(self.TABLES.table_bytes * (1 + 1 / together))

    def test_messages_of_groups(self):
        """One behind the other: of the ring, of the look-ups and states within a group, of a ring of owners."""
        slow = CostSettings(network_latency_seconds=1.0, network_bytes_per_second=1e18)
        found = Costs(slow, 1, 6, 1, 0, is_ring=True, tables=self.TABLES, together=2)
        assert found.reduction_seconds(1) == pytest.approx(2 * 5 + self.TABLES.exchanges() + 2 * 2)

    @pytest.mark.parametrize("tokens, most", [(3_000, 9), (1_000, 29), (30_000, 1)])
    def test_break_even_is_where_all_tokens_are_as_many_as_rows(self, tokens, most):
        """N T < V but for a few numbers of each token: within one worker."""
        tables = self.TABLES._replace(step_tokens=tokens)
        assert tables.most_workers() == most
        assert abs(most - 30_000 / tokens) <= 1

    def test_look_ups_cost(self):
        assert self.TABLES._replace(looked_up=6_000).most_workers() == 7


class TestComputing:
    def test_a_step_has_a_fixed_part_and_one_for_its_tokens(self):
        found = costs(jitter=0.0, step_seconds=0.5, seconds_per_token=0.25, stragglers=("1:3",))
        assert [found.compute_seconds(worker, 1, 10) for worker in (0, 1, 2)] == [3.0, 9.0, 3.0]

    def test_jitter_leaves_the_mean(self):
        """Without its correction the mean would be exp(0.5² / 2), 13% more."""
        found = noise(costs(jitter=0.5, seconds_per_token=0.0, step_seconds=1.0), 4, range(1, 2501))
        assert found.mean() == pytest.approx(1.0, abs=0.02)
        assert np.log(found).std() == pytest.approx(0.5, abs=0.02)

    def test_slow_jitter_leaves_the_mean_and_the_deviation(self):
        """At the first step as at a later one."""
        slow = costs(workers=3000, jitter=0.0, slow_jitter=0.5, seconds_per_token=0.0, step_seconds=1.0)
        for factors in noise(slow, 3000, (1, 300)).T:
            assert factors.mean() == pytest.approx(1.0, abs=0.04)
            assert np.log(factors).std() == pytest.approx(0.5, abs=0.03)

    def test_slow_jitter_stays_with_its_worker(self):
        """Neighbouring steps are alike by exp(-1 / 100), workers are not; the other jitter is new at every step."""
        steps = range(1, 4001)
        settings = {"workers": 2, "seconds_per_token": 0.0, "step_seconds": 1.0}
        slow = np.log(noise(costs(jitter=0.0, slow_jitter=0.5, **settings), 2, steps))
        fast = np.log(noise(costs(jitter=0.5, **settings), 2, steps))
        assert np.corrcoef(slow[0, 1:], slow[0, :-1])[0, 1] == pytest.approx(np.exp(-1 / 100), abs=0.005)
        assert abs(np.corrcoef(slow[0], slow[1])[0, 1]) < 0.5
        assert abs(np.corrcoef(fast[0, 1:], fast[0, :-1])[0, 1]) < 0.05

    def test_slow_jitter_begins_with_a_number_of_its_own(self):
        """Not with that of the first step's other jitter."""
        settings = {"workers": 1000, "seconds_per_token": 0.0, "step_seconds": 1.0}
        slow, fast = (
            np.log(noise(costs(**settings, **jitter), 1000, [1])[:, 0])
            for jitter in ({"jitter": 0.0, "slow_jitter": 0.5}, {"jitter": 0.5})
        )
        assert abs(np.corrcoef(slow, fast)[0, 1]) < 0.1

    def test_noise_is_addressed_by_seed_worker_and_step(self):
        settings = {"jitter": 0.3, "slow_jitter": 0.3}
        forwards = [costs(**settings).compute_seconds(1, step, 10) for step in (50, 10)]
        found = costs(**settings)
        assert [found.compute_seconds(1, step, 10) for step in (10, 50, 10)] == [*forwards[::-1], forwards[1]]
        assert costs(seed=2, **settings).compute_seconds(1, 50, 10) != forwards[0]
        assert found.compute_seconds(2, 50, 10) != forwards[0]


class TestUpdates:
    @pytest.mark.parametrize("is_ring, expected", [(False, 24 / 2 * 0.5), (True, 24 * 0.5)])
    def test_servers_move_their_parts_and_ranks_everything(self, is_ring, expected):
        free = {"network_latency_seconds": 0.0, "network_bytes_per_second": 1e30}
        found = costs(vector_bytes=8, servers=2, is_ring=is_ring, server_seconds_per_byte=0.5, **free)
        assert found.update_seconds(vectors=3, sent=3) == pytest.approx(expected)

    @pytest.mark.parametrize("switch, rate", [(0.0, 2.0), (100.0, 2.0), (4.0, 1.0)])
    def test_ring_sends_every_byte_but_its_own_part_twice(self, switch, rate):
        """2 (N - 1) messages of a quarter of 8 bytes, of which four are under way at a time."""
        found = costs(
            is_ring=True,
            network_bytes_per_second=2.0,
            network_latency_seconds=1.0,
            switch_bytes_per_second=switch,
        )
        assert found.ring_bytes(vectors=1) == 12
        assert found.update_seconds(vectors=1, sent=1) == 6 * (1.0 + 2 / rate)

    def test_ring_of_one_is_free(self):
        found = costs(workers=1, is_ring=True)
        assert found.ring_bytes(vectors=1) == found.update_seconds(vectors=1, sent=1) == 0


class TestBarrier:
    @pytest.mark.parametrize("servers, one_way", [(1, 3.0), (3, 1.0)])
    def test_round_is_a_pull_a_step_and_a_push(self, servers, one_way):
        """N M / B each way with one server, M / B with N."""
        found = seconds(Sync(), 3, 3, servers, **one_second_a_vector(servers))
        assert found == pytest.approx([one_way + 1 + one_way] * 3)

    def test_latency_and_the_switch_hold_a_star(self):
        """Two vectors travel each way; links would carry them in a second, the switch in four."""
        speed = one_second_a_vector(2)
        switch = speed["network_bytes_per_second"] / 2
        found = seconds(Sync(), 2, 2, 2, **speed, switch_bytes_per_second=switch, network_latency_seconds=0.25)
        assert found == pytest.approx([4.25 + 1 + 4.25] * 2)

    def test_averaged_slots_travel_too(self):
        row = ModelAverage(local_steps=2, local_slots="average")
        options = {"costs": CostSettings(**FREE, **one_second_a_vector(1)), "optimizer": "momentum"}
        found = [report.seconds for report in run(simulated(row, BATCHES, workers=1, **options), 2)]
        assert found == pytest.approx([2 + 2 + 2] * 2)

    def test_meeting_costs_once_a_block_and_the_servers_once_an_update(self):
        per_byte = 2 / one_second_a_vector(1)["network_bytes_per_second"]
        found = seconds(Sync(), 3, 3, **INSTANT, meeting_seconds=0.25, server_seconds_per_byte=per_byte)
        assert found == pytest.approx([0.25 + 1 + 2] * 3)

    def test_local_updates_cost_at_each_step(self):
        per_byte = 2 / one_second_a_vector(1)["network_bytes_per_second"]
        found = seconds(ModelAverage(local_steps=3), 2, 2, server_seconds_per_byte=per_byte, **INSTANT)
        assert found == pytest.approx([3 * (1 + 2) + 2] * 2)

    def test_who_is_early_waits(self):
        """The slow worker does not; the first block waits for nobody before it begins."""
        reports = run(engine(Sync(), 2, stragglers=("0:3",), **INSTANT), 3)
        waits = [[push.wait_seconds for push in report.pushes] for report in reports]
        assert waits == [[0, 0], pytest.approx([0, 2]), pytest.approx([0, 2])]


class TestSlack:
    @pytest.mark.parametrize(
        "slack, second, third",
        [
            (1, [0, 1.5, 1.5, 1.5], [0, 2.5, 2.5, 2.5]),
            (2, [0, 0, 0, 1, 1.5], [0, 0, 1.5, 2.5, 2.5]),
            (3, [0, 0, 0, 0, 0, 0.5, 1.5], [0, 0, 0, 0.5, 2.5]),
            (None, [0] * 5, [0] * 9),  # the negative control
        ],
    )
    def test_faster_workers_wait_for_the_slowest_and_for_nobody_else(self, slack, second, third):
        """Blocks of 3.5, 2 and 1 s: the first worker has pushed at 3.5, 7 and 10.5 s, when the others may go on."""
        reports = run(engine(Async(slack=slack), 3, stragglers=("0:3.5", "1:2"), **INSTANT), 21)
        waits = [
            [push.wait_seconds for report in reports for push in report.pushes if push.worker == n] for n in range(3)
        ]
        assert waits[0] == pytest.approx([0] * len(waits[0]))
        assert waits[1][: len(second)] == pytest.approx(second)
        assert waits[2][: len(third)] == pytest.approx(third)


class TestRing:
    @pytest.mark.parametrize(
        "row, network, expected, sent, pulled",
        [
            (RingAllreduce(), "auto", 1 + 1.5, 1.5, 0),
            (RingAllreduce(), "star", 4 + 1 + 4, 1, 1),
            (Sync(), "auto", 4 + 1 + 4, 1, 1),
            (Sync(), "ring", 1 + 1.5, 1.5, 0),
        ],
    )
    def test_row_without_servers_is_a_ring(self, row, network, expected, sent, pulled):
        """2 M (N - 1) / N bytes, in as many seconds at M bytes a second."""
        speed = one_second_a_vector(1)
        reports = run(engine(row, 4, network=network, **speed), 2)
        assert [report.seconds for report in reports] == pytest.approx([expected] * 2)
        whole = speed["network_bytes_per_second"]
        told = {(push.bytes_pushed, push.bytes_pulled) for report in reports for push in report.pushes}
        assert told == {(sent * whole, pulled * whole)}

    def test_warm_start_of_a_ring_is_one(self):
        speed = one_second_a_vector(1)
        found = simulated(
            RingAllreduce(), BATCHES, workers=4, warm_start_updates=1, costs=CostSettings(**FREE, **speed)
        )
        assert [report.seconds for report in run(found, 2)] == pytest.approx([2.5] * 2)


class TestFreeRows:
    def test_servers_move_one_update_after_the_other(self):
        """Three workers whose step takes a second, at servers that take a second for an update: these have no pause."""
        per_byte = 1 / one_second_a_vector(1)["network_bytes_per_second"]
        reports = run(engine(Async(), 3, server_seconds_per_byte=per_byte, **INSTANT), 12)
        assert [report.seconds for report in reports] == pytest.approx([1, 0, 0, *[1] * 9])
        assert [report.pushes[0].worker for report in reports] == [0, 1, 2] * 4
        assert [report.pushes[0].staleness for report in reports] == [0, 1, *[2] * 10]

    @pytest.mark.parametrize("update, expected", [(1.0, [1] * 6), (3.0, [1, 3, 3, 3, 3, 3])])
    def test_servers_work_for_updates_and_not_for_payloads(self, update, expected):
        """And a worker computes while they do, but has no third payload."""
        per_byte = update / one_second_a_vector(1)["network_bytes_per_second"]
        row = SummedAsync(summed_pushes=3)
        found = seconds(row, 3, 6, server_seconds_per_byte=per_byte, **INSTANT)
        assert found == pytest.approx(expected)

    def test_worker_that_is_alone_waits_for_its_own_update(self):
        per_byte = 3 / one_second_a_vector(1)["network_bytes_per_second"]
        found = seconds(Async(), 1, 3, server_seconds_per_byte=per_byte, **INSTANT)
        assert found == pytest.approx([1 + 3] * 3)

    @pytest.mark.parametrize("workers", [2, 4])
    def test_staleness_does_not_depend_on_the_network(self, workers):
        """Who pulls behind an own push misses one push of each of the others, however long transfers are."""
        reports = run(engine(Async(), workers, **one_second_a_vector(1)), 5 * workers)
        staleness = [report.pushes[0].staleness for report in reports[workers:]]
        assert np.mean(staleness) == workers - 1

    def test_pull_reads_when_its_transfer_begins(self):
        """So a push is as stale as others have pushed since its worker's last push, behind which it pulls at once."""
        found = engine(Async(), 3, jitter=0.5, **one_second_a_vector(1))
        reports = run(found, 15)
        order = [event.worker for event in found.trace if event.kind == ABSORBED]
        pushes = [push for report in reports for push in report.pushes]
        assert [push.worker for push in pushes[:-1]] == order[: len(pushes) - 1]
        for number, push in enumerate(pushes):
            since = max((n for n in range(number) if pushes[n].worker == push.worker), default=-1)
            assert push.staleness == number - since - 1
        assert {push.staleness for push in pushes[3:]} != {2}


class TestClock:
    def test_goes_on_behind_a_checkpoint(self):
        first, second = (engine(Sync(), 2, **INSTANT) for _ in range(2))
        run(first, 3)
        second.restore(first.state())
        assert [report.seconds for report in run(second, 2)] == pytest.approx([1, 1])
        assert [event.seconds for event in second.trace if event.kind == STEPPED] == pytest.approx([4, 4, 5, 5])

    def test_begins_behind_a_checkpoint_without_one(self):
        first, second = local(BATCHES), engine(Sync(), 1, **INSTANT)
        run(first, 3)
        second.restore(first.state())
        run(second, 1)
        assert [event.seconds for event in second.trace if event.kind == STEPPED] == pytest.approx([1])

    @pytest.mark.parametrize("seconds, away", [({}, 1), ({"seconds": 5.0}, 5)])
    def test_a_worker_that_has_died_comes_back_in_time(self, seconds, away):
        """Dead at the end of its second step; the step that it does again takes as long."""
        fault = Fault(worker=1, block=2, kind=STEPPED, **seconds)
        found = simulated(Sync(), BATCHES, workers=2, faults=[fault], costs=CostSettings(**FREE, **INSTANT))
        assert [report.seconds for report in run(found, 3)] == pytest.approx([1, 1 + away + 1, 1])
        assert [event.seconds for event in found.trace if event.kind == "restarted"] == pytest.approx([2 + away])


def test_no_time_of_the_real_machine_is_in_a_report():
    reports = run(simulated(Sync(), BATCHES, workers=2, costs=EQUAL_SPEED), 3)
    assert all(report.is_virtual and report.data_wait_seconds == 0 for report in reports)
