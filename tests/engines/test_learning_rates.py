"""The learning rate of an update, and what the start of a run says about it."""

import pytest
import tensorflow as tf

from tfnmt.engines.learning_rates import LearningRates
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import DelayedAsync, Downpour, ModelAverage, StrategySettings, Sync, phases

RAMP = DelayedAsync(delay=4, delay_ramp_batches=9)


@pytest.mark.parametrize(
    "row, law, factor, said",
    [
        (Sync(), "none", 1.0, "no law scales it"),
        (Sync(), "linear", 4.0, "times 4 by the linear law, for 4 batches an update"),
        (Sync(), "sqrt", 2.0, "times 2 by the square-root law, for 4 batches an update"),
        (Sync(), "words", 1.5, "times target tokens over 2,000"),
        (RAMP, "linear", 4.0, "times up to 4 by the linear law, for up to 4 batches an update"),
        (RAMP, "sqrt", 2.0, "times up to 2 by the square-root law, for up to 4 batches an update"),
        (ModelAverage(), "words", 1.5, "times target tokens over 2,000"),
        (ModelAverage(), "sqrt", 2.0, "times 2 by the square-root law, for 4 batches an update"),
    ],
)
def test_the_law_is_what_is_said(row, law, factor, said):
    """The size of an update changes the rate by the named law alone, of the servers or of the workers that move."""
    settings = StrategySettings(learning_rate_law=law, law_tokens=2000)
    schedule = ScheduleSettings(learning_rate=0.1, schedule="constant", warmup_updates=0)
    rates = LearningRates(schedule, settings, phases(settings, row, 4, OptimizerSettings())[-1])
    rate = rates.of_worker if isinstance(row, ModelAverage) else rates.of_server
    averaged = 4 if isinstance(row, ModelAverage) else 1
    tokens, batches = tf.constant(3000.0 / averaged), tf.constant(4.0 / averaged)
    found = rate(tf.constant(5, tf.int64), tokens, batches, tf.constant(1.0))
    assert float(found) == pytest.approx(0.1 * factor)
    assert rates.describe() == said


@pytest.mark.parametrize("clock, tokens", [(0, 7200), (1000, 5880), (4000, 1920), (9000, 1920)])
@pytest.mark.parametrize("row", [Sync(), ModelAverage()])
def test_the_law_of_words_may_begin_with_more_tokens(row, clock, tokens):
    """The published warm-up: 1.32 fewer at each of 4,000."""
    settings = StrategySettings(learning_rate_law="words", law_start_tokens=7200)
    schedule = ScheduleSettings(learning_rate=0.1, schedule="constant", warmup_updates=0)
    rates = LearningRates(schedule, settings, phases(settings, row, 1, OptimizerSettings())[-1])
    rate = rates.of_worker if isinstance(row, ModelAverage) else rates.of_server
    found = rate(tf.constant(clock, tf.int64), tf.constant(480.0), tf.constant(1.0), tf.constant(1.0))
    assert float(found) == pytest.approx(0.1 * 480 / tokens)
    assert rates.describe() == "times target tokens over 7,200 to 1,920"


@pytest.mark.parametrize("row, factor", [(Downpour(local_rate=0.5), 0.5 * 2), (ModelAverage(), 4 * 2)])
def test_a_local_step_averages_its_own_batches_or_those_of_all_replicas(row, factor):
    """Of four workers, by the linear law, for a step of two batches."""
    settings = StrategySettings(learning_rate_law="linear")
    schedule = ScheduleSettings(learning_rate=0.1, schedule="constant", warmup_updates=0)
    rates = LearningRates(schedule, settings, phases(settings, row, 4, OptimizerSettings())[-1])
    found = rates.of_worker(tf.constant(5.0), tf.constant(3000.0), tf.constant(2.0), tf.constant(1.0))
    assert float(found) == pytest.approx(0.1 * factor)
