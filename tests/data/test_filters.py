"""Which pairs are left out, and under which reason."""

import tensorflow as tf

from tfnmt.data import filters
from tfnmt.data.settings import DataSettings


def _verdict(source: int, target: int, **settings) -> str:
    (verdict,) = filters.verdicts(tf.constant([source]), tf.constant([target]), DataSettings(**settings)).numpy()
    return filters.VERDICTS[verdict]


def test_every_reason_and_its_limit():
    assert _verdict(5, 5) == "kept"
    assert _verdict(1, 5) == _verdict(5, 1) == _verdict(1, 1) == "empty"
    assert _verdict(20, 20, max_length=20) == "kept"
    assert _verdict(21, 20, max_length=20) == _verdict(20, 21, max_length=20) == "too long"
    assert _verdict(15, 5, max_length_ratio=3.0) == _verdict(5, 15, max_length_ratio=3.0) == "kept"
    assert _verdict(16, 5, max_length_ratio=3.0) == _verdict(5, 16, max_length_ratio=3.0) == "length ratio"


def test_a_sentence_longer_than_a_batch_is_too_long():
    assert _verdict(9, 16, batch_positions=16) == "kept"
    assert _verdict(9, 17, batch_positions=16) == "too long"
    assert _verdict(11, 8, batch_positions=16, source_batch_positions=10) == "too long"
