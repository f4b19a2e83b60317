"""What is advised by the first updates of a run is what its machines would make of the other row."""

import dataclasses
import itertools

import pytest

from tfnmt.engines.virtual_time import Costs, CostSettings
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.planning.advice import Machines
from tfnmt.planning.prediction import idle_reports
from tfnmt.strategies import Async, DelayedAsync, ModelAverage, SummedAsync, Sync
from tfnmt.strategies.streaming import Streaming

WORKERS, SERVERS = 3, 2
BATCH_TOKENS = 10
COSTS = CostSettings(
    seconds_per_token=0.03,
    jitter=0.05,
    stragglers=("1:2",),
    meeting_seconds=0.01,
    server_seconds_per_byte=2e-4,
    network_bytes_per_second=500.0,
)
SLOW_NETWORK, EQUAL = {}, {"stragglers": ()}
FAST_NETWORK = {"network_bytes_per_second": 1e9}
AVERAGING = ModelAverage(local_steps=4)
RAMP = DelayedAsync(delay=4, delay_ramp_batches=1000)
STREAMING = Streaming(local_steps=12, fragments=2, fragment_delay=2)
MACHINES = Machines(WORKERS, SERVERS, 240, lambda strategy: strategy.ring)


def reports(row, settings, updates):
    """Of an idle run, but for its first quarter, in which workers come into step."""
    costs = Costs(settings, 1, WORKERS, SERVERS, MACHINES.vector_bytes, is_ring=row.ring)
    found = idle_reports(row, costs, WORKERS, lambda worker, step: BATCH_TOKENS + (worker + step) % 3 - 1)
    return list(itertools.islice(found, updates))[updates // 4 :]


def tokens_per_second(found):
    return sum(report.target_tokens for report in found) / sum(report.seconds for report in found)


@pytest.mark.parametrize(
    "running, other, changes, error",
    [
        (Sync(), STREAMING, SLOW_NETWORK, 0.03),
        (Sync(), STREAMING, EQUAL, 0.03),
        (Sync(), SummedAsync(), FAST_NETWORK, 0.03),
        (Sync(), ModelAverage(local_steps=6, blocks_by_speed=True), FAST_NETWORK, 0.03),
        (AVERAGING, STREAMING, EQUAL, 0.03),
        (RAMP, AVERAGING, EQUAL, 0.1),
        (Async(), AVERAGING, EQUAL, 0.1),  # whose workers never stand still for an update, whose cost nobody knows
    ],
)
def test_the_speed_up_is_that_of_the_machines(running, other, changes, error):
    costs = dataclasses.replace(COSTS, **changes)
    other, running = (row.row(WORKERS, OptimizerSettings(optimizer="sgd")) for row in (other, running))
    early, later = reports(running, costs, 60), reports(other, costs, 60)
    pushes = [push for report in early for push in report.pushes]
    truth = tokens_per_second(later) / tokens_per_second(early)
    assert abs(truth - 1) > 0.15
    found = MACHINES.speed_up(other, running, pushes)
    assert found == pytest.approx(truth, rel=error)
    empty = pushes[0]._replace(target_tokens=0, seconds=0.0)
    assert MACHINES.speed_up(other, running, [*pushes, empty]) == found
