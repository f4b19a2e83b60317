"""The sequence of pushes without an engine: a round that the workers have summed among themselves."""

import numpy as np
import pytest

from tests import toy
from tests.engines.building import EXACT, build
from tfnmt.engines.report import Waits
from tfnmt.engines.servers import Arrival, UpdateSequence
from tfnmt.strategies import SummedAsync, Sync

BATCHES = toy.make_batches(12, epoch_length=1)  # each worker is in an epoch of its own
WAITS = (Waits(0.5, 0.1), Waits(), Waits(0.25))
RING_BYTES = 24


def servers_and_pushes(row, poisoned=-1, workers=3):
    """The servers of so many workers, and a push of each; every look at the clock finds it a second later."""
    seconds = iter(range(99))
    options = {"workers": workers, "clock": lambda: float(next(seconds))}
    model = toy.PoisonedModel(poisoned, "embedding")
    servers = build(UpdateSequence, row, BATCHES, workers=workers, model=model, options=options)
    graph = servers.worker_graph()
    made = [servers.new_worker(graph, number, servers.new_outbox()) for number in range(workers)]
    return servers, [worker.run(worker.next_block(), 1.0)[1] for worker in made]


@pytest.mark.parametrize("poisoned", [-1, 1])
def test_a_summed_round_is_its_pushes_one_behind_the_other(poisoned):
    """But for the bytes, which are those of the ring. What is not finite is left out of the sum by its weight."""
    servers, pushes = servers_and_pushes(Sync(), poisoned)
    *_, expected = [servers.absorb(push, wait) for push, wait in zip(pushes, WAITS)]
    summed, others = servers_and_pushes(Sync(), poisoned)
    (whole,), *parts = (push.payload for number, push in enumerate(others) if number != poisoned)
    squares = [np.sum(np.square(push.payload[0].numpy())) for push in others]
    for (part,) in parts:
        whole.assign_add(part)
    arrivals = [
        Arrival(push, waits, 0.0, 0, np.nan)
        if number == poisoned
        else Arrival(push, waits, summed.weight_of(push.work.sums), -1, square)
        for number, (push, waits, square) in enumerate(zip(others, WAITS, squares))
    ]
    report = summed.absorb_reduced(arrivals, [whole], RING_BYTES)
    told = tuple(push._replace(bytes_pulled=0, bytes_pushed=RING_BYTES) for push in expected.pushes)
    assert [push.refused is not None for push in told] == [number == poisoned for number in range(3)]
    same = ("loss", "cross_entropy", "gradient_norm", "learning_rate")
    assert [getattr(report, name) for name in same] == pytest.approx([getattr(expected, name) for name in same])
    changed = {name: getattr(report, name) for name in ("seconds", "data_wait_seconds", *same)}
    assert report._replace(pushes=()) == expected._replace(pushes=(), **changed)
    spent = ("seconds", "compute_seconds", "data_wait_seconds", "pull_seconds", "push_seconds")  # by the clocks
    for push, other in zip(report.pushes, told, strict=True):
        assert push == other._replace(**{name: getattr(push, name) for name in spent})
    assert report.epoch == 2
    one, other = servers.state(), summed.state()
    noise = one.counters["noise"]
    assert other.counters["noise"] == pytest.approx(noise, rel=1e-9)
    assert {**other.counters, "noise": noise} == one.counters
    for name, vector in one.vectors.items():
        np.testing.assert_allclose(other.vectors[name], vector, atol=EXACT, err_msg=name)


def test_a_single_payload_that_has_arrived_outlives_a_smaller_quorum():
    """Though it is all that servers with a quorum of one have to sum."""
    servers, (push,) = servers_and_pushes(SummedAsync(summed_pushes=2), workers=1)
    assert servers.absorb(push) is None
    others, _ = servers_and_pushes(SummedAsync(summed_pushes=1), workers=1)
    assert "received" not in others.state().vectors
    others.restore(servers.state())
    assert others.state().counters == servers.state().counters
    np.testing.assert_array_equal(others.state().vectors["received"], servers.state().vectors["received"])


def test_each_shard_is_on_its_device():
    devices = ["/device:CPU:0", "/CPU:0"]
    servers = build(UpdateSequence, Sync(), BATCHES, servers=2, options={"workers": 1, "devices": devices})
    assert [shard.device for shard in servers.server.shards] == devices


def test_what_workers_pull_comes_back_from_a_checkpoint():
    """The version, and the steps by which local updates know their rates."""
    servers, pushes = servers_and_pushes(Sync())
    for push in pushes:
        servers.absorb(push)
    others, _ = servers_and_pushes(Sync())
    others.restore(servers.state())
    assert (others.server.version.numpy(), others.server.steps.numpy()) == (1, 1.0)
    assert others.state().counters == servers.state().counters
