"""The broadcast subgraph: server parameters to a replica."""

from collections.abc import Sequence

import tensorflow as tf


def pull(parameters: Sequence[tf.Variable]) -> tf.Tensor:
    """The server parameters [size] as they stand now, on the device of the caller.

    Each shard is read at one instant. While other workers push, different shards may have different versions, as they
    may in Marian; behind a barrier nobody pushes.

    Args:
      parameters: variables [size / shards], each on its server.
    """
    pieces = [shard.read_value() for shard in parameters]
    return tf.concat(pieces, axis=0) if len(pieces) > 1 else pieces[0]
