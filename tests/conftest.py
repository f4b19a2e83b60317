"""What every test starts from: a quiet TensorFlow on the processor, few threads, the same random numbers."""

import os
import random
import signal

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from tfnmt import runtime  # noqa: I001 - before anything that imports TensorFlow

import numpy as np
import pytest
import tensorflow as tf

runtime.prepare(threads=2)
# A shell starts its background jobs deaf to Ctrl-C, and the programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

_LAST = ("commands", "test_horovod_build.py", "test_end_to_end.py", "test_cluster_end_to_end.py")


def pytest_collection_modifyitems(items):
    """Runs the tests that start whole programs after the others, which say more of what is wrong."""
    items.sort(
        key=lambda item: max((place for place, name in enumerate(_LAST, 1) if name in item.path.parts), default=0)
    )


@pytest.fixture(autouse=True)
def _seeded():
    """Gives every test the same random numbers, whatever ran before it."""
    random.seed(1)
    np.random.seed(1)
    tf.random.set_seed(1)
