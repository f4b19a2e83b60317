"""What dropout draws: by seed, worker, step and batch of the step, and by nothing else."""

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.engines.building import EXACT, local, parameters, run, simulated
from tests.engines.kill_tasks import EXACT_SUM, RATE
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.layout import Layout, Parameter
from tfnmt.strategies import Async, ModelAverage, Sync

BATCHES = toy.make_batches(64)
SLOW_WORKER = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0, stragglers=("0:3",))


class DrawingModel(toy.ToyModel):
    """The toy, beside a number for each batch, whose gradient is drawn from the seed that dropout is given.

    So with `EXACT_SUM` the parameters tell what was drawn for which batch.
    """

    parameters = (*toy.ToyModel.parameters, Parameter("draws", (len(BATCHES),), lambda shape, _: tf.zeros(shape)))

    def loss(self, views, batch, seed=None):
        sums = super().loss(views, batch, seed)
        draw = tf.random.stateless_uniform([], seed, dtype=views["draws"].dtype)
        return sums._replace(loss=sums.loss + views["draws"][batch.position[2]] * draw)


def draws(engine, updates):
    """What was drawn for each batch [batches]; 0 for batches that no update has taken in."""
    run(engine, updates)
    return -Layout(DrawingModel.parameters).unpack_array(parameters(engine))["draws"] / RATE


def drawn(row, updates, **options):
    return draws(simulated(row, BATCHES, model=DrawingModel(), **EXACT_SUM, **options), updates)


def different(numbers):
    return len(np.unique(np.round(numbers, 9))) == len(numbers)


@pytest.fixture(name="found", scope="module")
def _found():
    return drawn(Sync(), 3, workers=2, global_batch_tokens=100)


def test_every_batch_of_every_step_of_every_worker_draws_its_own(found):
    used = found[found != 0]
    assert len(used) > 2 * 3  # several for each step of each worker
    assert different(used)


def test_one_seed_draws_the_same_again(found):
    np.testing.assert_array_equal(drawn(Sync(), 3, workers=2, global_batch_tokens=100), found)


def test_another_seed_draws_others(found):
    other = drawn(Sync(), 3, workers=2, global_batch_tokens=100, seed=2)
    np.testing.assert_array_equal(other != 0, found != 0)
    assert different(np.concatenate([other[other != 0], found[found != 0]]))


def test_order_of_arrival_draws_nothing():
    """Workers of other speeds take their turns otherwise; each of their batches draws as before."""
    one, other = (drawn(Async(), 8, workers=2, **options) for options in ({}, {"costs": SLOW_WORKER}))
    both = (one != 0) & (other != 0)
    assert both[::2].any() and both[1::2].any()
    assert ((one != 0) != (other != 0)).any()
    np.testing.assert_allclose(one[both], other[both], atol=EXACT)


def test_steps_of_a_block_draw_as_steps_that_are_blocks():
    """The local engine runs a whole block as one graph, which counts its steps there."""
    row = ModelAverage(local_steps=4)
    block = draws(local(BATCHES, row, model=DrawingModel(), **EXACT_SUM), 2)
    assert np.count_nonzero(block) == 8
    assert different(block[:8])
    np.testing.assert_allclose(block, drawn(Sync(), 8, workers=1), atol=EXACT)
