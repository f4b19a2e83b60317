"""What the coordinator makes of TensorFlow's private parts."""

import subprocess
import sys

PROGRAM = """
from tfnmt import runtime
runtime.prepare(threads=1)
import tensorflow as tf
from tensorflow.python.eager import context, executor
from tfnmt.cluster import coordinator
if {keeps}:
    coordinator._keep_executors()
asynchronous = executor.new_executor(enable_async=True)
with context.executor_scope(asynchronous):
    tf.raw_ops.Assert(condition=tf.constant(False), data=["the worker is gone"])
del asynchronous
"""


def test_the_executor_of_a_lost_worker_goes_without_a_trace():
    """TensorFlow would print the error of what its worker had still to do, at whatever line frees it."""
    said = {}
    for keeps in (False, True):
        program = PROGRAM.format(keeps=keeps)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
        said[keeps] = done.stderr
    assert "the worker is gone" in said[False]
    assert said[True] == ""
