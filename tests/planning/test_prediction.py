"""Predicted speeds are those of the simulated engine's clock, for every row."""

import dataclasses
import itertools

import pytest
import tensorflow as tf

from graphs.encodings import find_encoding
from graphs.table_rows import rows_of_shards
from tests import toy
from tests.engines.building import run, simulated
from tfnmt.engines.virtual_time import Costs, CostSettings
from tfnmt.layout import Layout
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.planning.prediction import PUSHES, idle_reports, predict
from tfnmt.strategies import STRATEGIES, Async, DelayedAsync, ModelAverage, RingAllreduce, Sync
from tfnmt.strategies.streaming import Streaming

WORKERS, SERVERS, UPDATES = 3, 2, 5
BATCHES = toy.make_batches(48)
COSTS = CostSettings(
    seconds_per_token=0.0,
    step_seconds=0.3,
    jitter=0.2,
    slow_jitter=0.1,
    stragglers=("1:1.5",),
    meeting_seconds=0.02,
    server_seconds_per_byte=1e-4,
    network_latency_seconds=0.01,
    network_bytes_per_second=2e3,
)
ROWS = {name: make for name, make in STRATEGIES.items() if name != "single"}
MORE = {
    "fragments": Streaming(local_steps=6, fragments=2),
    "by_speed": ModelAverage(local_steps=4, blocks_by_speed=True),
    "ramp": DelayedAsync(delay=3, delay_ramp_batches=12),
    "quorum": Sync(quorum=2, quorum_grace_seconds=0.1),
    "backup_workers": ModelAverage(local_steps=2, quorum=2, max_staleness=0),
}


def costs(is_ring=False, settings=COSTS, fragments=1):
    vector_bytes = Layout(toy.ToyModel.parameters, shards=SERVERS * fragments).size * tf.float32.size
    return Costs(settings, 1, WORKERS, SERVERS, vector_bytes, is_ring=is_ring)


def quick(make):
    """A row whose workers meet soon."""
    names = [field.name for field in dataclasses.fields(make)]
    flags = {"local_steps": 2, "fragments": 1}
    return make(**{name: value for name, value in flags.items() if name in names})


def test_rows_of_a_table_travel_when_the_simulated_engine_has_them():
    """Batches that all read the same ones make as many updates as soon, and move as many bytes."""
    source = BATCHES[0].source_ids
    same = [batch._replace(source_ids=source) for batch in BATCHES]
    how = {"servers": SERVERS, "costs": COSTS, "dtype": tf.float32, "model": toy.SourceTableModel()}
    engine = simulated(Sync(), same, workers=WORKERS, sparse_embeddings=True, **how)
    columns, layout = Sync().row(WORKERS, OptimizerSettings()), Layout(toy.SourceTableModel.parameters, SERVERS)
    tables, ids = rows_of_shards(layout), tf.unique(tf.reshape(source, [-1])).y
    rows = [len(table.places(ids)) for table in tables]
    machines = Costs(COSTS, 1, WORKERS, SERVERS, 4 * layout.size, is_ring=False, rows_on_servers=tables)
    idle = itertools.islice(idle_reports(columns, machines, WORKERS, lambda worker, step: 10, rows), UPDATES)
    for real, expected in zip(run(engine, UPDATES), idle, strict=True):
        assert expected.seconds == real.seconds
        moved, others = ([(push.bytes_pulled, push.bytes_pushed) for push in each.pushes] for each in (expected, real))
        assert moved == others


@pytest.mark.parametrize("name", [*ROWS, *MORE])
def test_every_update_comes_when_the_simulated_engine_has_it(name):
    """And moves as many bytes, with as many steps behind it, and has waited as long."""
    row = quick(ROWS[name]) if name in ROWS else MORE[name]
    engine = simulated(row, BATCHES, workers=WORKERS, servers=SERVERS, costs=COSTS, dtype=tf.float32)
    assert_same_clock(engine, row.row(WORKERS, OptimizerSettings(optimizer="sgd")))


def test_averagings_of_replicas_come_when_the_simulated_engine_has_them():
    sparse = {"encoding": "topk", "topk_fraction": 0.25, "local_gradient_updates": 2}
    row, more = RingAllreduce(), {"workers": WORKERS, "servers": SERVERS, "costs": COSTS, "dtype": tf.float32}
    columns = row.row(WORKERS, OptimizerSettings(optimizer="sgd"))
    columns = dataclasses.replace(columns, encoding=find_encoding("topk", 0.25), local_gradient=2)
    assert_same_clock(simulated(row, BATCHES, **sparse, **more), columns)


