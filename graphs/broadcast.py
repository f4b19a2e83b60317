"""The broadcast subgraph: server parameters to a replica."""

import tensorflow as tf


def pull(parameters: tf.Variable) -> tf.Tensor:
    """The server parameters [size] as they stand now, on the device of the caller."""
    return parameters.read_value()
