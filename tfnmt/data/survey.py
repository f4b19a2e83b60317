"""A survey of the training files: pairs that are left out, and why; lengths, padding and batches."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfnmt.batch import UNKNOWN_ID
from tfnmt.data import filters
from tfnmt.data.batching import padded_positions
from tfnmt.data.corpus import count_pairs
from tfnmt.data.files import TextPair
from tfnmt.data.lines import line_pairs
from tfnmt.data.pools import Pool, PoolBuilder
from tfnmt.data.settings import DataSettings
from tfnmt.data.vocabulary import Vocabulary
from tfnmt.errors import UserError

SURVEYED_PAIRS = 200_000


@dataclasses.dataclass(frozen=True)
class Side:
    """Sums over the kept sentences of one language; END is a token, padding a position."""

    sentences: int
    tokens: int
    positions: int
    longest: int
    unknown: int

    def describe(self, name: str) -> str:
        """The sums in words."""
        return (
            f"{name}: {self.tokens:,} tokens, {self.tokens / self.sentences:.1f} a sentence, at most {self.longest}, "
            f"{self.unknown / self.tokens:.2%} unknown"
        )


@dataclasses.dataclass(frozen=True)
class Survey:
    """Counts over the first `pairs_read` pairs of the files."""

    pairs: int | None  # in all the files; None where more are to come
    verdicts: dict[str, int]  # "kept", or a reason to leave a pair out -> number of pairs
    batches: int  # how many the kept pairs make on one worker
    source: Side
    target: Side
    batch_positions: int  # the budget of target positions

    @property
    def pairs_read(self) -> int:
        """Sentence pairs that the counts are of."""
        return sum(self.verdicts.values())

    @property
    def share_read(self) -> float:
        """The part of the files that the counts are of."""
        return self.pairs_read / (self.pairs or self.pairs_read)

    @property
    def batches_per_epoch(self) -> int:
        """Batches that all the files make on one worker; an estimate when only a part was read."""
        return max(1, round(self.batches / self.share_read))

    @property
    def padding_share(self) -> float:
        """Padding among the source and target positions of the batches."""
        return 1 - (self.source.tokens + self.target.tokens) / (self.source.positions + self.target.positions)

    @property
    def fill(self) -> float:
        """Target positions of a batch on average, as a share of the budget."""
        return self.target.positions / (self.batches * self.batch_positions)

    @property
    def target_tokens_per_batch(self) -> float:
        """Target tokens of a batch on average, padding excluded."""
        return self.target.tokens / self.batches

    def describe(self) -> str:
        """The survey in words, in four lines."""
        return "\n  ".join(
            [self._pairs_text(), self.source.describe("source"), self.target.describe("target"), self._batches_text()]
        )

    def _pairs_text(self) -> str:
        kept, *left_out = self.verdicts.items()
        reasons = ", ".join(f"{count:,} {name}" for name, count in left_out if count) or "none"
        part = f"the first {self.pairs_read:,}"
        if self.pairs is not None:
            part = f"{'all' if self.pairs_read == self.pairs else f'{part} of'} {self.pairs:,}"
        return f"{kept[1]:,} of {part} pairs kept; left out of these: {reasons}"

    def _batches_text(self) -> str:
        pairs = self.source.sentences / self.batches
        whole = "of these" if self.pairs is None else "an epoch"
        return (
            f"{self.batches_per_epoch:,} batches {whole} on one worker, each with {pairs:.0f} pairs and "
            f"{self.target_tokens_per_batch:,.0f} target tokens on average; {self.padding_share:.1%} padding, "
            f"{self.fill:.1%} of --batch_positions used"
        )


def survey(
    files: Sequence[TextPair],
    source_vocabulary: Vocabulary,
    target_vocabulary: Vocabulary,
    settings: DataSettings,
    *,
    shards: int = 1,
    limit: int = SURVEYED_PAIRS,
    more_to_come: bool = False,
) -> Survey:
    """Tokenizes the first `limit` pairs of the training files, as training would, and counts.

    It reads on until each of `shards` workers has a pair: one whose shard has none would wait for a batch for ever. The
    files must have been inspected before; there may be `more_to_come`.

    Raises:
      UserError: a worker has no pair left in all the files, or a vocabulary cannot sample subwords as wished.
    """
    for vocabulary in (source_vocabulary, target_vocabulary):
        vocabulary.require_sampling(settings.subword_nbest)
    builder = PoolBuilder(source_vocabulary, target_vocabulary, settings)
    counts, kept_by_shard = _read(files, builder, shards, limit)
    verdicts = dict(zip(filters.VERDICTS, counts.verdicts.sum(axis=0).tolist()))
    if not kept_by_shard.all():
        raise UserError(_too_few(files, verdicts, settings, kept_by_shard))
    read = sum(verdicts.values())
    pairs = None if more_to_come else read if read < limit else count_pairs(files)
    source, target = (_side(verdicts["kept"], sums) for sums in (counts.source, counts.target))
    return Survey(pairs, verdicts, int(counts.batches.sum()), source, target, settings.batch_positions)


def _read(files: Sequence[TextPair], builder: PoolBuilder, shards: int, limit: int) -> tuple["_Counts", np.ndarray]:
    """Reads `limit` pairs, or more until each shard has one: the counts of the pools, and the pairs of each shard."""
    no_seed, no_address = tf.zeros([2], tf.int64), tf.zeros([2], tf.int64)

    def counted(source_lines: tf.Tensor, target_lines: tf.Tensor) -> tuple[_Counts, tf.Tensor]:
        pool = builder.for_training(no_address, source_lines, target_lines, no_seed)
        return _count(pool), tf.where(pool.verdicts == filters.KEPT)[:, 0]

    lines = line_pairs(files)
    parts = (part.batch(builder.settings.pool_pairs).map(counted) for part in (lines.take(limit), lines.skip(limit)))
    pools: list[_Counts] = []
    read, kept_by_shard = 0, np.zeros(shards, np.int64)
    for counts, rows in itertools.chain.from_iterable(part.as_numpy_iterator() for part in parts):
        pools.append(counts)
        kept_by_shard += np.bincount((read + rows) % shards, minlength=shards)  # Line n is in shard n modulo shards.
        read += counts.verdicts.sum()
        if read >= limit and kept_by_shard.all():
            break
    return _Counts(*map(np.stack, zip(*pools))), kept_by_shard


class _Counts(NamedTuple):
    verdicts: tf.Tensor  # int32 [len(VERDICTS)]
    batches: tf.Tensor  # int64 scalar
    source: tf.Tensor  # int64 [4]: tokens, positions, longest, unknown
    target: tf.Tensor  # int64 [4]


def _count(pool: Pool) -> _Counts:
    verdicts = tf.math.bincount(pool.verdicts, minlength=len(filters.VERDICTS))
    source, target = (_count_side(ids, pool.borders) for ids in (pool.source_ids, pool.target_ids))
    return _Counts(verdicts, pool.batches, source, target)


def _count_side(ids: tf.RaggedTensor, borders: tf.Tensor) -> tf.Tensor:
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    numbers = (
        tf.reduce_sum(lengths),
        padded_positions(lengths, borders),
        tf.reduce_max(tf.concat([[0], lengths], axis=0)),
        tf.math.count_nonzero(tf.equal(ids.flat_values, UNKNOWN_ID)),
    )
    return tf.stack([tf.cast(number, tf.int64) for number in numbers])


def _side(sentences: int, counts: np.ndarray) -> Side:
    """Adds up the pools' counts, int64 [pools, 4]."""
    tokens, positions, _, unknown = counts.sum(axis=0).tolist()
    return Side(sentences, tokens, positions, int(counts[:, 2].max()), unknown)


def _too_few(
    files: Sequence[TextPair], verdicts: dict[str, int], settings: DataSettings, kept_by_shard: np.ndarray
) -> str:
    names, shards = "; ".join(str(pair) for pair in files), len(kept_by_shard)
    reasons = ", ".join(f"{count:,} {name}" for name, count in verdicts.items())
    if not verdicts["kept"]:
        return (
            f"{names}: no pair is left after filtering ({reasons}); the limits are --max_length={settings.max_length}, "
            f"--batch_positions={settings.batch_positions} and --max_length_ratio={settings.max_length_ratio:g}."
        )
    remedy = "use fewer workers or more text"
    if verdicts["kept"] < shards:
        return f"{names}: {verdicts['kept']} pairs are too few for {shards} workers ({reasons}); {remedy}."
    worker = int(np.argmin(kept_by_shard))
    return (
        f"{names}: filtering leaves no pair to worker {worker}, which reads one line of every {shards} from line "
        f"{worker + 1} on ({reasons}); {remedy}, or shuffle the lines."
    )
