"""Every strategy by name, with short intervals: a new row joins this list and inherits the engines' tests."""

from tfnmt.strategies import Async, Bmuf, DelayedAsync, Downpour, ModelAverage, RingAllreduce, SummedAsync, Sync

ROWS = {
    "sync": Sync(),
    "ring_allreduce": RingAllreduce(),
    "model_average": ModelAverage(local_steps=3),
    "bmuf": Bmuf(local_steps=2, block_momentum=0.5),
    "bmuf_classical": Bmuf(local_steps=2, block_momentum=0.5, block_nesterov=False),
    "averaged_slots": Bmuf(local_steps=2, block_momentum=0.5, local_slots="average"),
    "downpour": Downpour(push_every=2, pull_every=4, local_rate=1.0),
    "async": Async(),
    "delayed_async": DelayedAsync(delay=2, local_optimizer_batches=4),
    "summed_async": SummedAsync(summed_pushes=3),
    "bounded": Async(slack=1),
}
