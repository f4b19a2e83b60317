"""Meetings, and what the columns of the rows say about themselves."""

import doctest
import importlib

import pytest

from graphs.actions import PULL, PUSH, WHOLE, Meeting, Steps
from graphs.work import NO_SUMS
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import STRATEGIES, Async, DelayedAsync, Downpour, Meetings, ModelAverage, Strategy, Sync
from tfnmt.strategies.delayed_nesterov import DelayedNesterov
from tfnmt.strategies.exchanges import GradientSum, ParameterDelta, StepSum


@pytest.mark.parametrize(
    "pull, push, blocks",
    [
        (1, 1, [(Meeting(PULL), Steps(1, True), Meeting(PUSH))]),
        (3, 3, [(Meeting(PULL), Steps(3, True), Meeting(PUSH))]),
        (4, 2, [(Meeting(PULL), Steps(2, True), Meeting(PUSH)), (Steps(2, True), Meeting(PUSH))]),
        (2, 4, [(Meeting(PULL), Steps(2, True), Meeting(PULL), Steps(2, False), Meeting(PUSH))]),
        (
            3,
            2,
            [
                (Meeting(PULL), Steps(2, True), Meeting(PUSH)),
                (Steps(1, True), Meeting(PULL), Steps(1, False), Meeting(PUSH)),
                (Steps(2, True), Meeting(PUSH)),
            ],
        ),
    ],
)
def test_a_program_is_cut_behind_every_push(pull, push, blocks):
    assert Meetings.every(pull, push).blocks == tuple(blocks)


def test_a_worker_that_holds_nothing_begins_with_what_the_servers_hold():
    row = STRATEGIES["elastic"](local_steps=2).row(2, OptimizerSettings())
    assert row.beginning(row.program()[0]) == (Meeting(WHOLE), Steps(2, True), Meeting(PULL), Meeting(PUSH))
    plain = Async().row(2, OptimizerSettings())
    assert plain.beginning(plain.program()[0]) == plain.program()[0]


@pytest.mark.parametrize(
    "row, batches, words",
    [
        (ModelAverage(local_steps=5), 4, "4 parameter deltas of 5 steps; all wait for all"),
        (Downpour(push_every=5), 1, "1 sum of mean gradients of 5 steps; nobody waits"),
        (Downpour(push_every=2, pull_every=6), 1, "1 sum of mean gradients of 2 steps; nobody waits"),
        (Async(slack=2), 1, "1 gradient sum of 1 step; at most 2 blocks ahead"),
        (DelayedAsync(delay=3, delay_ramp_batches=9), 3, "1 gradient sum of up to 3 steps; nobody waits"),
        (DelayedNesterov(local_steps=5), 4, "1 parameter delta of 5 steps; nobody waits"),
        (DelayedNesterov(momentum_delay=3), 3, "1 parameter delta of 50 steps; nobody waits"),
    ],
)
def test_what_a_row_says(row, batches, words):
    found = row.row(4, OptimizerSettings())
    assert (found.law_factor, found.describe()) == (batches, words)


@pytest.mark.parametrize("delay, batches, refused", [(1, 9, True), (1, 0, False), (2, 1, False)])
def test_a_delay_of_one_has_no_ramp(delay, batches, refused):
    fault = "--delay_ramp_batches: no delay is less than --delay=1; leave it out."
    assert DelayedAsync(delay=delay, delay_ramp_batches=batches).faults() == [fault] * refused


@pytest.mark.parametrize("rate, moves", [(0.5, True), (0.0, False)])
def test_without_a_local_rate_replicas_stay_as_they_were_pulled(rate, moves):
    row = Downpour(local_rate=rate).row(2, OptimizerSettings())
    assert (row.local_update is not None) is moves


@pytest.mark.parametrize(
    "row, steps, at_once",
    [
        (Sync(), 4, True),
        (Async(), 1, True),
        (DelayedAsync(delay=2), 2, False),
        (ModelAverage(local_steps=1), 4, False),
        (ModelAverage(local_steps=3), 12, False),
    ],
)
def test_steps_of_an_update_and_pushes_of_gradients(row, steps, at_once):
    found = row.row(4, OptimizerSettings())
    assert (found.steps_per_update, found.pushes_gradients_at_once) == (steps, at_once)


@pytest.mark.parametrize(
    "exchange, weight",
    [(GradientSum(), 30.0), (StepSum(), 1.0), (ParameterDelta(), 1.0)],
    ids=["sum", "steps", "delta"],
)
def test_weights(exchange, weight):
    """What was refused as a whole weighs nothing."""
    sums = NO_SUMS._replace(target_tokens=30.0, steps=3.0, batches=6.0, refused=1.0)
    assert float(exchange.weight(sums)) == weight
    assert float(exchange.weight(NO_SUMS._replace(steps=3.0, refused=3.0))) == 0.0


def test_laws_go_by_what_a_gradient_is_averaged_over():
    sums = NO_SUMS._replace(target_tokens=30.0, steps=3.0, batches=6.0)
    assert GradientSum().averaged(sums) == (30.0, 6.0)
    assert StepSum().averaged(sums) == (10.0, 2.0)
    assert StepSum().averaged(sums._replace(steps=1.0)) == (30.0, 6.0)
    assert StepSum().averaged(NO_SUMS) == (0.0, 0.0)


def test_every_name_of_the_table_makes_a_row():
    for settings in STRATEGIES.values():
        assert isinstance(settings().row(1, OptimizerSettings()), Strategy)


@pytest.mark.parametrize("module", ["exchanges", "row", "elastic", "streaming", "delayed_nesterov"])
def test_examples(module):
    found = doctest.testmod(importlib.import_module(f"tfnmt.strategies.{module}"))
    assert found.attempted and not found.failed
