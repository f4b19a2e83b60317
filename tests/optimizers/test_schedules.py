"""Schedules: a few values of each that a person can check."""

import math

import pytest
import tensorflow as tf

from tfnmt.optimizers.schedules import ScheduleSettings, learning_rate


def rate(version, plateau_scale=1.0, **settings):
    settings = ScheduleSettings(**{"learning_rate": 2.0, "warmup_updates": 4, **settings})
    return float(learning_rate(settings, tf.constant(version, tf.int64), tf.constant(plateau_scale, tf.float64)))


@pytest.mark.parametrize("schedule", ["constant", "inverse_sqrt", "cosine", "plateau"])
def test_warmup_rises_in_a_line(schedule):
    rates = [rate(version, schedule=schedule, decay_updates=1000) for version in range(4)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize(
    "version,settings,expected",
    [
        (99, {"schedule": "constant"}, 2.0),
        (15, {"schedule": "inverse_sqrt"}, 1.0),
        (63, {"schedule": "inverse_sqrt"}, 0.5),
        (63, {"schedule": "inverse_sqrt", "final_learning_rate": 0.75}, 0.75),
        (51, {"schedule": "cosine", "decay_updates": 100}, 2.0 * 0.5 * (1 + math.cos(math.pi * 0.5))),
        (500, {"schedule": "cosine", "decay_updates": 100}, 0.0),
        (3, {"schedule": "cosine", "decay_updates": 4}, 2.0),
        (4, {"schedule": "cosine", "decay_updates": 4}, 0.0),
        (7, {"schedule": "plateau", "plateau_scale": 0.25}, 0.5),
        (0, {"schedule": "constant", "warmup_updates": 0}, 2.0),
        (3, {"schedule": "inverse_sqrt", "warmup_updates": 0}, 1.0),
    ],
)
def test_values(version, settings, expected):
    assert rate(version, **settings) == pytest.approx(expected, abs=1e-12)
