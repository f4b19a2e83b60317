"""Rounds that end without the workers that are late, on the simulated engine, each with its negative control."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import DIFFERENT, EXACT, SCHEDULE, gradient_of, parameters, run, simulated
from tests.engines.kill_tasks import EXACT_SUM, WORKERS, CountingModel, make_batches, wrongly_counted
from tests.engines.rows import ROWS
from tests.engines.test_payload_weights import noting
from tfnmt.engines.pace import Fate, QuorumPace
from tfnmt.engines.schedule import ABSORBED, PULLED, PUSHED, STEPPED, Fault
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.engines.worker import Push
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import ModelAverage, Sync

BATCHES = toy.make_batches(48)
RATE = 0.1
LATE = [(0, PULLED), (1, PULLED), (2, PULLED), (0, ABSORBED), (1, ABSORBED), (2, ABSORBED), (0, ABSORBED)]
"""Of three workers the third comes behind the first round; then the first has pushed in the second."""
UNEVEN = CostSettings(jitter=0.5, seconds_per_token=0.01, stragglers=("1:1.5",), server_seconds_per_byte=1e-4)
FAST = {"network_latency_seconds": 0.0, "network_bytes_per_second": 1e18}
JITTER = CostSettings(jitter=0.3, seconds_per_token=0.01, step_seconds=1.0)
FIRST_LATE = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("2:1.5",), **FAST)


def gradient(theta, *batches):
    """The mean gradient of the joined batches at θ, and their target tokens."""
    sums, tokens = zip(*(gradient_of(theta, each) for each in batches))
    return sum(sums) / sum(tokens), sum(tokens)


def with_quorum(row, quorum, seconds=0.0, **flags):
    return dataclasses.replace(row, quorum=quorum, quorum_grace_seconds=seconds, **flags)


def contents(engine):
    """All that a checkpoint would hold."""
    state = engine.state()
    return state.vectors, state.counters


@pytest.mark.parametrize(
    "name, quorum, seconds", [("sync", 3, 0.0), ("averaged_slots", 1, math.inf), ("by_speed", 1, math.inf)]
)
def test_without_anybody_who_may_be_late_it_is_the_barrier(name, quorum, seconds):
    """K = N, whatever the grace time, and K = 1 with one that does not end; but not K = 2 without any."""
    options = {"workers": 3, "costs": UNEVEN, "optimizer": "adam", "schedule": SCHEDULE, "dtype": tf.float32}
    options |= {"average_rate": 0.1, "clip_norm": 0.05, "learning_rate_law": "linear"}
    barrier = simulated(ROWS[name], BATCHES, **options)
    expected = run(barrier, 3)
    vectors, counters = contents(barrier)
    engine = simulated(with_quorum(ROWS[name], quorum, seconds), BATCHES, **options)
    reports = run(engine, 3)
    found, counted = contents(engine)
    assert {name: counted[name] for name in counters} == counters
    assert [each._replace(pushes=()) for each in reports] == [each._replace(pushes=()) for each in expected]
    for vector in vectors:
        np.testing.assert_array_equal(found[vector], vectors[vector], err_msg=vector)
    if name == "sync":
        hasty = simulated(with_quorum(ROWS[name], 2), BATCHES, **options)
        assert sum(each.seconds for each in run(hasty, 3)) < sum(each.seconds for each in expected)
        assert np.abs(parameters(hasty) - vectors["parameters"]).max() > DIFFERENT


@pytest.mark.parametrize("limit, exponent", [(None, 0.0), (None, 1.0), (0, 0.0)])
def test_an_update_is_the_mean_of_those_that_have_come(limit, exponent):
    """In NumPy: the first two of three; then the late one and a fresh one or, where it is dropped, two fresh ones."""
    row = with_quorum(Sync(), 2, max_staleness=limit, staleness_exponent=exponent)
    script = LATE if limit is None else [*LATE, (1, ABSORBED)]
    settings = {"learning_rate_law": "linear", "average_rate": 0.1}
    engine = simulated(row, BATCHES, workers=3, script=script, **settings)
    theta = parameters(engine)
    first, second = run(engine)

    mean, tokens = gradient(theta, BATCHES[0], BATCHES[1])
    moved = theta - 2 * RATE * mean  # the law counts two batches
    assert (first.target_tokens, first.learning_rate) == (tokens, pytest.approx(2 * RATE))
    if limit is None:
        (late, of_late), (fresh, of_fresh) = gradient(theta, BATCHES[2]), gradient(moved, BATCHES[3])
        share = 0.5**exponent
        mean = (share * of_late * late + of_fresh * fresh) / (share * of_late + of_fresh)
        tokens, left = of_late + of_fresh, (share * of_late + of_fresh) / (of_late + of_fresh)
    else:
        (mean, tokens), left = gradient(moved, BATCHES[3], BATCHES[4]), 1.0
    assert (second.target_tokens, second.learning_rate) == (tokens, pytest.approx(2 * RATE * left))
    np.testing.assert_allclose(parameters(engine), moved - 2 * RATE * left * mean, atol=EXACT)
    np.testing.assert_array_less(
        DIFFERENT, np.abs(parameters(engine) - (moved - 2 * RATE * gradient(moved, BATCHES[3])[0])).max()
    )

    told = [(push.worker, push.staleness, push.dropped) for push in second.pushes]
    assert told == ([(0, 0, False), (2, 1, False)] if limit is None else [(2, 1, True), (0, 0, False), (1, 0, False)])
    counters = engine.state().counters
    assert counters["steps"] == pytest.approx(2 * 2 / 3)  # the clock of averages and of local optimizers
    assert counters["noise"]["updates"] == (2 if not exponent else 0)
    assert [worker["block"] for worker in counters["workers"]] == ([2, 1, 1] if limit is None else [2, 2, 1])


def test_deltas_count_by_their_weights():
    """θ ← θ + Σ w Δ / Σ w over those that have come, with w = T · T / k."""
    row = with_quorum(ModelAverage(local_steps=2, payload_weights="tokens"), 2)
    blocks = [(worker, STEPPED) for worker in range(3) for _ in range(2)]
    engine = simulated(row, BATCHES, workers=3, script=[*LATE[:3], *blocks, *LATE[3:5]])
    theta, noted = parameters(engine), noting(engine)
    (report,) = run(engine)
    weights = [sums.target_tokens**2 / sums.steps for _, _, sums in noted]
    assert len(set(weights)) == 2
    expected = theta + sum(weight * delta for weight, (delta, _, _) in zip(weights, noted)) / sum(weights)
    np.testing.assert_allclose(parameters(engine), expected, atol=EXACT)
    assert report.target_tokens == sum(sums.target_tokens for _, _, sums in noted)
    assert np.abs(expected - theta - np.mean([delta for delta, _, _ in noted], axis=0)).max() > DIFFERENT


@pytest.mark.parametrize(
    "quorum, seconds, ends",
    [
        (3, 0.0, [1.5, 3.0, 4.5]),  # the barrier
        (2, 0.0, [1.0, 2.0, 3.0]),
        (2, 0.25, [1.25, 2.25, 3.5]),  # the third is late, and then in step again
        (2, 0.75, [1.5, 3.0, 4.5]),
        (1, 0.25, [1.25, 1.75, 2.5]),
    ],
)
def test_a_round_lasts_until_the_quorum_and_the_grace_time(quorum, seconds, ends):
    engine = simulated(with_quorum(Sync(), quorum, seconds), BATCHES, workers=3, costs=FIRST_LATE)
    durations = [report.seconds for report in run(engine, 3)]
    assert np.cumsum(durations) == pytest.approx(ends)


def test_workers_that_came_in_time_wait_for_the_others_and_then_for_the_servers():
    """Of 1.75 s, one computes for one: what it has waited for stands with its next push."""
    costs = dataclasses.replace(FIRST_LATE, server_seconds_per_byte=0.5 / (8 * toy.layout().size))
    engine = simulated(with_quorum(Sync(), 2, 0.25), BATCHES, workers=3, costs=costs)
    reports = run(engine, 3)
    assert [report.seconds for report in reports] == pytest.approx([1.75, 1.5, 1.75])
    waits = [(push.compute_seconds, push.wait_seconds, push.server_seconds) for push in reports[1].pushes]
    assert waits == [pytest.approx((1.0, 0.25, 0.5))] * 2 + [pytest.approx((1.5, 0.0, 0.0))]


@pytest.mark.parametrize("quorum, seconds", [(None, 106.0), (2, 9.0)])
def test_nobody_waits_for_a_worker_that_is_down(quorum, seconds):
    """Not even for the grace time; where it waits for all, the barrier stands still until the worker is back."""
    row = Sync() if quorum is None else with_quorum(Sync(), quorum, 50.0)
    faults = [Fault(2, 3, PUSHED, seconds=100.0)]
    engine = simulated(row, BATCHES, workers=3, costs=dataclasses.replace(FIRST_LATE, stragglers=()), faults=faults)
    reports = run(engine, 5 if quorum is None else 9)
    assert sum(report.seconds for report in reports) == pytest.approx(seconds)
    came = [len(report.pushes) for report in reports]
    assert came == ([3] * 5 if quorum is None else [3, 3, *[2] * 7])


@pytest.mark.parametrize("limit", [None, 0])
def test_every_batch_counts_once_that_is_not_dropped(limit):
    """Also of a worker that dies and is done again, and behind a resume with somebody late."""
    slow = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("1:2.5",))
    options = {"workers": WORKERS, "model": CountingModel(), "costs": slow, **EXACT_SUM}
    row = with_quorum(Sync(), 1, max_staleness=limit)
    first = simulated(row, make_batches, faults=[Fault(1, 2, STEPPED)], **options)
    reports = run(first, 9)
    state = first.state()
    second = simulated(row, make_batches, **options)
    second.restore(state)
    reports += run(second, 8)
    pushes = [push for report in reports for push in report.pushes]
    dropped = sum(push.dropped for push in pushes)
    assert not any(push.refused for push in pushes if not push.dropped)
    assert max(push.staleness for push in pushes) >= 2
    assert len(wrongly_counted(second.state())) == dropped
    assert (dropped > 2) == (limit == 0)
    counted = sum(push.target_tokens for push in pushes if not push.dropped)
    assert counted == sum(report.target_tokens for report in reports)


def test_a_late_block_is_done_anew_from_the_parameters_of_the_state():
    """In NumPy: its batch counts once, in step with the others, and not from what it had pulled before."""
    row = with_quorum(Sync(), 2)
    first = simulated(row, BATCHES, workers=3, script=LATE[:5])
    theta = parameters(first)
    run(first)
    state = first.state()
    assert [worker["block"] for worker in state.counters["workers"]] == [1, 1, 0]
    again = [(0, PULLED), (2, PULLED), (0, ABSORBED), (2, ABSORBED)]
    second = simulated(row, BATCHES, workers=3, script=again)
    second.restore(state)
    (report,) = run(second)
    moved = state.vectors["parameters"]
    assert [(push.worker, push.staleness) for push in report.pushes] == [(0, 0), (2, 0)]
    mean, tokens = gradient(moved, BATCHES[2], BATCHES[3])
    assert report.target_tokens == tokens
    np.testing.assert_allclose(parameters(second), moved - RATE * mean, atol=EXACT)
    (late, of_late), (fresh, of_fresh) = gradient(theta, BATCHES[2]), gradient(moved, BATCHES[3])
    uninterrupted = moved - RATE * (of_late * late + of_fresh * fresh) / (of_late + of_fresh)
    assert np.abs(parameters(second) - uninterrupted).max() > DIFFERENT


def test_resume_is_exact_behind_an_update_for_which_nobody_is_late():
    """Bit for bit, though others were late before. Behind another one, the late worker's block is done anew."""
    row = with_quorum(ModelAverage(local_steps=2), 2, 0.5)
    options = {"workers": 3, "costs": JITTER, "optimizer": "adam", "average_rate": 0.1, "dtype": tf.float32}
    whole, states, late = simulated(row, BATCHES, **options), [], []
    blocks = whole.blocks()
    for _ in range(8):
        next(blocks)
        states.append(whole.state())
        late.append(any(worker._work for worker in whole.crew))
    first = late.index(True)
    expected = states[-1].vectors
    for number in (first, late.index(False, first)):
        engine = simulated(row, BATCHES, **options)
        engine.restore(states[number])
        run(engine, 7 - number)
        vectors = engine.state().vectors
        assert all(np.array_equal(vectors[name], expected[name]) for name in expected) == (not late[number])


