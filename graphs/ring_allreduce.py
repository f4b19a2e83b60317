"""The ring-allreduce subgraph: every rank gets the sum of all ranks' payloads.

The transport leaves the same bits on all ranks: Gloo, MPI and NCCL add up each part of the vector on one of them and
hand the result round. Servers would refuse a payload that is not finite; here it travels as zeros of weight 0.

The bandwidth-optimal ring: Patarasuk & Yuan, 2009; Horovod: Sergeev & Del Balso, 2018.
"""

from collections.abc import Collection, Mapping, Sequence

import tensorflow as tf

from graphs.encodings import DENSE, Encoding
from graphs.reduce_average import first_nonfinite
from graphs.work import pack_scalars
from tfnmt.layout import Layout
from tfnmt.transport import Transport


def ring_allreduce(
    transport: Transport,
    payload: Sequence[tf.Variable],
    weight: tf.Tensor,
    numbers: tf.Tensor,
    encoding: Encoding = DENSE,
    weighted: bool = False,
) -> tf.Tensor:
    """Replaces the payload by the sum of all ranks' payloads.

    Args:
      transport: the calls by which ranks exchange.
      payload: variables [size]: a gradient sum or a delta; behind it, slots.
      weight: what the payload adds to the divisor of the sum, a float64 scalar.
      numbers: float64 [k], which all ranks get unchanged.
      encoding: how payloads travel; all are encoded with the weight of their sum, and are added up so.
      weighted: whether a payload is a mean, of which the sum takes as much as its weight is of the first one's.

    Returns:
      float64 [N, 3 + k], a row of each rank: the weight that counted; of its payload, the index of the first element
      that was not finite or -1, and the squared norm; and its numbers.
    """
    # One vector and one sum: Horovod would fuse several as they happen to arrive, and the order of additions with them.
    own = _joined(payload)
    seen = _look_at([own])
    counts = (seen[0] < 0) & (weight > 0)
    kept = tf.cond(counts, lambda: own, lambda: tf.zeros_like(own))
    weight = tf.where(counts, weight, tf.zeros_like(weight))
    table = _exchange(transport, weight, seen, numbers)
    if weighted:
        unit = _unit(table)
        table, kept = _relative(table, unit), kept * tf.cast(weight / unit, kept.dtype)
    total = tf.reduce_sum(table[:, 0])
    sums = transport.allreduce(encoding.encode(kept, total), "payload")
    summed = encoding.decode(sums, total, own.shape[0], own.dtype)
    for variable, vector in zip(payload, tf.split(summed, len(payload)) if len(payload) > 1 else [summed]):
        variable.assign(vector)
    return table


