"""The sequence of pushes without an engine: a round that the workers have summed among themselves."""

import numpy as np
import pytest

from tests import toy
from tests.engines.building import EXACT, build
from tfnmt.engines.servers import Arrival, UpdateSequence
from tfnmt.strategies import Sync

BATCHES = toy.make_batches(8, epoch_length=1)
WAITS = (0.5, 0.0)
RING_BYTES = 24


def servers_and_pushes(poisoned):
    """The servers of two workers, and a push of each; every look at the clock finds it a second later."""
    seconds = iter(range(99))
    options = {"workers": 2, "clock": lambda: float(next(seconds))}
    servers = build(UpdateSequence, Sync(), BATCHES, workers=2, model=toy.PoisonedModel(poisoned), options=options)
    graph = servers.worker_graph()
    workers = [servers.new_worker(graph, number, servers.new_outbox()) for number in range(2)]
    return servers, [worker.run(worker.next_block())[1] for worker in workers]


@pytest.mark.parametrize("poisoned", [-1, 1])
def test_a_summed_round_is_its_pushes_one_behind_the_other(poisoned):
    """But for the bytes, which are those of the ring. What is not finite is left out of the sum by its weight."""
    servers, pushes = servers_and_pushes(poisoned)
    assert servers.absorb(pushes[0], WAITS[0]) is None
    expected = servers.absorb(pushes[1], WAITS[1])
    summed, others = servers_and_pushes(poisoned)
    bad = toy.layout().offsets[2]  # the first element of the bias
    (whole,), (part,) = (push.payload for push in others)
    if poisoned < 0:
        whole.assign_add(part)
    arrivals = [
        Arrival(
            push,
            wait,
            summed.weight_of(push.work.sums) if number != poisoned else 0.0,
            bad if number == poisoned else -1,
        )
        for number, (push, wait) in enumerate(zip(others, WAITS))
    ]
    report = summed.absorb_reduced(arrivals, [whole], RING_BYTES)
    assert {(push.bytes_pulled, push.bytes_pushed) for push in report.pushes} == {(0, RING_BYTES)}
    told = tuple(push._replace(bytes_pulled=0, bytes_pushed=RING_BYTES) for push in expected.pushes)
    assert [push.refused is not None for push in told] == [False, poisoned == 1]
    same = ("loss", "cross_entropy", "gradient_norm", "learning_rate")
    assert [getattr(report, name) for name in same] == pytest.approx([getattr(expected, name) for name in same])
    changed = {name: getattr(report, name) for name in ("seconds", "data_wait_seconds", *same)}
    assert report == expected._replace(pushes=told, **changed)
    one, other = servers.state(), summed.state()
    assert one.counters == other.counters
    for name, vector in one.vectors.items():
        np.testing.assert_allclose(other.vectors[name], vector, atol=EXACT, err_msg=name)


def test_each_shard_is_on_its_device():
    devices = ["/device:CPU:0", "/CPU:0"]
    servers = build(UpdateSequence, Sync(), BATCHES, servers=2, options={"workers": 1, "devices": devices})
    assert [shard.device for shard in servers.server.shards] == devices