def test_a_skipped_update_ends_its_round():
    """Whatever was not finite; the late payload belongs to the next one."""
    row = with_quorum(Sync(), 2)
    engine = simulated(row, BATCHES, workers=3, script=LATE, model=toy.PoisonedModel(0))
    reports = run(engine)
    assert [len(report.pushes) for report in reports] == [2, 2]
    everything = simulated(row, BATCHES[:1] * 3, workers=3, script=LATE, model=toy.PoisonedModel(0))
    theta = parameters(everything)
    reports = run(everything)
    assert [report.skipped is not None for report in reports] == [True, True]
    np.testing.assert_array_equal(parameters(everything), theta)


def test_words_say_for_whom_an_update_waits():
    words = with_quorum(Sync(), 2, 0.5).row(3, OptimizerSettings()).describe()
    assert words == "3 gradient sums of 1 step; all wait for 2, and at most 0.5 s longer for the others"


class TestPace:
    """Who may go on, without any training; `seconds` is the grace time."""

    def pace(self, least=2, seconds=5.0, most_rounds=None):
        pace = QuorumPace(3, least, seconds, most_rounds)
        for worker in range(3):
            pace.begin(worker)
        return pace

    def arrive(self, pace, worker, now=0.0, absorbed=True):
        ready = pace.arrive(Push(worker, 1, 1, 0, 1, (), None), now)
        return self.absorb(pace, ready) if absorbed else ready

    def absorb(self, pace, ready):
        for each in ready:
            pace.absorb(each.push)
        return [(each.push.worker, each.fate) for each in ready]

    def test_a_round_ends_with_everybody_or_when_it_is_due(self):
        pace = self.pace()
        assert self.arrive(pace, 2, now=1.0) == [] and pace.due == math.inf
        assert self.arrive(pace, 0, now=2.0) == [] and pace.due == 7.0
        assert pace.end_round(6.9) == []
        assert [pace.may_begin(worker) for worker in range(3)] == [False, True, False]
        assert self.absorb(pace, pace.end_round(7.0)) == [(0, Fate.TAKEN), (2, Fate.ENDS_ROUND)]
        assert pace.due == math.inf and pace.end_round(99.0) == []
        for worker in (0, 2):
            pace.begin(worker)
        assert self.arrive(pace, 1) == [] and self.arrive(pace, 0) == []
        assert [worker for worker, _ in self.arrive(pace, 2)] == [0, 1, 2]

    def test_what_is_too_late_is_told_at_once(self):
        pace = self.pace(seconds=0.0, most_rounds=0)
        assert self.arrive(pace, 0) == [] and len(self.arrive(pace, 1)) == 2
        assert self.arrive(pace, 2) == [(2, Fate.TOO_LATE)]
        assert pace.may_begin(2)
        pace.begin(2)
        assert self.arrive(pace, 2) == []
        assert not pace.may_begin(2)

    def test_nobody_begins_while_the_servers_move(self):
        pace = self.pace(seconds=0.0)
        self.arrive(pace, 0)
        ready = self.arrive(pace, 1, absorbed=False)
        assert not any(map(pace.may_begin, range(3)))
        self.absorb(pace, ready)
        assert all(map(pace.may_begin, range(3)))

    def test_who_is_down_is_not_waited_for_but_where_too_few_are_left(self):
        pace = self.pace()
        assert not pace.needs_stand_ins()
        pace.lose(2)
        self.arrive(pace, 0)
        assert not pace.needs_stand_ins()
        assert [worker for worker, _ in self.arrive(pace, 1)] == [0, 1]
        pace.lose(1)
        assert pace.needs_stand_ins()
        pace.regain(2)
        pace.begin(0), pace.begin(2)
        assert not pace.needs_stand_ins()
        self.arrive(pace, 0)
        assert [worker for worker, _ in self.arrive(pace, 2)] == [0, 2]
