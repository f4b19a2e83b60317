"""What servers make of stale payloads, on the simulated engine, against the equations in NumPy."""

import dataclasses
import doctest

import numpy as np
import pytest
import tensorflow as tf

import graphs.staleness
from tests import toy
from tests.engines.building import DIFFERENT, EXACT, distance, parameters, run, simulated
from tests.engines.rows import ROWS, WITHOUT_BARRIER
from tfnmt.engines.schedule import ABSORBED, PULLED
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import Async, DelayedAsync, SummedAsync
from tfnmt.strategies.delayed_nesterov import DelayedNesterov

BATCHES = toy.make_batches(48)
STALE = [name for name in WITHOUT_BARRIER if hasattr(ROWS[name], "staleness_exponent")]
EVERYTHING = {"staleness_exponent": 1.0, "max_staleness": 0, "compensation_lambda": 5.0}
WORKERS = 3
IN_TURN = [*((worker, PULLED) for worker in range(WORKERS)), *((worker, ABSORBED) for worker in range(WORKERS))] * 3
AGES = [0, 1, 2, *[2] * 6]
"""The order of the events, and of how many updates old the pushes are, where every push is an update."""
RATE, LAMBDA = 0.1, 5.0


def changed(row, **flags):
    """The row with those of the flags that it has."""
    names = {field.name for field in dataclasses.fields(row)}
    return dataclasses.replace(row, **{name: value for name, value in flags.items() if name in names})


def in_turn(row, **options):
    return simulated(row, BATCHES, workers=WORKERS, script=IN_TURN, **options)


def seen(engine):
    """Each report, with what the servers held before and behind it, and vectors of the worker that pushed last."""
    before = parameters(engine)
    for report in engine.blocks():
        after, worker = parameters(engine), engine.crew[report.pushes[-1].worker]
        yield report, before, after, {name: vector.numpy() for name, vector in worker.replica.vectors.items()}
        before = after


def test_examples():
    found = doctest.testmod(graphs.staleness)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("name", STALE)
def test_what_is_not_stale_counts_bit_for_bit_as_without(name):
    """Of one worker that pulls before each push, in single precision."""
    row = changed(ROWS[name], push_every=2, pull_every=2, staleness_exponent=0.0, compensation_lambda=0.0)
    options = {"workers": 1, "servers": 2, "optimizer": "adam", "dtype": tf.float32, "clip_norm": 0.1}
    plain, other = (simulated(each, BATCHES, **options) for each in (row, changed(row, **EVERYTHING)))
    one, two = run(plain, 4), run(other, 4)
    assert {push.staleness for report in two for push in report.pushes} == {0}
    assert [report.learning_rate for report in one] == [report.learning_rate for report in two]
    for vector, value in plain.state().vectors.items():
        np.testing.assert_array_equal(other.state().vectors[vector], value, err_msg=vector)


@pytest.mark.parametrize("name", STALE)
def test_what_is_stale_counts_otherwise(name):
    """The negative control."""
    row = changed(ROWS[name], push_every=2, pull_every=2, staleness_exponent=0.0, compensation_lambda=0.0)
    plain, other = (in_turn(each) for each in (row, changed(row, staleness_exponent=1.0)))
    run(plain), run(other)
    assert distance(plain, other) > DIFFERENT


@pytest.mark.parametrize("exponent, servers", [(1.0, 1), (0.5, 2)])
def test_the_rate_falls_with_the_staleness(exponent, servers):
    ages = []
    for report, before, after, held in seen(in_turn(Async(staleness_exponent=exponent), servers=servers)):
        (push,) = report.pushes
        rate = RATE / (1 + push.staleness) ** exponent
        np.testing.assert_allclose(after, before - rate * held["gathered"] / report.target_tokens, atol=EXACT)
        assert report.learning_rate == pytest.approx(rate, rel=EXACT)
        ages.append(push.staleness)
    assert ages == AGES


