"""The fast selection against the plain one."""

import numpy as np
import pytest
import tensorflow as tf

from tfnmt.decoding.largest import largest


@pytest.mark.parametrize("count", [1, 3, 13])
@pytest.mark.parametrize("size", [5, 1000, 1600, 1601])
@pytest.mark.parametrize("levels", [2, 50, 10**6])
def test_equals_the_plain_selection(count, size, levels):
    """Few levels make many ties, some across blocks."""
    values = np.random.default_rng(size + count).integers(levels, size=[2, 3, size]).astype(np.float32)
    expected = tf.math.top_k(values, min(count, size))
    for found, wanted in zip(largest(tf.constant(values), count), expected):
        np.testing.assert_array_equal(found, wanted)
