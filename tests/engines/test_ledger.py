"""The ledger: at most once, progress, sums and clocks, without a graph."""

import json

import pytest

from graphs.work import NO_SUMS, Work
from tfnmt.engines.ledger import Ledger
from tfnmt.engines.noise_scale import NoiseScale
from tfnmt.engines.report import Waits
from tfnmt.engines.worker import Progress, Push


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(name="clock")
def _clock():
    return Clock()


@pytest.fixture(name="ledger")
def _ledger(clock):
    return Ledger(2, clock)


def push(worker, block, step, version=0, epoch=0, **sums):
    counted = NO_SUMS._replace(**{"target_tokens": 10.0, "steps": 1.0, "batches": 1.0, **sums})
    return Push(worker, block, step, version, 1, [], Work(counted, -1, version, 0.0, (epoch, 0, step)))


def take(ledger, pushed, refused=None, wait=0.0):
    ledger.count(pushed, Waits(wait), refused, (8, 4))


def report(ledger, applied=True):
    numbers = {"epoch": 0, "gradient_norm": 1.0, "learning_rate": 0.1, "momentum_norm": None}
    return ledger.report(ledger.close(applied), applied, **numbers)


def test_nobody_has_done_anything_at_first(ledger):
    nothing = {"version": 0, "steps": 0.0, "phase_began": 0, "arrived": 0, "sums": NO_SUMS}
    nothing |= {"weight": 0.0, "whole_weight": 0.0, "unit": 0.0, "speeds": []}
    nothing["noise"] = NoiseScale()._asdict()
    assert ledger.counters() == {**nothing, "workers": [{"block": 0, "step": 0, "position": None}] * 2}


def test_a_push_is_a_duplicate_until_a_later_block(ledger):
    assert not ledger.is_duplicate(push(0, 1, 1))
    take(ledger, push(0, 1, 1))
    assert ledger.is_duplicate(push(0, 1, 1))
    assert not ledger.is_duplicate(push(0, 2, 2))
    assert not ledger.is_duplicate(push(1, 1, 1))


def test_sums_are_those_of_what_counts(ledger):
    take(ledger, push(0, 1, 1, loss=3.0))
    take(ledger, push(1, 1, 1, loss=float("nan")), refused="not finite")
    assert (ledger.arrived, ledger.sums.loss, ledger.sums.target_tokens, ledger.mean_steps()) == (2, 3.0, 10.0, 0.5)
    assert ledger.progress == [Progress(1, 1, (0, 0, 1))] * 2  # what was refused is not done again
    found = report(ledger)
    assert (found.update, found.loss, found.target_tokens, found.skipped) == (1, 3.0, 10, None)
    assert [each.refused for each in found.pushes] == [None, "not finite"]
    assert not found.is_virtual
    assert (ledger.version, ledger.steps, ledger.arrived, ledger.sums) == (1, 0.5, 0, NO_SUMS)


def test_an_update_that_was_not_applied_moves_no_clock(ledger):
    take(ledger, push(0, 1, 1), refused="it was bad")
    found = report(ledger, applied=False)
    assert (found.update, found.skipped) == (0, "it was bad")
    assert (ledger.version, ledger.steps) == (0, 0.0)
    take(ledger, push(0, 2, 2))
    assert report(ledger, applied=False).skipped == "the gradient's norm was not finite"  # of their sum


def test_a_duplicate_is_told_of_and_not_counted(ledger):
    take(ledger, push(0, 1, 1))
    ledger.note(push(0, 1, 1), Waits(), "it was a duplicate", (8, 4))
    assert ledger.arrived == 1
    assert [each.refused for each in report(ledger).pushes] == [None, "it was a duplicate"]


def test_what_is_dropped_has_come_and_no_update_counts_it(ledger):
    take(ledger, push(0, 1, 1))
    ledger.drop(push(1, 1, 1), Waits(), (8, 4))
    assert ledger.progress == [Progress(1, 1, (0, 0, 1))] * 2
    assert (ledger.arrived, ledger.sums.target_tokens) == (1, 10.0)
    found = report(ledger, applied=False)
    assert [each.dropped for each in found.pushes] == [False, True]
    assert "old" not in found.skipped


def test_the_share_that_counts_is_of_the_weight_of_what_counts(ledger):
    assert ledger.mean_share() == 1.0
    for number, (weight, share) in enumerate([(3.0, 1.0), (6.0, 0.5)]):
        ledger.count(push(number, 1, 1), Waits(), None, (8, 4), weight=weight, share=share)
    ledger.count(push(0, 2, 2), Waits(), "it was bad", (8, 4), weight=99.0, share=0.1)
    same = Ledger(2, lambda: 0.0)
    same.restore(json.loads(json.dumps(ledger.counters())), phase_began=0)
    assert same.mean_share() == ledger.mean_share() == 6 / 9
    report(ledger)
    assert ledger.mean_share() == 1.0


