"""Streaming against its equations, against block momentum, and under the virtual clock."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
import tensorflow as tf

from graphs.fragments import Fragment
from tests import toy
from tests.engines.building import DIFFERENT, EXACT, distance, gradient_of, parameters, run, simulated
from tfnmt.engines.schedule import PULLED, PUSHED, STEPPED, Fault
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.layout import Layout
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import Bmuf
from tfnmt.strategies.streaming import Streaming

BATCHES = toy.make_batches(48)
RATE, MOMENTUM = 0.1, 0.5
HEAVY = OptimizerSettings(optimizer="momentum", momentum=0.8)


def by_equations(row, steps, workers, servers):
    """The server parameters behind so many steps of each worker, step by step; each moves by the heavy ball."""
    layout = Layout(toy.ToyModel.parameters, servers * row.fragments)
    theta = layout.initialize(1, tf.float64).numpy()
    filtered, momentum = theta.copy(), np.zeros_like(theta)
    replicas, pulled = ([theta.copy() for _ in range(workers)] for _ in range(2))
    slots, mean_slot = [np.zeros_like(theta) for _ in range(workers)], np.zeros_like(theta)
    parts = np.split(np.arange(layout.size), row.fragments)
    block, merges, delay = row.local_steps // row.fragments, {}, row.fragment_delay
    beside_push = delay - delay // 2  # steps of a block that come behind its push
    for step in range(1, steps + 1):
        for worker, replica in enumerate(replicas):
            batch = BATCHES[(step - 1) * workers + worker]
            gradient, tokens = gradient_of(replica, batch)
            slots[worker] = HEAVY.momentum * slots[worker] + gradient / tokens
            replica -= RATE * slots[worker]
        if step in merges:
            merge(replicas, pulled, theta, merges[step], row.kept_replica)
            replace(slots, mean_slot, merges[step], row.local_slots)
        if (step + beside_push) % block == 0:
            part = parts[((step + beside_push) // block - 1) % row.fragments]
            mean = np.mean([replica - base for replica, base in zip(replicas, pulled)], axis=0)[part]
            momentum[part] = MOMENTUM * momentum[part] + mean
            filtered[part] += momentum[part]
            theta[part] = filtered[part] + MOMENTUM * momentum[part]
            mean_slot[part] = np.mean(slots, axis=0)[part]
            merges[step + delay] = part
            if not delay:
                merge(replicas, pulled, theta, part, row.kept_replica)
                replace(slots, mean_slot, part, row.local_slots)
    return theta


def merge(replicas, pulled, theta, part, kept):
    for replica, base in zip(replicas, pulled):
        replica[part] = kept * replica[part] + (1 - kept) * theta[part]
        base[part] = theta[part]


def replace(slots, mean, part, local_slots):
    for slot in slots if local_slots == "average" else []:
        slot[part] = mean[part]


def streaming(**flags):
    return Streaming(**{"block_momentum": MOMENTUM, **flags})


@pytest.mark.parametrize(
    "servers, flags",
    [
        (1, {"local_steps": 6, "fragments": 2, "fragment_delay": 2}),
        (2, {"local_steps": 6, "fragments": 3, "fragment_delay": 1, "kept_replica": 0.25}),
        (2, {"local_steps": 4, "fragments": 2, "fragment_delay": 0, "local_slots": "average"}),
        (2, {"local_steps": 6, "fragments": 2, "fragment_delay": 3, "local_slots": "average"}),
        (1, {"local_steps": 3, "fragments": 1, "fragment_delay": 3}),
    ],
)
def test_follows_its_equations(servers, flags):
    row = streaming(**flags)
    how = {"workers": 2, "servers": servers, "optimizer": HEAVY}
    engine = simulated(row, BATCHES, **how)
    updates = 6
    run(engine, updates)
    block = row.local_steps // row.fragments
    expected = by_equations(row, updates * block, workers=2, servers=servers)
    np.testing.assert_allclose(parameters(engine), expected, atol=EXACT)
    slots = "keep" if row.local_slots == "average" else "average"
    for changed in ({"kept_replica": 0.9}, {"local_slots": slots}):
        other = by_equations(streaming(**{**flags, **changed}), updates * block, workers=2, servers=servers)
        assert np.abs(parameters(engine) - other).max() > DIFFERENT


def eager_by_equations(row, steps, workers, servers):
    """The server parameters, and those of worker 0, as the article has it: each replica has an outer optimizer.

    It is given Δ_i(t) / N + [mean Δ(t-1) - Δ_i(t-1) / N] where delta t is pushed, and the replica goes on from where it
    comes to. One more, that of the servers, is given mean Δ(t). What it comes to arrives later, and takes the place.
    """
    layout = Layout(toy.ToyModel.parameters, servers * row.fragments)
    theta = layout.initialize(1, tf.float64).numpy()
    replicas, bases = ([theta.copy() for _ in range(workers)] for _ in range(2))
    outer, *own = (Outer(row, theta) for _ in range(1 + workers))
    last, last_mean = [np.zeros_like(theta) for _ in range(workers)], np.zeros_like(theta)
    parts = np.split(np.arange(layout.size), row.fragments)
    block, arrives, delay = row.local_steps // row.fragments, {}, row.fragment_delay
    for step in range(1, steps + 1):
        for worker, replica in enumerate(replicas):
            batch = BATCHES[(step - 1) * workers + worker]
            gradient, tokens = gradient_of(replica, batch)
            replica -= RATE * gradient / tokens
        if step in arrives and step < steps:  # or it is the first action of a block that does not begin
            part = arrives[step]
            for replica, base in zip(replicas, bases):
                replica[part] += outer.pulled[part] - base[part]
                base[part] = outer.pulled[part]
        if (step + delay - delay // 2) % block == 0:
            part = parts[((step + delay - delay // 2) // block - 1) % row.fragments]
            deltas = [(replica - base)[part] for replica, base in zip(replicas, bases)]
            for worker, delta in enumerate(deltas):
                own[worker].step(part, delta / workers + (last_mean[part] - last[worker][part] / workers))
                replicas[worker][part] = bases[worker][part] = own[worker].pulled[part]
                last[worker][part] = delta
            last_mean[part] = np.mean(deltas, axis=0)
            outer.step(part, last_mean[part])
            arrives[step + delay] = part
    return outer.pulled, replicas[0]


class Outer:
    """SGD with block momentum on deltas."""

    def __init__(self, row, theta):
        self.pulled, self.filtered, self.update, self.row = theta.copy(), theta.copy(), np.zeros_like(theta), row

    def step(self, part, mean):
        momentum = self.row.block_momentum
        self.update[part] = momentum * self.update[part] + self.row.block_learning_rate * mean
        self.filtered[part] += self.update[part]
        ahead = momentum * self.update[part] if self.row.block_nesterov else 0
        self.pulled[part] = self.filtered[part] + ahead


@pytest.mark.parametrize(
    "workers, servers, flags",
    [
        (2, 1, {"local_steps": 3, "fragments": 1, "fragment_delay": 3}),  # as in the article
        (2, 2, {"local_steps": 6, "fragments": 2, "fragment_delay": 3, "block_learning_rate": 0.7}),
        (3, 2, {"local_steps": 6, "fragments": 3, "fragment_delay": 1, "block_momentum": 0.9, "block_nesterov": False}),
    ],
)
def test_eager_workers_are_where_an_outer_optimizer_of_their_own_would_be(workers, servers, flags):
    row, updates = streaming(eager_updates=True, **flags), 6
    engine = simulated(row, BATCHES, workers=workers, servers=servers)
    run(engine, updates)
    steps = updates * row.local_steps // row.fragments
    expected, replica = eager_by_equations(row, steps, workers, servers)
    np.testing.assert_allclose(parameters(engine), expected, rtol=0, atol=EXACT)
    np.testing.assert_allclose(engine.state().vectors["worker_0_replica"], replica, rtol=0, atol=EXACT)


def test_one_eager_worker_never_notices_that_its_fragment_travels():
    """Block momentum that waits for nothing, behind as many steps without a token as the first push comes too soon."""
    flags = {"local_steps": 3, "block_momentum": MOMENTUM}
    nothing = BATCHES[0]._replace(target_ids=tf.zeros_like(BATCHES[0].target_ids))
    at_once = simulated(Bmuf(**flags), [nothing, nothing, *BATCHES], workers=1)
    run(at_once, 5)
    eager, mixed = (
        simulated(Streaming(fragments=1, fragment_delay=3, eager_updates=each, **flags), BATCHES, workers=1)
        for each in (True, False)
    )
    run(eager, 5), run(mixed, 5)
    np.testing.assert_allclose(parameters(eager), parameters(at_once), rtol=0, atol=EXACT)
    assert distance(mixed, at_once) > DIFFERENT


@pytest.mark.parametrize("optimizer, servers, slots", [("sgd", 1, "keep"), ("adam", 2, "keep"), ("adam", 2, "average")])
def test_one_fragment_without_delay_is_block_momentum(optimizer, servers, slots):
    how = {"workers": 3, "servers": servers, "optimizer": optimizer, "dtype": tf.float32}
    flags = {"local_steps": 2, "block_momentum": MOMENTUM, "local_slots": slots}
    one = simulated(Streaming(fragments=1, fragment_delay=0, kept_replica=0.0, **flags), BATCHES, **how)
    other = simulated(Bmuf(**flags), BATCHES, **how)
    run(one, 6), run(other, 6)
    np.testing.assert_array_equal(parameters(one), parameters(other))
    late = simulated(Streaming(fragments=1, fragment_delay=1, kept_replica=0.0, **flags), BATCHES, **how)
    run(late, 6)
    assert distance(one, late) > DIFFERENT


KEPT, AVERAGED, EAGER = {"local_slots": "keep"}, {"local_slots": "average"}, {"eager_updates": True}


@pytest.mark.parametrize("updates, flags", [(1, KEPT), (2, AVERAGED), (3, KEPT), (3, AVERAGED), (2, EAGER)])
def test_resumes_with_a_fragment_that_no_worker_has_pulled_yet(updates, flags):
    """Behind any update: a worker begins anywhere in its round, with its replica and what it has pulled."""
    row = streaming(local_steps=6, fragments=2, fragment_delay=2, **flags)
    how = {"workers": 2, "optimizer": "adam", "encoding": "int8", "pull_encoding": "float16", "average_rate": 0.1}
    whole, second = (simulated(row, BATCHES, **how) for _ in range(2))
    blocks = whole.blocks()
    list(itertools.islice(blocks, updates))
    state = whole.state()
    second.restore(state)
    list(itertools.islice(blocks, 4)), run(second, 4)
    for name, vector in whole.state().vectors.items():
        np.testing.assert_array_equal(second.state().vectors[name], vector, err_msg=name)
    for forgotten in ("worker_0_replica", "worker_0_own_update" if row.eager_updates else "worker_0_m"):
        forgetful = simulated(row, BATCHES, **how)
        vectors = {name: vector for name, vector in state.vectors.items() if name != forgotten}
        assert len(vectors) < len(state.vectors)
        forgetful.restore(dataclasses.replace(state, vectors=vectors))
        run(forgetful, 4)
        assert distance(whole, forgetful) > 0


@pytest.mark.parametrize("pull_encoding, number_bytes", [("none", 8), ("float16", 2)])
def test_workers_begin_anew_where_other_servers_have_moved_the_fragments(pull_encoding, number_bytes):
    """Or the part of a fragment that was pushed, and is now another's, would be pushed twice."""
    row = streaming(local_steps=6, fragments=2, fragment_delay=2)
    how = {"workers": 2, "pull_encoding": pull_encoding}
    first, same, moved = (simulated(row, BATCHES, servers=servers, **how) for servers in (1, 1, 2))
    run(first, 3)
    layouts = [Layout(toy.ToyModel.parameters, shards) for shards in (2, 4)]
    assert len({layout.size for layout in layouts}) == 2
    state = first.state()
    vectors = {name: each for name, each in state.vectors.items() if each.ndim}
    repacked = {name: layouts[1].pack_arrays(layouts[0].unpack_array(each)) for name, each in vectors.items()}
    same.restore(state), moved.restore(state.with_vectors(repacked))
    pulled = [{push.bytes_pulled for push in run(engine, 1)[0].pushes} for engine in (same, moved)]
    assert pulled == [{layouts[0].size * number_bytes // 2}, {layouts[1].size * 8}]


def slow_network(seconds, row, **more):
    """A network on which a fragment travels so many times as long as a step."""
    size = Layout(toy.ToyModel.parameters, row.fragments).size * 8 / row.fragments
    return CostSettings(
        jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, network_latency_seconds=0.0,
        network_bytes_per_second=2 * size / seconds, **more
    )  # fmt: skip


def seconds_of(row, seconds, updates=6):
    """The virtual seconds between two updates of two workers in step, whose fragments travel so long."""
    engine = simulated(row, BATCHES, workers=2, costs=slow_network(seconds, row))
    reports = run(engine, updates)
    return engine, [report.seconds for report in reports[2:]]


def test_transfers_cost_nothing_that_last_no_longer_than_the_steps_beside_them():
    row = streaming(local_steps=8, fragments=2, fragment_delay=2)
    _, seconds = seconds_of(row, seconds=1.0)
    assert seconds == pytest.approx([4.0] * 4)
    assert seconds_of(row, seconds=1.5)[1] == pytest.approx([5.0] * 4)  # half a second more for each of the two
    at_once = streaming(local_steps=8, fragments=2, fragment_delay=0)
    assert seconds_of(at_once, seconds=1.0)[1] == pytest.approx([6.0] * 4)


def test_what_workers_wait_for_a_transfer_is_reported():
    row = streaming(local_steps=8, fragments=2, fragment_delay=2)
    engine, _ = seconds_of(row, seconds=1.5)
    pushes = [push for report in run(engine, 2) for push in report.pushes]
    for push in pushes:
        assert (push.pull_seconds, push.push_seconds) == pytest.approx((0.5, 0.5))
        assert push.compute_seconds == pytest.approx(4.0)


def test_a_push_moves_the_bytes_of_one_fragment():
    row = streaming(local_steps=8, fragments=4, fragment_delay=2)
    size = Layout(toy.ToyModel.parameters, 4).size * 8 // 4
    reports = run(simulated(row, BATCHES, workers=2), 5)
    assert {push.bytes_pushed for report in reports for push in report.pushes} == {size}
    assert [push.bytes_pulled for push in reports[0].pushes] == [4 * size] * 2  # all, where they begin
    assert {push.bytes_pulled for report in reports[1:] for push in report.pushes} == {size}


def test_slots_travel_in_sixteen_bits_where_payloads_are_encoded():
    """Two bytes of each parameter, and as many of each of the two slots of Adam."""
    row = streaming(local_steps=8, fragments=4, fragment_delay=2, local_slots="average")
    how = {"workers": 2, "optimizer": "adam", "encoding": "bfloat16", "pull_encoding": "float16"}
    size = Layout(toy.ToyModel.parameters, 4).size // 4
    coarse = simulated(row, BATCHES, **how)
    reports = run(coarse, 3)
    assert {push.bytes_pushed for report in reports for push in report.pushes} == {size * (2 + 2 * 2)}
    assert {push.bytes_pulled for report in reports[1:] for push in report.pushes} == {size * (2 + 2 * 2)}
    exact = simulated(row, BATCHES, workers=2, optimizer="adam")
    run(exact, 3)
    assert 0 < distance(exact, coarse) < 0.01


@pytest.mark.parametrize("kind", [PULLED, STEPPED, PUSHED])
def test_a_worker_that_dies_during_a_transfer_comes_back(kind):
    row = streaming(local_steps=4, fragments=2, fragment_delay=2)
    faults = [Fault(worker=1, block=3, kind=kind, seconds=0.25)]
    engine = simulated(row, BATCHES, workers=2, faults=faults, costs=slow_network(1.5, row))
    reports = run(engine, 6)
    blocks = [(push.worker, report.update) for report in reports for push in report.pushes]
    assert sorted(blocks) == sorted(itertools.product(range(2), range(1, 7)))
    assert any(event.kind == "restarted" for event in engine.trace)


def test_an_element_of_a_fragment_is_found_in_the_vector():
    fragment = Fragment(number=2, of=3)
    assert fragment.take(tf.range(36))[5].numpy() == fragment.place(5, 36) == fragment.shards(range(36))[5]


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"local_steps": 10, "fragments": 4}, "--fragments=4: must divide --local_steps=10."),
        ({"local_steps": 8, "fragments": 4, "fragment_delay": 3}, "--fragment_delay=3: .* behind 2 steps"),
        ({"eager_updates": True, "kept_replica": 0.2}, "--kept_replica=0.2: with --eager_updates workers keep all"),
    ],
)
def test_refuses_what_does_not_fit(flags, words):
    assert re.search(words, " ".join(Streaming(**flags).faults()))