def test_the_rate_falls_for_an_optimizer_that_is_blind_to_lengths():
    """A shorter gradient would move Adam as far as a long one."""
    m = v = 0.0
    engine = in_turn(Async(staleness_exponent=1.0), optimizer="adam")
    for number, (report, before, after, held) in enumerate(seen(engine), start=1):
        mean = held["gathered"] / report.target_tokens
        m, v = 0.9 * m + 0.1 * mean, 0.98 * v + 0.02 * mean**2
        step = m / (1 - 0.9**number) / (np.sqrt(v / (1 - 0.98**number)) + 1e-9)
        np.testing.assert_allclose(after, before - RATE / (1 + report.pushes[0].staleness) * step, atol=1e-9)


def test_of_summed_payloads_each_counts_by_its_own_age():
    """Σ c T g / Σ c T at the rate α Σ c T / ΣT: with SGD, each gradient at a rate of its own."""
    script = [(0, PULLED), (1, PULLED), (2, PULLED), *((worker, ABSORBED) for worker in (0, 0, 1, 1, 2, 2))]
    engine = simulated(SummedAsync(summed_pushes=2, staleness_exponent=1.0), BATCHES, workers=3, script=script)
    plain = simulated(SummedAsync(summed_pushes=2), BATCHES, workers=3, script=script)
    theta, found = parameters(engine), []
    sums, absorb = [], engine._servers.absorb

    def noted(push, *how):
        sums.append((np.concatenate([part.numpy() for part in push.payload]), push.work.sums.target_tokens))
        return absorb(push, *how)

    engine._servers.absorb = noted
    for report in engine.blocks():
        ages = [push.staleness for push in report.pushes]
        shares, tokens = [1 / (1 + age) for age in ages], [count for _, count in sums]
        moved = sum(share * gradient for share, (gradient, _) in zip(shares, sums)) / sum(tokens)
        theta = theta - RATE * moved
        np.testing.assert_allclose(parameters(engine), theta, atol=EXACT)
        assert report.learning_rate == pytest.approx(RATE * np.dot(shares, tokens) / sum(tokens), rel=EXACT)
        found.append(ages)
        sums.clear()
    assert found == [[0, 0], [1, 0], [2, 0]]
    run(plain)
    assert distance(engine, plain) > DIFFERENT


def test_a_stale_delta_is_shortened():
    row = DelayedNesterov(local_steps=2, outer_momentum=0.0, momentum_delay=1, staleness_exponent=1.0)
    ages = []
    for report, before, after, held in seen(in_turn(row)):
        (push,) = report.pushes
        delta = held["replica"] - held["pulled"]
        np.testing.assert_allclose(after, before + 0.7 / (1 + push.staleness) * delta, atol=EXACT)
        ages.append(push.staleness)
    assert ages == AGES


@pytest.mark.parametrize("pull_encoding", ["none", "int8"])
@pytest.mark.parametrize("row", [Async(), DelayedAsync(delay=2, local_optimizer_batches=0)], ids=["async", "delayed"])
def test_stale_gradients_are_compensated(row, pull_encoding):
    """g + λ g ⊙ g ⊙ (θ - w), with w as the worker has it; without a pull encoding also where it is not stale."""
    row, largest = changed(row, compensation_lambda=LAMBDA), 0.0
    for report, before, after, held in seen(in_turn(row, servers=2, pull_encoding=pull_encoding)):
        mean = held["gathered"] / report.target_tokens
        more = LAMBDA * mean**2 * (before - held["replica"]) * (report.pushes[0].staleness > 0)
        np.testing.assert_allclose(after, before - RATE * (mean + more), atol=EXACT)
        largest = max(largest, np.abs(more).max())
    assert largest > DIFFERENT


def test_gradients_are_compensated_before_they_are_summed():
    row = SummedAsync(summed_pushes=2, compensation_lambda=LAMBDA)
    script = [(0, PULLED), (1, PULLED), (2, PULLED), *((worker, ABSORBED) for worker in (0, 0, 1, 1, 2, 2))]
    engine, sums = simulated(row, BATCHES, workers=3, script=script, servers=2), []
    absorb, theta, largest = engine._servers.absorb, parameters(engine), 0.0

    def noted(push, *how):
        payload = np.concatenate([part.numpy() for part in push.payload[:2]])
        sums.append((payload, push.work.sums.target_tokens, engine.crew[push.worker].replica.parameters.numpy()))
        return absorb(push, *how)

    engine._servers.absorb = noted
    for report in engine.blocks():
        more = [LAMBDA * gradient**2 / tokens * (theta - pulled) for gradient, tokens, pulled in sums]
        whole = sum(gradient for gradient, _, _ in sums) + sum(more)
        theta = theta - RATE * whole / report.target_tokens
        np.testing.assert_allclose(parameters(engine), theta, atol=EXACT)
        largest = max(largest, np.abs(sum(more)).max())
        sums.clear()
    assert largest > DIFFERENT


