"""Every strategy of the table with short intervals, and some variants: a new row inherits the engines' tests."""

import dataclasses

from tfnmt.optimizers.optimizers import OptimizerSettings
from tfnmt.strategies import STRATEGIES, Async, Bmuf, DelayedAsync, ModelAverage, SummedAsync
from tfnmt.strategies.streaming import Streaming

_SHORT = {
    "local_steps": 2,
    "block_momentum": 0.5,
    "push_every": 2,
    "pull_every": 4,
    "delay": 2,
    "local_optimizer_batches": 8,
    "summed_pushes": 3,
}
"""Values of flags, for the rows that have them: several rounds take but a few steps."""


def _shortened(settings):
    names = [field.name for field in dataclasses.fields(settings) if field.name in _SHORT]
    return settings(**{name: _SHORT[name] for name in names})


ROWS = {name: _shortened(settings) for name, settings in STRATEGIES.items() if name != "single"} | {
    "bmuf_classical": Bmuf(local_steps=2, block_momentum=0.5, block_nesterov=False),
    "averaged_slots": Bmuf(local_steps=2, block_momentum=0.5, local_slots="average"),
    "weighted": ModelAverage(local_steps=2, payload_weights="tokens"),
    "bounded": Async(slack=1),
    "streaming": Streaming(local_steps=4, fragments=2, fragment_delay=2, block_momentum=0.5),
    "streaming_slots": Streaming(
        local_steps=4, fragments=2, fragment_delay=2, block_momentum=0.5, local_slots="average"
    ),
    "streaming_eager": Streaming(local_steps=4, fragments=2, fragment_delay=2, block_momentum=0.5, eager_updates=True),
    "compensated": Async(staleness_exponent=1.0, compensation_lambda=0.5),
    "stale": SummedAsync(summed_pushes=3, staleness_exponent=1.0, compensation_lambda=0.5),
    "elastic_barrier": STRATEGIES["elastic"](local_steps=2, elastic_barrier=True),
    "by_speed": Bmuf(local_steps=2, block_momentum=0.5, payload_weights="tokens", blocks_by_speed=True),
    "ramp": DelayedAsync(delay=3, delay_ramp_batches=4, local_optimizer_batches=8),
}


def columns(name, workers=2):
    """The columns of a row."""
    return ROWS[name].row(workers, OptimizerSettings())


WITH_BARRIER = [name for name in ROWS if columns(name).has_barrier]
WITHOUT_BARRIER = [name for name in ROWS if not columns(name).has_barrier]
ON_SERVERS = [name for name in WITH_BARRIER if not columns(name).ring]
