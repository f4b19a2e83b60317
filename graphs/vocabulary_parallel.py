"""The vocabulary-parallel subgraph: tables with a row for each token, of which each rank holds some of the rows.

A rank looks up rows of all ranks, and projects its states onto the rows of all ranks. All are those that share a copy
of the tables: whoever the transport reaches, and numbers of ranks are places among them. Every rank calls these
functions for its own batch at the same time; numbers of tokens may differ. What comes back is what a whole table would
give, and the gradient of a rank's rows is complete on it: a sum over the tokens of all ranks.

Splitting the last layer by its outputs: Krizhevsky, 2014; its cross entropy: Shoeybi et al., 2019. Departures: label
smoothing spreads over the whole vocabulary and not over a rank's part of it; the normalizer of a token is merged on the
rank that owns the token, and only the normalizer goes back; the shards may differ in size, so that no row is padding.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfnmt.transport import Transport

Loss = tuple[tf.Tensor, tf.Tensor]
"""Smoothed loss and cross entropy of this rank's tokens, sums."""


def shard_bounds(size: int, ranks: int) -> list[int]:
    """The first row of each rank, and behind them `size`.

    >>> shard_bounds(11, 4)
    [0, 2, 5, 8, 11]
    """
    return [size * rank // ranks for rank in range(ranks + 1)]


def counting(transport: Transport, rank: int, moved: tf.Variable) -> Transport:
    """The same transport, which adds to `moved` the bytes that this rank has others get, as a ring would carry them.

    A rank's rows of an allgather go to all others, those of an alltoall go to their receivers, and an allreduce of M
    bytes is 2 M (N - 1) / N.
    """
    others = transport.size() - 1

    def count(elements: tf.Tensor, tensor: tf.Tensor) -> None:
        moved.assign_add(tf.cast(elements, tf.float64) * tensor.dtype.size)

    def allreduce(vector: tf.Tensor, name: str) -> tf.Tensor:
        count(2 * tf.cast(tf.size(vector), tf.float64) * others / (others + 1), vector)
        return transport.allreduce(vector, name)

    def allgather(rows: tf.Tensor, name: str) -> tf.Tensor:
        count(others * tf.size(rows), rows)
        return transport.allgather(rows, name)

    def alltoall(rows: tf.Tensor, counts: tf.Tensor, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        count((tf.reduce_sum(counts) - counts[rank]) * rows.shape[1], rows)
        return transport.alltoall(rows, counts, name)

    return transport._replace(allreduce=allreduce, allgather=allgather, alltoall=alltoall)


@dataclasses.dataclass(frozen=True)
class ShardedTable:
    """A table [V, D] of which this rank holds `rows`.

    Attributes:
      rows: [V_r, D], those from `bounds[rank]` to `bounds[rank + 1]`.
      bounds: of all ranks; see `shard_bounds`.
      rank: this one.
      transport: the calls by which ranks exchange.
      numbers: tell exchanges apart that may be under way together: all tables of a model have one source of numbers,
        which begins anew with each graph, so that all ranks give one name to one exchange.
    """

    rows: tf.Tensor
    bounds: Sequence[int]
    rank: int
    transport: Transport
    numbers: Iterator[int]

    @property
    def dtype(self) -> tf.DType:
        """Of the rows."""
        return self.rows.dtype

    def cast(self, dtype: tf.DType) -> "ShardedTable":
        """The table in another type, in which its rows then travel."""
        return dataclasses.replace(self, rows=tf.cast(self.rows, dtype))

    def look_up(self, ids: tf.Tensor) -> tf.Tensor:
        """The rows [..., D] for `ids` [...]. Each different one travels once, and so does its gradient."""
        transport, name = self.transport, f"look_up_{next(self.numbers)}"
        asked = _distinct(ids, self.bounds)
        wanted, wanted_counts = transport.alltoall(asked.ids[:, tf.newaxis], asked.counts, f"{name}_ids")
        places = wanted[:, 0] - self.bounds[self.rank]

        @tf.custom_gradient
        def compute(rows: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            found, _ = transport.alltoall(tf.gather(rows, places), wanted_counts, f"{name}_rows")

            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                flat = tf.reshape(upstream, [-1, rows.shape[1]])
                summed = tf.math.unsorted_segment_sum(flat, tf.reshape(asked.index, [-1]), tf.size(asked.ids))
                back, _ = transport.alltoall(summed, asked.counts, f"{name}_gradient")
                return tf.math.unsorted_segment_sum(back, places, rows.shape[0])

            return tf.gather(found, asked.index), gradient

        return compute(self.rows)

    def loss_sums(
        self, states: tf.Tensor, bias: tf.Tensor | None, ids: tf.Tensor, label_smoothing: float, most_rows: int
    ) -> Loss:
        """Label-smoothed cross entropy of this rank's tokens; see `_loss_and_gradients`.

        Only the smoothed loss can be differentiated, on every rank with the same factor: a rank computes the gradient
        of its rows for the tokens of all, once.

        Args:
          states: [T, D], one for each token of this rank's, without padding.
          bias: [V], whole on every rank, whose gradient is the sum of all ranks'; None for none.
          ids: int32 [T], the tokens.
          label_smoothing: the probability that is spread evenly over the whole vocabulary.
          most_rows: tokens of each rank whose logits exist at one time.
        """
        own_bias = [] if bias is None else [bias[self.bounds[self.rank] : self.bounds[self.rank + 1]]]

        @tf.custom_gradient
        def compute(states: tf.Tensor, rows: tf.Tensor, *bias: tf.Tensor) -> tuple[Loss, Callable]:
            table = dataclasses.replace(self, rows=rows)
            losses, gradients = _loss_and_gradients(table, states, [*bias], ids, label_smoothing, most_rows)

            def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> list[tf.Tensor]:
                return [tf.cast(upstream, part.dtype) * part for part in gradients[: 2 + len(bias)]]

            return losses, gradient

        return compute(states, self.rows, *own_bias)


class _Asked(NamedTuple):
    """The different ones of some ids."""

    ids: tf.Tensor  # [U], int32, in order: the ids of each rank's rows are neighbours
    counts: tf.Tensor  # [N], int32, how many are of each rank's rows
    index: tf.Tensor  # where each of the given ids is in `ids`


def _distinct(ids: tf.Tensor, bounds: Sequence[int]) -> _Asked:
    is_used = tf.scatter_nd(tf.reshape(ids, [-1, 1]), tf.ones([tf.size(ids)], tf.int32), bounds[-1:]) > 0
    used_before = tf.cumsum(tf.cast(tf.pad(is_used, [[1, 0]]), tf.int32))  # [V + 1]
    at_bounds = tf.gather(used_before, bounds)
    distinct = tf.cast(tf.where(is_used)[:, 0], tf.int32)
    return _Asked(distinct, at_bounds[1:] - at_bounds[:-1], tf.gather(used_before, ids))


class _Sums(NamedTuple):
    """Sums over chunks, at least in float32; the smoothing's even share is left out."""

    loss: tf.Tensor  # scalar, of this rank's tokens
    cross_entropy: tf.Tensor  # scalar, of this rank's tokens
    states: tf.Tensor  # [D], of all ranks' tokens
    rows_gradient: tf.Tensor  # [V_r, D]
    bias_gradient: tf.Tensor  # [V_r]


class _Tokens(NamedTuple):
    """The target tokens of all ranks."""

    ids: tf.Tensor  # [all tokens], int32, a rank's behind those of the one before
    counts: tf.Tensor  # [N]


def _loss_and_gradients(
    table: ShardedTable, states: tf.Tensor, bias: list[tf.Tensor], ids: tf.Tensor, smoothing: float, most_rows: int
) -> tuple[Loss, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Loss and cross entropy of this rank's tokens, and the gradients of its states, its rows and its part of the bias.

    For a state h with reference y, logits z = W h + b and p = softmax(z) over the whole vocabulary, smoothing e:

        loss = log Σ exp z - (1 - e) z_y - e mean(z),   dloss/dz = p - (1 - e) onehot(y) - e / V

    The terms of the mean are the same for the whole vocabulary: with the sum of all rows, which ranks add up once, they
    need no exchange for each token.
    """
    size, dtype = table.bounds[-1], _wide(table.dtype)
    name = f"output_{next(table.numbers)}"
    gathered = table.transport.allgather(ids[:, tf.newaxis], f"{name}_ids")[:, 0]
    counts = table.transport.allgather(tf.size(ids)[tf.newaxis, tf.newaxis], f"{name}_counts")[:, 0]
    tokens = _Tokens(gathered, tf.ensure_shape(counts, [len(table.bounds) - 1]))
    column = [_column_sums(table.rows), tf.reduce_sum(bias[0])[tf.newaxis]] if bias else [_column_sums(table.rows)]
    column_sum = table.transport.allreduce(tf.cast(tf.concat(column, axis=0), dtype), f"{name}_sum")
    rows_sum, bias_sum = column_sum[: table.rows.shape[1]], tf.reduce_sum(column_sum[table.rows.shape[1] :])
    sums, states_gradient = _sum_chunks(table, states, bias, tokens, smoothing, most_rows, name)
    even, own = tf.constant(smoothing / size, dtype), tf.cast(tf.size(ids), dtype)
    mean_scores = tf.reduce_sum(tf.cast(_column_sums(states), dtype) * rows_sum) + own * bias_sum
    gradients = (
        states_gradient - tf.cast(even * rows_sum, states.dtype),
        tf.cast(sums.rows_gradient - even * sums.states, table.dtype),
        tf.cast(sums.bias_gradient - even * tf.cast(tf.size(gathered), dtype), bias[0].dtype if bias else dtype),
    )
    return (sums.loss - even * mean_scores, sums.cross_entropy), gradients


def _sum_chunks(
    table: ShardedTable,
    states: tf.Tensor,
    bias: list[tf.Tensor],
    tokens: _Tokens,
    smoothing: float,
    most_rows: int,
    name: str,
) -> tuple[_Sums, tf.Tensor]:
    """The sums over the tokens of all ranks, and the gradient of this rank's states [T, D]."""
    dtype, (count, width) = _wide(table.dtype), table.rows.shape
    # As many chunks on every rank, or some would wait for exchanges that others never begin.
    chunks = tf.maximum((tf.reduce_max(tokens.counts) + most_rows - 1) // most_rows, 1)

    def add(chunk: tf.Tensor, sums: _Sums, states_gradients: tf.TensorArray):
        part, states_gradient = _chunk(table, states, bias, tokens, (chunk, chunks), smoothing, name)
        sums = tf.nest.map_structure(lambda total, more: total + tf.cast(more, dtype), sums, part)
        return chunk + 1, sums, states_gradients.write(chunk, states_gradient)

    zero = tf.zeros([], dtype)
    nothing = _Sums(zero, zero, tf.zeros([width], dtype), tf.zeros([count, width], dtype), tf.zeros([count], dtype))
    arrays = tf.TensorArray(states.dtype, chunks, infer_shape=False, element_shape=[None, width])
    loop = (tf.constant(0), nothing, arrays)
    # One behind the other: the exchanges of two chunks have the same names.
    _, sums, states_gradients = tf.while_loop(lambda chunk, *_: chunk < chunks, add, loop, parallel_iterations=1)
    return sums, tf.ensure_shape(states_gradients.concat(), [None, width])


def _chunk(
    table: ShardedTable,
    states: tf.Tensor,
    bias: list[tf.Tensor],
    tokens: _Tokens,
    chunk: tuple[tf.Tensor, tf.Tensor],
    smoothing: float,
    name: str,
) -> tuple[_Sums, tf.Tensor]:
    """Sums and the gradient of this rank's states of one of some chunks; see `_loss_and_gradients`."""
    transport, rank, (number, chunks) = table.transport, table.rank, chunk
    firsts, behinds = tokens.counts * number // chunks, tokens.counts * (number + 1) // chunks
    counts = behinds - firsts
    gathered = transport.allgather(states[firsts[rank] : behinds[rank]], f"{name}_states")  # [R, D], of all ranks
    gathered = tf.ensure_shape(gathered, [None, table.rows.shape[1]])
    local_ids = _ids_of_chunk(tokens, firsts, behinds) - table.bounds[rank]

    scores = tf.cast(tf.matmul(gathered, table.rows, transpose_b=True), _wide(table.dtype))  # [R, V_r]
    scores = tf.nn.bias_add(scores, tf.cast(bias[0], scores.dtype)) if bias else scores
    owned = tf.where((local_ids >= 0) & (local_ids < table.rows.shape[0]))  # [R_r, 1], tokens of this rank's rows
    places = tf.stack([tf.cast(owned[:, 0], tf.int32), tf.gather(local_ids, owned[:, 0])], axis=1)
    references = tf.scatter_nd(owned, tf.gather_nd(scores, places), tf.shape(local_ids, tf.int64))
    largest = tf.reduce_max(scores, axis=1)  # -inf where a rank has no row at all, whose sum is zero then
    exponentials = tf.exp(scores - largest[:, tf.newaxis])
    own_sums = tf.stack([largest, tf.reduce_sum(exponentials, axis=1), references], axis=1)

    parts, _ = transport.alltoall(own_sums, counts, f"{name}_sums")
    normalizers, reference_scores = _merged(tf.reshape(parts, [len(table.bounds) - 1, counts[rank], 3]))
    all_normalizers = transport.allgather(normalizers[:, tf.newaxis], f"{name}_normalizers")  # [R, 1]

    probabilities = exponentials * tf.exp(largest[:, tf.newaxis] - all_normalizers)
    taken = tf.fill(tf.shape(places)[:1], tf.constant(1 - smoothing, scores.dtype))
    score_gradient = tf.cast(tf.tensor_scatter_nd_sub(probabilities, places, taken), table.dtype)
    states_gradient = tf.matmul(score_gradient, table.rows)  # [R, D], this rank's part of every state's
    parts, _ = transport.alltoall(states_gradient, counts, f"{name}_gradient")
    parts = tf.reshape(parts, [len(table.bounds) - 1, counts[rank], table.rows.shape[1]])
    entropies = normalizers - reference_scores
    sums = _Sums(
        loss=tf.reduce_sum(entropies + smoothing * reference_scores),
        cross_entropy=tf.reduce_sum(entropies),
        states=_column_sums(gathered),
        rows_gradient=tf.matmul(score_gradient, gathered, transpose_a=True),
        bias_gradient=_column_sums(score_gradient),
    )
    return sums, tf.cast(tf.reduce_sum(tf.cast(parts, scores.dtype), axis=0), states.dtype)


def _merged(parts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """log Σ exp z and z_y of some tokens [T], from what each rank has of them.

    Args:
      parts: [N, T, 3]: the largest logit of the rank's rows, the sum of exponentials of what logits are below it, and
        the reference's logit, which is 0 on all ranks but one.
    """
    largest, sums, references = tf.unstack(parts, axis=2)
    most = tf.reduce_max(largest, axis=0)
    return most + tf.math.log(tf.reduce_sum(sums * tf.exp(largest - most), axis=0)), tf.reduce_sum(references, axis=0)


def _ids_of_chunk(tokens: _Tokens, firsts: tf.Tensor, behinds: tf.Tensor) -> tf.Tensor:
    """The tokens of all ranks from `firsts` [N] to `behinds` [N] of each."""
    begin = tf.cumsum(tokens.counts, exclusive=True)
    ranks = range(tokens.counts.shape[0])
    return tf.concat([tokens.ids[begin[rank] + firsts[rank] : begin[rank] + behinds[rank]] for rank in ranks], axis=0)


def _column_sums(rows: tf.Tensor) -> tf.Tensor:
    """The sum of `rows` [R, D] as a product, which is faster than a reduction over the first dimension."""
    return tf.matmul(tf.ones([1, tf.shape(rows)[0]], rows.dtype), rows)[0]


def _wide(dtype: tf.DType) -> tf.DType:
    """The type that sums and logarithms are computed in."""
    return tf.float64 if dtype == tf.float64 else tf.float32
