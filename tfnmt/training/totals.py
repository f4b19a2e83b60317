"""Sums over reports. They are divided once, where a number is shown."""

import dataclasses
import math
import operator

from tfnmt.engines.report import BlockReport


@dataclasses.dataclass(frozen=True)
class Totals:
    """What the reports so far add up to. The difference of two totals is the sum of the reports between them.

    A skipped update adds the time that it took and one to `skipped`, nothing else: its loss may not be a number.
    """

    updates: int = 0
    skipped: int = 0
    epochs: float = 0.0  # of the corpus; whole ones until the first has told how long they are
    loss: float = 0.0  # nats
    cross_entropy: float = 0.0  # nats
    target_tokens: int = 0
    source_tokens: int = 0
    positions: int = 0
    sentences: int = 0
    gradient_norm: float = 0.0
    seconds: float = 0.0  # evaluation and saving excluded
    data_wait_seconds: float = 0.0

    @classmethod
    def of(cls, report: BlockReport) -> "Totals":
        """The totals of one report."""
        if report.skipped is not None:
            return cls(skipped=1, seconds=report.seconds, data_wait_seconds=report.data_wait_seconds)
        return cls(updates=1, **{name: getattr(report, name) for name in _SUMMED})

    def __add__(self, other: "Totals") -> "Totals":
        """The sum, field by field."""
        return Totals(*map(operator.add, vars(self).values(), vars(other).values()))

    def __sub__(self, other: "Totals") -> "Totals":
        """The difference, field by field."""
        return Totals(*map(operator.sub, vars(self).values(), vars(other).values()))

    @property
    def loss_per_token(self) -> float:
        """Nats per target token, label smoothing included."""
        return ratio(self.loss, self.target_tokens)

    @property
    def cross_entropy_per_token(self) -> float:
        """Nats per target token."""
        return ratio(self.cross_entropy, self.target_tokens)

    @property
    def perplexity(self) -> float:
        """The exponential of the cross entropy per target token."""
        return perplexity(self.cross_entropy_per_token)

    @property
    def target_tokens_per_second(self) -> float:
        """Target tokens that reached an update, per second of training."""
        return ratio(self.target_tokens, self.seconds)

    @property
    def padding(self) -> int:
        """Positions that were computed and held no token."""
        return self.positions - self.source_tokens - self.target_tokens


@dataclasses.dataclass(frozen=True)
class EpochMeter:
    """Measures an epoch's length in sentences, which filters make unknowable before one has been read.

    Another number of workers begins the next epoch, whatever is left of the one that they had begun. Of such an epoch
    what was read counts, and it says nothing of the length.
    """

    epoch: int = 0
    began_at: int = 0  # sentences read before this epoch
    length: float | None = None  # sentences in an epoch
    broken_off: int = 0  # epochs that were not read to their end
    broken_off_sentences: int = 0  # read of those epochs
    breaks_off: bool = False  # the next report is of another epoch, though this one has not ended

    def at(self, epoch: int, sentences: int) -> "EpochMeter":
        """The meter once a batch of `epoch` comes, `sentences` having been read before it."""
        if epoch <= self.epoch:
            return self
        more, read = epoch - self.epoch, sentences - self.began_at
        if self.breaks_off:
            broken_off, read = self.broken_off + more, self.broken_off_sentences + read
            return EpochMeter(epoch, sentences, self.length, broken_off, read)
        return dataclasses.replace(self, epoch=epoch, began_at=sentences, length=read / more)

    def epochs(self, sentences: int) -> float:
        """Epochs read, once `sentences` have been."""
        whole = self.epoch - self.broken_off
        if not self.length:
            return whole
        return whole + self.broken_off_sentences / self.length + min((sentences - self.began_at) / self.length, 1.0)


def perplexity(cross_entropy: float) -> float:
    """The exponential of nats per token, which stays finite however bad a model is."""
    return math.exp(min(cross_entropy, 700.0))


def ratio(amount: float, of: float) -> float:
    """An amount over what it is of; not a number where there is nothing that it could be of."""
    return amount / of if of else math.nan


_SUMMED = tuple(name for name in vars(Totals()) if name in BlockReport._fields and name != "skipped")
