"""What tools/validate_costs makes of measurements: what the cost model itself has made is predicted exactly."""

import pytest

from tfnmt.engines.virtual_time import CostSettings
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.planning import ranking
from tfnmt.planning.goal import token_excess
from tfnmt.planning.prediction import predict
from tfnmt.planning.probe import Probe
from tools.costs import ALONE, CALIBRATION, CELLS, STRAGGLING, Measured, Report

CRITICAL = 1500.0
TRUTH = Probe("", 250_000, 1000, 0.0, 0.0003, 1e-8, 0.02, table_rows=0, table_width=0)


def measured(cell):
    """As if the truth had been measured, on links that reach nine tenths of what they are called."""
    network = CostSettings(
        network_bytes_per_second=0.9 * cell.bytes_per_second,
        jitter=0.0,
        stragglers=(f"0:{STRAGGLING}",) if cell.straggler else (),
    )
    candidate = cell.candidate()
    columns = candidate.columns(OptimizerSettings())
    speed = predict(columns, ranking.costs_of(candidate, columns, TRUTH, network), cell.workers, TRUTH.batch_tokens)
    goal_tokens = 30_000 * token_excess(columns, cell.workers, TRUTH.batch_tokens, CRITICAL)
    return Measured(
        seconds=100.0,
        target_tokens=round(100 * speed.tokens_per_second),
        batch_tokens=TRUTH.batch_tokens,
        computing_share=speed.computing_share,
        jitter=0.0,
        server_share=TRUTH.server_seconds_per_byte * 4 * TRUTH.parameters / speed.step_seconds,
        vector_bytes=4 * TRUTH.parameters,
        bytes_per_second=network.network_bytes_per_second,
        latency_seconds=network.network_latency_seconds,
        start_tokens=5_000,
        goal_tokens=goal_tokens,
        goal_seconds=(goal_tokens - 5_000) / speed.tokens_per_second,
    )


@pytest.fixture(name="found", scope="module")
def _found():
    return {cell: measured(cell) for cell in CELLS}


def test_the_calibration_finds_the_truth_and_so_every_prediction_is_right(found):
    report = Report.of(found)
    for name in ("batch_tokens", "parameters", "step_seconds", "seconds_per_token", "meeting_seconds"):
        assert getattr(report.probe, name) == pytest.approx(getattr(TRUTH, name), rel=1e-3), name
    assert report.mean_error() < 1e-3
    assert report.kendall() == 1.0
    assert report.regrets() == [0.0] * len(report.by_machines())
    assert CALIBRATION not in {each.cell for each in report.cells}


def test_a_single_cell_has_no_rank(found):
    text = Report.of({cell: found[cell] for cell in (CALIBRATION, CELLS[0])}).text()
    assert "at worst" in text and "Rank" not in text


def test_a_cell_that_is_not_as_predicted_is_an_error_of_its_own_size(found):
    """The negative control, and rows in another order disagree."""
    rivals = [cell for cell in CELLS if cell.machines == CALIBRATION.machines and cell != CALIBRATION]
    slowest = min(rivals, key=lambda cell: found[cell].tokens_per_second)
    changed = {**found, slowest: found[slowest]._replace(seconds=1.0)}
    report = Report.of(changed)
    assert report.worst().cell == slowest
    assert report.worst().error == pytest.approx(99, rel=1e-3)
    assert report.kendall() < 1
    assert max(report.regrets()) > 1
    assert f"{slowest.strategy} | {slowest.workers} | 1000" in report.text()


def test_the_time_to_a_cross_entropy_follows_from_two_cells(found):
    """One worker alone and the calibration say B*; no other cell is looked at. The control needs twice the tokens."""
    report = Report.of(found)
    assert report.critical_tokens == pytest.approx(CRITICAL, rel=1e-3)
    told = [each.cell for each in report.cells if each.goal_error is not None]
    assert told == [cell for cell in CELLS if cell not in (ALONE, CALIBRATION)]
    assert max(map(abs, report.goal_errors())) < 2e-3
    assert "critical batch 1,500 target tokens" in report.text()
    cell = told[0]
    late = found[cell]._replace(goal_seconds=2 * found[cell].goal_seconds, goal_tokens=1.0)
    assert Report.of({**found, cell: late}).goal_errors()[0] == pytest.approx(-0.5, abs=1e-3)


def test_without_a_wanted_cross_entropy_no_time_to_it_is_told(found):
    plain = {cell: each._replace(goal_tokens=None, goal_seconds=None) for cell, each in found.items()}
    report = Report.of(plain)
    assert report.goal_errors() == [] and report.critical_tokens is None
    assert "cross entropy" not in report.text()
