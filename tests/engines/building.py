"""Engines around the toy model, for tests: float64, no clipping, variable-length batches."""

import dataclasses
import functools
import itertools
import time
from typing import Any

import numpy as np
import tensorflow as tf

from graphs.forward_backward import forward_backward
from tests import toy
from tfnmt.batch import Batch
from tfnmt.engines.local import LocalEngine
from tfnmt.engines.recipe import Recipe
from tfnmt.engines.simulated import SimulatedEngine
from tfnmt.engines.virtual_time import CostSettings
from tfnmt.layout import Layout
from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.optimizers.schedules import ScheduleSettings
from tfnmt.strategies import Single, StrategySettings, most_fragments, phases

SCHEDULE = ScheduleSettings(learning_rate=0.1, schedule="inverse_sqrt", warmup_updates=3)
CONSTANT = ScheduleSettings(learning_rate=0.1, schedule="constant", warmup_updates=0)
PLATEAU = ScheduleSettings(learning_rate=0.1, schedule="plateau", warmup_updates=0)
EQUAL_SPEED = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=1.0)
HALF_SPEED = CostSettings(jitter=0.0, seconds_per_token=0.0, step_seconds=2.0**-20, stragglers=("1:2",))
"""Worker 1 is half as fast, and steps are shorter than real ones, so that these can be said to be as long."""
TOY = toy.ToyModel()
CONTRACT = {"model": toy.ToyModel(dropout=0.3), "global_batch_tokens": 80, "average_rate": 0.1}
"""What every engine computes as the simulation does: dropout, steps of several batches, a moving average."""
EXACT = 1e-12
"""Parameters that must be equal differ by less."""
DIFFERENT = 1e-6
"""Parameters that must differ do by more."""


def build(
    engine,
    row,
    batches,
    *,
    workers=1,
    servers=1,
    optimizer="sgd",
    model=None,
    schedule=CONSTANT,
    dtype=tf.float64,
    options=None,
    streams=1,
    **settings,
):
    """An engine of class `engine` that trains the toy model, or a like one, by `row`.

    `batches` are batches or a reader of them; `settings` those of `StrategySettings`.
    """
    strategy = StrategySettings(**{"clip_norm": 0.0, **settings})
    optimizer = optimizer if isinstance(optimizer, OptimizerSettings) else OptimizerSettings(optimizer=optimizer)
    recipe = _recipe(model or TOY, row, workers, servers, optimizer, schedule, strategy, dtype, streams)
    make_batches = batches if callable(batches) else toy.dataset(batches)
    functions = recipe.functions if engine is SimulatedEngine else None  # the others' blocks pull, nearly all of them
    return engine(dataclasses.replace(recipe, make_batches=make_batches, functions=functions), **(options or {}))


@functools.lru_cache(maxsize=16)
def _recipe(model, row, workers, servers, optimizer, schedule, strategy, dtype, streams):
    """A recipe without batches; engines with the same one trace the steps of their workers once."""
    trained = phases(strategy, row, workers, optimizer)
    layout = Layout(model.parameters, shards=servers * most_fragments(trained))
    return Recipe(model, layout, trained, schedule, strategy, None, dtype, streams, functions={})


@functools.cache
def _gradient() -> Any:
    ids = tf.TensorSpec([None, None], tf.int32)
    layout = toy.layout()

    @tf.function(input_signature=[tf.TensorSpec([layout.size], tf.float64), ids, ids], autograph=False)
    def gradient(theta, source_ids, target_ids):
        return forward_backward(TOY.loss, layout, theta, Batch(source_ids, target_ids, None), None)

    return gradient


def gradient_of(theta, batch):
    """The toy's gradient sum [size] at θ [size] and the target tokens: what engines must equal, computed by none.

    It is one graph for all layouts, which differ in the padding behind the parameters.
    """
    size = toy.layout().size
    gradient, sums = _gradient()(theta[:size], batch.source_ids, batch.target_ids)
    return np.pad(gradient.numpy(), (0, len(theta) - size)), float(sums.target_tokens)


def local(batches, row=None, **options):
    """The local engine; by default plain training."""
    return build(LocalEngine, row or Single(), batches, **options)


def simulated(row, batches, *, workers, costs=EQUAL_SPEED, script=None, faults=(), **options):
    """The simulated engine, all of whose workers are equally fast by default."""
    more = {"workers": workers, "costs": costs, "script": script, "faults": faults}
    return build(SimulatedEngine, row, batches, workers=workers, options=more, **options)


def at_half_speed(push):
    """A real push that has taken as long as `HALF_SPEED` says."""
    sums = push.work.sums
    seconds = sums.steps * HALF_SPEED.step_seconds * (2 if push.worker == 1 else 1)
    return push._replace(work=push.work._replace(sums=sums._replace(step_seconds=seconds, data_wait_seconds=0.0)))


def run(engine, updates=None):
    """The reports of so many updates, or of all that there are."""
    return list(itertools.islice(engine.blocks(), updates))


def parts_and_whole(reports):
    """The smallest of the durations of all pushes, their sum, and the seconds of which they are parts."""
    pushes = [push for report in reports for push in report.pushes]
    parts = [getattr(push, name) for push in pushes for name in push._fields if name.endswith("_seconds")]
    return min(parts), sum(parts), sum(push.seconds for push in pushes)


def run_with_pauses(blocks):
    """The seconds in the reports of two updates, and those that passed while somebody waited for the reports.

    Behind the first, which builds the graph, and with a pause before each, as evaluation makes one.
    """
    next(blocks)
    began, paused, trained = time.monotonic(), 0.0, 0.0
    for _ in range(2):
        since = time.monotonic()
        time.sleep(0.1)
        paused += time.monotonic() - since
        trained += next(blocks).seconds
    return trained, time.monotonic() - began - paused


def run_past_a_plateau(engine, blocks):
    """The reports of two updates, between which the learning rate falls to a quarter."""
    first = next(blocks)
    engine.scale_learning_rate(0.25)
    return [first, next(blocks)]


def parameters(engine):
    """What workers pull, [size]."""
    return engine.state().vectors["parameters"]


def rounds(batches, workers):
    """The batches of each round of all workers, joined."""
    return [toy.join(batches[first : first + workers]) for first in range(0, len(batches), workers)]


def distance(engine, other):
    """The largest difference between the parameters of two engines, whose paddings may differ."""
    one, two = parameters(engine), parameters(other)
    size = min(one.size, two.size)
    return np.abs(one[:size] - two[:size]).max()
