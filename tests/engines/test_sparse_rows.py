"""Rows whose workers pull and push no more of a table than their batches read, against those that move all of it."""

import doctest
import itertools

import numpy as np
import pytest
import tensorflow as tf

import graphs.table_rows
from graphs.table_rows import TableRows, rows_of_shards
from tests import toy
from tests.engines.building import DIFFERENT, SCHEDULE, distance, parameters, run, simulated
from tfnmt.engines.schedule import PULLED, PUSHED, STEPPED, Fault
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.layout import Layout
from tfnmt.strategies import Async, DelayedAsync, Downpour, SummedAsync, Sync

BATCHES = toy.with_other_sources(toy.make_batches(96))
SERVERS = 3  # of whose shards two have rows of the table, and a part of one between them
STALE = SummedAsync(summed_pushes=3, staleness_exponent=1.0, compensation_lambda=0.5)
DELAYED = DelayedAsync(delay=2, delay_ramp_batches=2, local_optimizer_batches=8)
BY_SPEED = Downpour(push_every=2, pull_every=2, blocks_by_speed=True)
UNEQUAL = CostSettings(jitter=0.0, step_seconds=1.0, stragglers=("1:1.7",), network_bytes_per_second=1e15)
"""Who is next does not depend on the bytes that travel."""


def engine(row, sparse, workers=2, servers=SERVERS, **options):
    """An engine whose rows of the source table travel as batches read them, or all in every transfer."""
    how = {"model": toy.SourceTableModel(dropout=0.3), "costs": UNEQUAL, "optimizer": "adam", "schedule": SCHEDULE}
    how |= {"sparse_embeddings": sparse, "clip_norm": 0.5, "average_rate": 0.1, "dtype": tf.float32, **options}
    return simulated(row, BATCHES, workers=workers, servers=servers, **how)


def assert_equal_states(state, other):
    """Bit for bit, and to every counter but those of virtual time."""
    assert state.vectors.keys() == other.vectors.keys()
    for name, value in other.vectors.items():
        np.testing.assert_array_equal(state.vectors[name], value, err_msg=name)
    assert state.counters["workers"] == other.counters["workers"]
    assert state.counters["noise"] == other.counters["noise"]


@pytest.mark.parametrize(
    "row, tokens",
    [(Sync(), 80), (Async(slack=1), 0), (STALE, 0), (DELAYED, 80), (BY_SPEED, 0)],
)
def test_training_is_the_same_bit_for_bit(row, tokens):
    """Moments, clipping, moving average, noise scale and stale gradients included; also of steps of several batches.

    Of a block that has but a part of its steps no more is read ahead.
    """
    whole, sparse = (engine(row, each, global_batch_tokens=tokens) for each in (False, True))
    reports, expected = run(sparse, 7), run(whole, 7)
    assert_equal_states(sparse.state(), whole.state())
    for report, other in zip(reports, expected):
        assert (report.loss, report.gradient_norm, report.positions) == (
            other.loss,
            other.gradient_norm,
            other.positions,
        )
        assert all(push.bytes_pulled < each.bytes_pulled for push, each in zip(report.pushes, other.pushes))


def test_a_row_that_is_not_asked_for_is_missed(monkeypatch):
    """The negative control: a worker has it as zeros, and its gradient never comes."""
    whole, sparse = (engine(Sync(), each) for each in (False, True))
    places = TableRows.places
    monkeypatch.setattr(TableRows, "places", lambda self, ids: places(self, ids)[1:])
    run(whole, 1), run(sparse, 1)
    assert distance(whole, sparse) > DIFFERENT


def test_examples():
    found = doctest.testmod(graphs.table_rows)
    assert found.attempted and not found.failed


