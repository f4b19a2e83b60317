"""What every test starts from: a quiet TensorFlow on the processor, few threads, the same random numbers."""

import gc
import os
import random
import signal

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from tfnmt import runtime  # noqa: I001 - before anything that imports TensorFlow

import numpy as np
import pytest
import tensorflow as tf

from tests.programs import run

runtime.prepare(threads=2)
# A shell starts its background jobs deaf to Ctrl-C, and the programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

_LAST = (
    "commands",
    "test_horovod_build.py",
    "test_hosts.py",
    "test_tools.py",
    "test_end_to_end.py",
    "test_horovod_end_to_end.py",
    "test_cluster_end_to_end.py",
)


_SPREAD = ("test_horovod_end_to_end.py", "test_cluster_end_to_end.py", "test_simulated.py", "test_beam_search.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Runs the tests that start whole programs after the others, which say more of what is wrong.

    Where tests run side by side, those of one file stay together, for their fixtures' sake, but for a few long files.
    """
    items.sort(
        key=lambda item: max((place for place, name in enumerate(_LAST, 1) if name in item.path.parts), default=0)
    )
    for item in items:
        if item.path.name not in _SPREAD:
            item.add_marker(pytest.mark.xdist_group(item.path.name))


def pytest_collection_finish():
    """Lets Python look for garbage less often: graphs are many small objects, and most of them stay."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 10)


@pytest.fixture(autouse=True)
def _seeded():
    """Gives every test the same random numbers, whatever ran before it."""
    random.seed(1)
    np.random.seed(1)
    tf.random.set_seed(1)


@pytest.fixture(name="corpus", scope="session")
def _corpus(tmp_path_factory):
    """A synthetic corpus with a vocabulary."""
    directory = tmp_path_factory.mktemp("corpus")
    run("corpus", "--corpus=generated", f"--output={directory}")
    run("vocabulary", f"--data={directory}", "--vocabulary_size=115")
    return directory