def test_a_square_that_is_too_large_moves_nothing():
    """Only of what is stale: nothing of the rest is squared."""
    reports = run(in_turn(Async(compensation_lambda=1e308)))
    told = [push for report in reports for push in report.pushes if push.refused]
    assert told and all("not finite" in push.refused and push.staleness for push in told)
    assert len(told) < len(reports)


@pytest.mark.parametrize("name, limit, dropped", [*((name, 1, 1) for name in STALE), ("async", 0, 2), ("async", 2, 0)])
def test_what_is_too_old_is_dropped(name, limit, dropped):
    """It moves nothing and no update waits for it any less; its worker goes on behind it."""
    row = changed(
        ROWS[name],
        summed_pushes=1,
        push_every=2,
        pull_every=2,
        max_staleness=limit,
        slack=None,
        local_steps=2,
        delay_ramp_batches=0,
    )
    engine = in_turn(row)
    told: list[tuple[int, bool]] = []
    absorb = engine._servers.absorb

    def noted(push, *how):
        before = parameters(engine)
        report = absorb(push, *how)
        told.append((engine._servers.version - (report is not None) - push.version, report is not None))
        assert (report is None) == np.array_equal(parameters(engine), before)
        return report

    engine._servers.absorb = noted
    reports = run(engine)
    pushes = [push for report in reports for push in report.pushes]
    assert all((age > limit) != taken for age, taken in told)
    assert all(push.dropped == (push.refused is not None) == (push.staleness > limit) for push in pushes)
    assert len(told) == 9 and sum(not taken for _, taken in told[:3]) == dropped
    assert len(reports) == sum(taken for _, taken in told)
    steps = row.row(WORKERS, OptimizerSettings()).meetings.steps_per_push
    assert [worker["step"] for worker in engine.state().counters["workers"]] == [3 * steps] * WORKERS


def test_a_quorum_waits_for_payloads_that_count():
    script = [(0, PULLED), (1, PULLED), (2, PULLED), (0, ABSORBED), (0, ABSORBED), (1, ABSORBED), (2, ABSORBED)]
    engine = simulated(SummedAsync(summed_pushes=2, max_staleness=0), BATCHES, workers=3, script=script)
    assert [report.update for report in run(engine)] == [1]
    assert engine.state().counters["arrived"] == 0
    assert [worker["block"] for worker in engine.state().counters["workers"]] == [2, 1, 1]


def test_a_partial_sum_resumes_with_what_staleness_has_left_of_it():
    """The weights of both sides of the quotient are saved."""
    row = SummedAsync(summed_pushes=3, staleness_exponent=1.0)
    script = [(0, PULLED), (1, PULLED), *[(0, ABSORBED)] * 3, (1, ABSORBED), (0, ABSORBED)]
    first, second = simulated(row, BATCHES, workers=2, script=script), simulated(row, BATCHES, workers=2)
    assert len(run(first)) == 1
    counters = first.state().counters
    assert 0 < counters["weight"] < counters["whole_weight"]
    second.restore(first.state())
    (report,) = run(second, 1)
    own = report.target_tokens - counters["whole_weight"]
    assert report.learning_rate == pytest.approx(RATE * (counters["weight"] + own) / report.target_tokens, rel=EXACT)


def test_the_noise_scale_is_not_told_of_gradients_that_count_unequally():
    flags = [{}, {"staleness_exponent": 1.0}, {"compensation_lambda": 1.0}]
    engines = [simulated(SummedAsync(**each), BATCHES, workers=2, costs=CostSettings()) for each in flags]
    for engine in engines:
        run(engine, 3)
    assert [engine.state().counters["noise"]["updates"] for engine in engines] == [3, 0, 0]
