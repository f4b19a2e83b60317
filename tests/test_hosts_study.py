"""What tools/hosts_study makes of trainings: when they come to a BLEU, against the soonest of one worker."""

import pytest

from tools.hosts_report import Curve, Target, Training, baseline, picture, shares, table

ALONE, LATE, TWO, NEVER = (Training(f"{name}.flags", workers, 30.0) for name, workers in zip("altn", (1, 1, 2, 2)))
FOUND = {
    ALONE: Curve([1.0, 2.0, 2.5], [100, 200, 300], [5.0, 10.0, 20.0], [4.0, 3.0, 2.0], 1000.0, 0.9, 0.0),
    LATE: Curve([1.0, 2.0, 4.0], [100, 200, 400], [5.0, 10.0, 30.0], [4.0, 3.0, 1.0], 1500.0, 0.9, 0.0),
    TWO: Curve([0.5, 1.0], [100, 200], [10.0, 20.0], [3.0, 2.0], 1600.0, 0.8, 2.5),
    NEVER: Curve([9.0], [100], [4.0], [5.0], 100.0, 0.1, 9.0),
}


def bleu(value):
    return Target("bleu", value)


def cells(text):
    """The cells of a table by row and heading; of two columns of one name, the later."""
    heading, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return {row[0]: dict(zip(heading, row)) for row in rows}


def test_a_bleu_between_two_evaluations_is_reached_between_them():
    assert FOUND[ALONE].at(bleu(15.0)) == (2.25, 250.0)
    assert FOUND[ALONE].at(bleu(5.0)) == (1.0, 100.0)
    assert FOUND[NEVER].at(bleu(5.0)) is None


def test_a_cross_entropy_is_reached_from_above():
    assert FOUND[ALONE].at(Target("cross_entropy", 3.5)) == (1.5, 150.0)
    assert FOUND[NEVER].at(Target("cross_entropy", 4.5)) is None
    assert "minutes to cross entropy 3.5" in table(FOUND, Target("cross_entropy", 3.5), [0.3])


def test_others_are_compared_with_the_soonest_training_of_one_worker():
    assert baseline(FOUND, bleu(20.0)) is FOUND[ALONE] and baseline(FOUND, bleu(25.0)) is FOUND[LATE]
    rows = cells(table(FOUND, bleu(15.0), [0.3]))
    assert rows["a"]["times as soon"] == "1.00"
    assert rows["t"]["minutes to BLEU 15"] == "45.0" and rows["t"]["times as soon"] == "3.00"
    assert rows["t"]["of workers alone"] == "1.50"
    assert rows["n"]["minutes to BLEU 15"] == "not there" and rows["n"]["last BLEU"] == "4.00"


def test_unequal_workers_are_as_many_as_their_shares_of_a_core():
    """The one that is alone has the first share, the second of two half of it: both are worth one and a half."""
    assert shares([0.5, 0.25], 1) == [0.5] and shares([0.5, 0.25], 2) == [0.5, 0.25] and shares([0.3], 2) == [0.3, 0.3]
    rows = cells(table(FOUND, bleu(15.0), [0.5, 0.25]))
    assert (
        rows["t"]["times as soon"] == "3.00" and rows["t"]["of workers alone"] == "2.00" and rows["t"]["workers"] == "2"
    )


def test_a_curve_begins_behind_the_start():
    def point(update, hours, tokens, **more):
        return {"update": update, "training_hours": hours, "target_tokens": tokens, **more}

    points = [point(n, n / 10, 360 * n, compute_share=0.25 * n, bytes_pushed=720) for n in (1, 2, 4)]
    evaluations = [point(n, n / 10, 360 * n, bleu=float(n), cross_entropy=1.0) for n in (1, 3)]
    curve = Curve.of(points, evaluations, points[0])
    assert curve.hours == pytest.approx([0.2]) and curve.tokens == [1080] and curve.bleu == [3.0]
    assert curve.tokens_per_second == pytest.approx(1.0)
    assert curve.computing_share == pytest.approx((0.5 + 2 * 1.0) / 3)
    assert curve.bytes_pushed == pytest.approx(2 * 720 / 1080)


@pytest.mark.parametrize("word", ["a.flags", "a.flags:0", "a.flags:two", "a.flags:2:0", "a.flags:2:30:4"])
def test_a_training_is_a_flagfile_workers_and_a_link(word):
    with pytest.raises(ValueError):
        Training.of(word)
    assert Training.of("rows/sync.flags:4:30").name == "sync-4-30mbit" and Training.of("sync.flags:1").megabits == 0


def test_the_picture_has_every_training():
    assert [line.get_label() for line in picture(FOUND, bleu(15.0)).axes[0].lines][:4] == [each.name for each in FOUND]