def assert_same_clock(engine, columns):
    machines = costs(columns.ring, fragments=columns.fragments)
    idle = itertools.islice(idle_reports(columns, machines, WORKERS, lambda worker, step: 10), UPDATES)
    for real, expected in zip(run(engine, UPDATES), idle, strict=True):
        assert expected.seconds == real.seconds
        for push, other in zip(real.pushes, expected.pushes, strict=True):
            assert other._replace(target_tokens=0) == push._replace(target_tokens=0)


def speed(row, **changes):
    """Of workers that compute for a second, a tenth of it whatever the tokens, and whose link takes half of that."""
    plain = {"jitter": 0.0, "slow_jitter": 0.0, "stragglers": (), "meeting_seconds": 0.0, "step_seconds": 0.1}
    vector_bytes = Layout(toy.ToyModel.parameters, shards=SERVERS).size * tf.float32.size
    plain |= {"seconds_per_token": 0.009, "server_seconds_per_byte": 0.0, "network_latency_seconds": 0.0}
    plain |= {"network_bytes_per_second": 2 * vector_bytes} | changes
    columns = row.row(WORKERS, OptimizerSettings(optimizer="sgd"))
    return predict(columns, costs(columns.ring, CostSettings(**plain)), WORKERS, batch_tokens=100), vector_bytes


def test_a_barrier_s_step_is_computing_a_pull_and_a_push():
    """Two servers feed three workers at 4/3 of a link together: a vector takes each 0.75 s, and half of it is 0.375."""
    found, vector_bytes = speed(Sync())
    assert found.step_seconds == pytest.approx(1 + 2 * 0.75)
    assert found.tokens_per_second == pytest.approx(WORKERS * 100 / 2.5)
    assert found.computing_share == pytest.approx(1 / 2.5)
    assert found.transfer_share == pytest.approx(1.5 / 2.5)
    assert found.waiting_share == pytest.approx(0.0)
    assert found.bytes_per_token == pytest.approx(2 * vector_bytes / 100)


def test_local_steps_pay_for_a_meeting_together():
    found, vector_bytes = speed(ModelAverage(local_steps=10))
    assert found.step_seconds == pytest.approx(1 + 2 * 0.75 / 10)
    assert found.computing_share == pytest.approx(1 / 1.15)
    assert found.bytes_per_token == pytest.approx(2 * vector_bytes / 1000)


def test_a_straggler_holds_a_barrier_but_not_free_workers():
    """The first waits for the one that is three times as slow; without a barrier two workers go on at full speed."""
    fast = {"network_bytes_per_second": 1e12, "stragglers": ("2:3",)}
    held, _ = speed(Sync(), **fast)
    free, _ = speed(Async(), **fast)
    assert held.tokens_per_second == pytest.approx(WORKERS * 100 / 3)
    assert held.waiting_share == pytest.approx(4 / 9)
    assert held.computing_share == pytest.approx(5 / 9)
    assert free.tokens_per_second == pytest.approx((2 + 1 / 3) * 100, rel=0.05)
    assert free.computing_share == pytest.approx(1.0, rel=0.05)


def test_a_quorum_pays_where_steps_vary_as_in_the_simulation():
    """Of three workers two make an update. Where all steps are alike, one in three waits for the next update."""
    fast, quorum = {"network_bytes_per_second": 1e12}, Sync(quorum=2)
    alike = [speed(row, **fast)[0].tokens_per_second for row in (Sync(), quorum)]
    assert alike[1] == pytest.approx(2 / 3 * alike[0])
    predicted = [speed(row, jitter=0.5, **fast)[0].tokens_per_second / 100 for row in (Sync(), quorum)]
    assert predicted[1] > predicted[0]
    costs = CostSettings(jitter=0.5, step_seconds=1.0, seconds_per_token=0.0, network_latency_seconds=0.0, **fast)
    assert predicted == pytest.approx([_steps_per_second(row, costs) for row in (Sync(), quorum)])


def _steps_per_second(row, costs):
    """Of the simulated engine, in the updates that `predict` looks at."""
    pushes, looked_at = 0, []
    for report in simulated(row, BATCHES, workers=WORKERS, servers=SERVERS, costs=costs, dtype=tf.float32).blocks():
        pushes += len(report.pushes)
        looked_at += [report] * (pushes > WORKERS * PUSHES // 4)
        if pushes >= WORKERS * PUSHES * 5 // 4:
            return sum(len(each.pushes) for each in looked_at) / sum(each.seconds for each in looked_at)