def test_a_server_has_the_rows_that_are_whole_there():
    """Of those that no server has for itself, both parts always travel."""
    layout = Layout(toy.SourceTableModel.parameters, SERVERS)
    tables = rows_of_shards(layout)
    assert [(table.first, table.count) for table in tables] == [(0, 26), (27, 13), (40, 0)]
    part = np.arange(layout.size // SERVERS, dtype=np.float32)
    for table in tables:
        places = table.places(tf.constant([39, 26, 0, 27, 25]))
        pieces = table.put(*table.take(tf.constant(part), places), places)
        behind = table.start + table.count * toy.WIDTH
        rows = part[table.start : behind].reshape([-1, toy.WIDTH])
        unread = np.setdiff1d(np.arange(table.count), places.numpy())
        rows[unread], expected = 0, part.copy()
        expected[table.start : behind] = rows.ravel()
        np.testing.assert_array_equal(tf.concat(pieces, axis=0), expected)


@pytest.mark.parametrize("row, before", [(Sync(), False), (DELAYED, True)])
def test_either_goes_on_from_the_other_s_state(row, before):
    """Bit for bit; a checkpoint does not know how rows have travelled."""
    whole, first, second = (engine(row, each, workers=1) for each in (False, before, not before))
    run(first, 3)
    second.restore(first.state())
    run(whole, 6), run(second, 3)
    assert_equal_states(second.state(), whole.state())


def test_a_worker_that_comes_back_asks_anew():
    """What it had read ahead is lost with it, and read again."""
    whole, sparse = (engine(Sync(), each, faults=[Fault(1, 2, PULLED)]) for each in (False, True))
    run(whole, 4), run(sparse, 4)
    assert_equal_states(sparse.state(), whole.state())


def test_a_gradient_that_is_not_finite_is_named_and_left_out():
    model = toy.PoisonedSourceModel(place=4, parameter="source")
    whole, sparse = (engine(Sync(), each, model=model) for each in (False, True))
    run(whole, 4)
    (refused,) = [push.refused for report in run(sparse, 4) for push in report.pushes if push.refused]
    assert_equal_states(sparse.state(), whole.state())
    assert "gradient of source was not finite at step 3 of worker 0" in refused


@pytest.mark.parametrize("steps", [1, 2])
def test_the_bytes_are_those_of_the_rows(steps):
    """In the report, and under the virtual clock: of the rows that one batch, or all of a block together, read."""
    costs = CostSettings(jitter=0.0, network_latency_seconds=0.0, network_bytes_per_second=1.0)
    row = Downpour(push_every=steps, pull_every=steps)
    (report,) = run(found := engine(row, True, workers=1, costs=costs), 1)
    read = np.unique(np.concatenate([batch.source_ids.numpy().ravel() for batch in BATCHES[:steps]]))
    tables, size = rows_of_shards(layout := Layout(toy.SourceTableModel.parameters, SERVERS)), layout.size // SERVERS
    rows = [np.sum((read >= table.first) & (read < table.first + table.count)) for table in tables]
    assert rows[0] and rows[1]
    pulled = [4 * (size - (table.count - number) * toy.WIDTH) for table, number in zip(tables, rows)]
    pushed = [each + 4 * number for each, number in zip(pulled, rows)]
    assert [(push.bytes_pulled, push.bytes_pushed) for push in report.pushes] == [(sum(pulled), sum(pushed))]
    seconds = {
        kind: [event.seconds for event in found.trace if event.kind == kind] for kind in (PULLED, STEPPED, PUSHED)
    }
    # One byte a second, over the worker's own link.
    assert seconds[PULLED][0] == pytest.approx(sum(pulled))
    assert seconds[PUSHED][0] - seconds[STEPPED][steps - 1] == pytest.approx(sum(pushed))


def test_rows_are_told_apart_and_read_once():
    """However often a batch has one."""
    ids = tf.constant([[5, 5, 5, 3], [5, 3, 0, 0], [5, 5, 3, 0], [3, 0, 0, 0]])
    again = [batch._replace(source_ids=ids) for batch in BATCHES]
    costs = {"workers": 1, "servers": 1, "model": toy.SourceTableModel(), "dtype": tf.float32}
    whole, sparse = (simulated(Sync(), again, sparse_embeddings=each, **costs) for each in (False, True))
    (report,), _ = run(sparse, 1), run(whole, 1)
    unread = 4 * toy.WIDTH * (toy.SOURCE_SIZE - 3)
    assert report.pushes[0].bytes_pulled == 4 * Layout(toy.SourceTableModel.parameters).size - unread
    np.testing.assert_array_equal(parameters(sparse), parameters(whole))


def test_time_spent_reading_is_time_of_steps():
    """A worker's wait for its batches is none for its servers, wherever it stands in the block."""
    worker = engine(Sync(), True, workers=1).crew[0]
    (pull, *others) = worker.next_block()
    work, _ = worker.run((pull,), 1.0, ends=False)
    assert 0 < work.sums.data_wait_seconds == work.sums.step_seconds
    assert work.sums.pull_seconds > 0 and work.sums.steps == 0
    work, push = worker.run(tuple(others), 1.0)
    assert push and push.work.sums.step_seconds > push.work.sums.data_wait_seconds > 0
    assert [*itertools.accumulate(push.work.rows)][-1] > 0
