"""The local gradient: each worker moves a replica by its whole gradient, and by what the others have sent of theirs.

With g the gradient sum of a worker's step, q what it has sent and T its target tokens, worker i's replica moves by

    G_i = (Σ q + g_i - q_i) / Σ T

So what an encoding keeps back is missing in the other replicas alone, and there until it is sent. What q_i brings of
earlier steps, replica i has moved by already: in each replica every gradient counts once.

Replicas that move by different gradients drift apart. Every so many updates their parameters are averaged; the slots of
their optimizers stay as they are.

Source: Aji, Heafield & Bogoychev, EMNLP 2019. Departure: the mean is over the target tokens of all, not over workers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from graphs.encodings import Encoding
from graphs.reduce_average import ServerVariables
from tfnmt.transport import Transport


class OwnGradient(NamedTuple):
    """What a worker has pushed, as its own replica sees it.

    Attributes:
      gradient: variable [size], g.
      sent: variables, q as it has travelled, one for each shard.
      weight: of the payload that counts, a float64 scalar; 0 where it was left out.
    """

    gradient: tf.Variable
    sent: Sequence[tf.Variable]
    weight: tf.Tensor


def unsent(own: OwnGradient, encoding: Encoding, shards: int) -> list[tf.Tensor]:
    """g - q in equal pieces, one for each shard; zeros of a payload that was left out."""
    pieces = []
    for piece, sent in zip(tf.split(own.gradient.read_value(), shards), own.sent):
        rest = piece - encoding.decode(sent.read_value(), own.weight, piece.shape[0], piece.dtype)
        pieces.append(tf.where(own.weight > 0, rest, tf.zeros_like(rest)))
    return pieces


def average_replicas(replicas: Sequence[ServerVariables]) -> None:
    """w_i ← (Σ w) / N of replicas in one process."""
    for shards in zip(*(replica.shards for replica in replicas)):
        mean = tf.add_n([shard.parameters.read_value() for shard in shards]) / len(shards)
        for shard in shards:
            shard.parameters.assign(mean)


def average_ranks(transport: Transport, replica: ServerVariables) -> None:
    """w_i ← (Σ w) / N of the replicas that each rank has one of."""
    for number, shard in enumerate(replica.shards):
        total = transport.allreduce(shard.parameters.read_value(), f"replica_{number}")
        shard.parameters.assign(total / transport.size())