def ring_allgather(
    transport: Transport,
    payload: Sequence[tf.Variable],
    weight: tf.Tensor,
    numbers: tf.Tensor,
    summed: Sequence[tf.Variable],
    encoding: Encoding,
    weighted: bool = False,
) -> tf.Tensor:
    """Sums all ranks' payloads where these are encoded such that they cannot be added up on the way.

    Each rank gets all payloads as they were sent, decodes one behind the other, and adds them up in the order of the
    ranks: the sums have the same bits on all of them.

    Args:
      transport: the calls by which ranks exchange.
      payload: one variable, encoded, which stays as it is.
      weight: what the payload adds to the divisor of the sum, a float64 scalar.
      numbers: float64 [k], which all ranks get unchanged.
      summed: one variable [size], which is set to the sum.
      encoding: how payloads travel.
      weighted: see `ring_allreduce`; such payloads were encoded with a weight of one.

    Returns:
      The table of `ring_allreduce`.
    """
    (own,), (total,) = payload, summed
    size, dtype = total.shape[0], total.dtype
    seen = _look_at([encoding.decode(own.read_value(), tf.ones_like(weight) if weighted else weight, size, dtype)])
    counts = (seen[0] < 0) & (weight > 0)
    table = _exchange(transport, tf.where(counts, weight, tf.zeros_like(weight)), seen, numbers)
    table = _relative(table, _unit(table)) if weighted else table
    gathered, weights = transport.allgather(own.read_value()[tf.newaxis], "payload"), table[:, 0]

    def add(rank: tf.Tensor, so_far: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sent, of_one = tf.ensure_shape(gathered[rank], own.shape), weights[rank]
        more = encoding.decode(sent, tf.ones_like(of_one) if weighted else of_one, size, dtype)
        more = more * tf.cast(of_one, dtype) if weighted else more
        return rank + 1, so_far + tf.where(weights[rank] > 0, more, tf.zeros_like(more))

    # One at a time: all at once would be as many vectors as there are ranks.
    start = tf.constant(0), tf.zeros([size], dtype)
    total.assign(tf.while_loop(lambda rank, _: rank < tf.shape(table)[0], add, start, parallel_iterations=1)[1])
    return table


def pack_sums(
    transport: Transport,
    layout: Layout,
    pieces: int,
    seen: tf.Variable,
    gradients: Mapping[str, tf.Tensor],
    complete: Collection[str] = (),
    owners: Transport | None = None,
) -> tf.Tensor:
    """The vector [size] of the sums of all ranks' gradients, in pieces that overlap with the backward pass.

    A piece is sent as soon as the backward pass has computed it, before anybody knows whether the whole gradient is
    finite. So what is not finite on one rank is not finite in the sum, on all ranks.

    Args:
      transport: the calls by which ranks exchange.
      layout: of the vector, in one shard.
      pieces: number of pieces, at most.
      seen: float64 [2], set to the first element of this rank's own gradient that is not finite, or -1, and to the
        squared norm.
      gradients: this rank's gradients by name.
      complete: the names of parameters that not all ranks have, whose gradients are sums already of those that share
        them. `seen` leaves them out, of its count too: a bad gradient of another rank may have spoilt them.
      owners: the calls of the ranks that have the same of these, and sum them; None where this one alone has them.
    """
    parts = layout.split(pieces, complete)
    vectors = [part.pack(gradients) for part in parts]
    is_summed = [part.parameters[0].name not in complete for part in parts]
    seen.assign(_look_at([vector for vector, by_all in zip(vectors, is_summed) if by_all]))
    summed = []
    for number, (vector, by_all) in enumerate(zip(vectors, is_summed)):
        by_whom = transport if by_all else owners
        summed.append(by_whom.allreduce(vector, f"piece_{number}") if by_whom else vector)
    return tf.concat(summed, axis=0)


def exchange_numbers(
    transport: Transport,
    summed: Sequence[tf.Variable],
    weight: tf.Tensor,
    numbers: tf.Tensor,
    seen: tf.Variable,
) -> tf.Tensor:
    """The table of `ring_allreduce` for what `pack_sums` has summed; if that is not finite, all weights are 0."""
    finite = tf.math.is_finite(tf.nn.l2_loss(_joined(summed)))
    return _exchange(transport, tf.where(finite, weight, tf.zeros_like(weight)), seen.read_value(), numbers)


def add_numbers(transport: Transport, table: tf.Variable, numbers: tf.Tensor) -> tf.Tensor:
    """The table of `ring_allreduce` [N, 3 + k]: what is kept [N, 3], and the numbers, float64 [k], of all ranks."""
    return tf.concat([table.read_value(), transport.allgather(numbers[tf.newaxis], "table")], axis=1)


def exchange_squares(
    transport: Transport,
    summed: Sequence[tf.Variable],
    weight: tf.Tensor,
    numbers: tf.Tensor,
    seen: tf.Variable,
    layout: Layout,
    complete: Collection[str],
) -> tf.Tensor:
    """`exchange_numbers` where not all ranks have some parameters, with the two columns of `squares_apart` more."""
    both = squares_apart(layout, summed[0].read_value(), complete)
    return exchange_numbers(transport, summed, weight, tf.concat([numbers, both], axis=0), seen)


def squares_apart(layout: Layout, vector: tf.Tensor, complete: Collection[str]) -> tf.Tensor:
    """The squared norms, float64 [2], of what all ranks hold of a vector and of the parameters that not all have.

    Ranks whose norms differ by a bit would drift apart, so all take the first rank's square of the one, and add the
    other's of ranks that have all of it together.
    """
    parts = layout.split(1, complete)
    pieces = tf.split(vector, [part.size for part in parts])
    is_own = [part.parameters[0].name in complete for part in parts]
    return pack_scalars(
        2 * tf.add_n([tf.nn.l2_loss(piece) for piece, own in zip(pieces, is_own) if own == wanted])
        for wanted in (False, True)
    )


def parameter_sums(layout: Layout, parameters: tf.Tensor) -> tf.Tensor:
    """The sum of the bits of each parameter, int64 [parameters]: equal on ranks with equal copies of it."""
    words = tf.bitcast(parameters, tf.int32 if parameters.dtype.size == 4 else tf.int64)
    views = layout.unpack(tf.cast(words, tf.int64))
    return tf.stack([tf.reduce_sum(views[parameter.name]) for parameter in layout.parameters])


def _joined(payload: Sequence[tf.Variable]) -> tf.Tensor:
    vectors = [variable.read_value() for variable in payload]
    return tf.concat(vectors, axis=0) if len(vectors) > 1 else vectors[0]


def _look_at(pieces: Sequence[tf.Tensor]) -> tf.Tensor:
    """The index in the whole vector of the first element that is not finite, -1 when all are, and the squared norm."""
    half = tf.add_n([tf.nn.l2_loss(piece) for piece in pieces])
    all_finite, look = tf.constant(-1, tf.int64), lambda: first_nonfinite(tf.concat(pieces, axis=0))
    return pack_scalars([tf.cond(tf.math.is_finite(half), lambda: all_finite, look), 2 * half])


def _unit(table: tf.Tensor) -> tf.Tensor:
    """The first weight that counts, a scalar; one without any."""
    return tf.concat([tf.boolean_mask(table[:, 0], table[:, 0] > 0), tf.ones([1], table.dtype)], axis=0)[0]


def _relative(table: tf.Tensor, unit: tf.Tensor) -> tf.Tensor:
    """The table with its weights as multiples of `unit`."""
    return tf.concat([table[:, :1] / unit, table[:, 1:]], axis=1)


def _exchange(transport: Transport, weight: tf.Tensor, seen: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    row = tf.concat([weight[tf.newaxis], seen, numbers], axis=0)
    return transport.allgather(row[tf.newaxis], "table")
