"""What tools/fault_study makes of updates and faults; and its faults, which nobody else may have."""

import itertools

import pytest

from tools.faults import CUT, KILL, KINDS, SLOW, STOP, Fault, Update, outcome, schedule


def updates(dead=(), seconds=100, workers=4):
    """One a second, of 10 tokens of each worker that does not push in `dead`, as (worker, from, to)."""
    tokens, found = 0, []
    for at in range(seconds + 1):
        pushed = frozenset(w for w in range(workers) if not any(w == d and a <= at < b for d, a, b in dead))
        tokens += 10 * len(pushed) if at else 0
        found.append(Update(float(at), tokens, pushed))
    return found


@pytest.mark.parametrize("kind", [STOP, CUT])
def test_the_others_lose_nothing(kind):
    found = outcome(updates([(1, 20, 30)]), [Fault(kind, 1, 20.0, 30.0)], 4, 40.0)
    assert found.goodput == pytest.approx(1.0) and found.living == pytest.approx(0.975)
    assert list(found.back.values()) == [0.0] and found.longest_gap == 1.0


def test_who_is_killed_does_not_live_until_it_pushes():
    fault = Fault(KILL, 2, 20.0, 20.0)
    found = outcome(updates([(2, 22, 32)]), [fault], 4, 40.0)  # two seconds longer, what it had pushed arrives
    assert found.back == {fault: 12.0} and found.living == pytest.approx(0.97)


def test_who_is_slow_lives():
    """And what it loses is lost; the negative control of the others."""
    found = outcome(updates([(0, 20, 40)]), [Fault(SLOW, 0, 20.0, 40.0)], 4, 40.0)
    assert found.living == 1.0 and found.goodput == pytest.approx(0.95)


def test_when_all_stand_still_the_living_lose():
    still = [*updates(seconds=40), *(each._replace(at=each.at + 60) for each in updates(seconds=40))]
    second = [each._replace(target_tokens=each.target_tokens + 1600) for each in still[41:]]
    found = outcome([*still[:41], *second], [Fault(STOP, 3, 40.0, 60.0)], 4, 40.0)
    assert found.goodput == pytest.approx(0.8 / 0.95) and found.longest_gap == 20.0


def test_schedules_leave_one_alive_and_repeat_themselves():
    faults = [*schedule(3, 1000.0, 2.0, workers=2, kinds=list(KINDS))]
    assert {fault.kind for fault in faults} == set(KINDS)
    assert faults == [*schedule(3, 1000.0, 2.0, workers=2, kinds=list(KINDS))]
    assert faults != [*schedule(4, 1000.0, 2.0, workers=2, kinds=list(KINDS))]
    gaps = [other.began - one.began for one, other in itertools.pairwise(faults)]
    assert min(gaps) >= max(fault.ended - fault.began for fault in faults) > 10