def test_seconds_leave_out_a_pause(ledger, clock):
    clock.now = 3.0
    take(ledger, push(0, 1, 1))
    assert report(ledger).seconds == 3.0
    clock.now = 10.0
    ledger.restart_clock()
    clock.now = 12.0
    take(ledger, push(0, 2, 2), wait=9.0)
    found = report(ledger)
    assert (found.seconds, found.pushes[0].seconds) == (2.0, 2.0)
    assert found.pushes[0].wait_seconds == 2.0  # no more than the time that the push took


def test_waits_for_data_are_the_mean_of_the_workers_and_no_more_than_the_time(ledger, clock):
    clock.now = 1.0
    take(ledger, push(0, 1, 1, data_wait_seconds=1.0))
    assert report(ledger).data_wait_seconds == 0.5
    clock.now = 2.0
    take(ledger, push(0, 2, 2, data_wait_seconds=8.0))
    assert report(ledger).data_wait_seconds == 1.0


def test_staleness_counts_the_versions_since_the_pull(ledger):
    for block in (1, 2, 3):
        take(ledger, push(0, block, block, version=block - 1))
        report(ledger)
    take(ledger, push(1, 1, 1, version=0))
    assert report(ledger).pushes[0].staleness == 3


def test_a_phase_begins_with_the_steps_that_were_done(ledger):
    take(ledger, push(0, 1, 5))
    ledger.begin_phase()
    assert ledger.phase_began == 5


def test_the_noise_scale_is_of_gradients_that_count_and_of_the_row_that_trains_now(ledger):
    """Two of 10 tokens, |g_b|² = 2 and |g_B|² = 1.5: |G|² = 1, S = 10."""

    def told(**changed):
        for worker in range(2):
            take(ledger, push(worker, 1, 1, squares=200.0, squared_tokens=100.0))
        take(ledger, push(0, 2, 2, squares=9.0, squared_tokens=9.0), refused="it was bad")
        ledger.close(**{"applied": True, "gradient_norm": 1.5**0.5, **changed})
        return report(ledger).noise_scale_tokens

    assert [told() for _ in range(10)] == [None] * 9 + [pytest.approx(10.0)]
    assert told(applied=False, gradient_norm=9.0) == told(gradient_norm=None) == pytest.approx(10.0)
    ledger.begin_phase()
    assert told() is None


def test_all_go_by_the_speeds_behind_the_last_update(ledger, clock):
    """Whoever has done its next block already; of other numbers of workers nothing is known."""
    ledger.begin_phase(by_speed=True)
    for worker, seconds in ((0, 1.0), (1, 4.0)):
        take(ledger, push(worker, 1, 8, steps=8.0, step_seconds=seconds))
        assert ledger.steps_of(1, most=8) == 8
    report(ledger)
    take(ledger, push(0, 2, 16, steps=8.0, step_seconds=9.0))
    assert [ledger.steps_of(worker, most=8) for worker in range(2)] == [8, 2]
    for workers, steps in ((2, 5), (3, 8)):
        other = Ledger(workers, clock)
        other.begin_phase(by_speed=True)
        other.restore(json.loads(json.dumps(ledger.counters())), phase_began=0)
        assert other.steps_of(0, most=8) == steps  # 12 steps in 9.5 s, and 8 in 4 s
    ledger.begin_phase()
    assert ledger.steps_of(1, most=8) == 8
    assert ledger.counters()["speeds"] == []


def test_counters_are_taken_up(ledger, clock):
    for block in (1, 2):
        take(ledger, push(0, block, block, squares=60.0, squared_tokens=50.0))
        ledger.close(True, 1.0)
    take(ledger, push(1, 1, 1))
    same = Ledger(2, clock)
    same.restore(json.loads(json.dumps(ledger.counters())), phase_began=99)
    assert same.counters() == ledger.counters()
    assert ledger.counters()["noise"]["updates"] == 2
    assert same.is_duplicate(push(1, 1, 1))


def test_counters_of_version_0_1_are_taken_up(ledger, clock):
    """Steps were those of the worker that had come farthest; batches were not counted."""
    take(ledger, push(0, 1, 5))
    old = {name: value for name, value in ledger.counters().items() if name not in ("steps", "phase_began")}
    same = Ledger(2, clock)
    same.restore({**old, "sums": old["sums"][:9]}, phase_began=3)
    assert same.counters() == {**old, "steps": 5.0, "phase_began": 3, "sums": old["sums"]._replace(batches=0.0)}


def test_other_numbers_of_workers_begin_the_next_epoch_together(ledger, clock):
    take(ledger, push(0, 4, 7, epoch=2))
    take(ledger, push(1, 3, 6, epoch=1))
    other = Ledger(3, clock)
    other.restore(ledger.counters(), phase_began=0)
    assert other.progress == [Progress(0, 7, (3, 0, -1))] * 3
