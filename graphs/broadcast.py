"""The broadcast subgraph: server parameters to a replica."""

from collections.abc import Sequence

import tensorflow as tf

from graphs.fragments import WHOLE_VECTOR, Fragment


def pull(parameters: Sequence[tf.Variable], fragment: Fragment = WHOLE_VECTOR) -> tf.Tensor:
    """The server parameters [size], or a fragment of them, as they stand now, on the device of the caller.

    Each shard is read at one instant. While other workers push, different shards may have different versions, as they
    may in Marian; behind a barrier nobody pushes.

    Args:
      parameters: variables [size / shards], each on its server.
      fragment: which.
    """
    pieces = fragment.on_each_server(lambda shard: shard.read_value(), parameters)
    return tf.concat(pieces, axis=0) if len(pieces) > 1 else pieces[0]
