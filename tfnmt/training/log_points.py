"""The counters of a log point, in one table: the log line, TensorBoard's curves and the JSON lines are made of it.

TensorBoard orders headings, which are what stands before a slash, by the alphabet: so `eval` and `train` come first.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tfnmt.engines.report import BlockReport, PushReport
from tfnmt.progress import format_number, format_seconds
from tfnmt.training.stopping import EarlyStopping
from tfnmt.training.time_spent import TIME, loss_text, time_shares
from tfnmt.training.totals import Totals, ratio

METRICS = {
    "bleu": ("BLEU", ".2f"),
    "chrf": ("chrF", ".2f"),
    "ter": ("TER", ".2f"),
    "loss": ("loss", ".3f"),
    "cross_entropy": ("cross entropy", ".3f"),
}
"""A metric's name -> how people write it, and with how many digits."""


@dataclasses.dataclass(frozen=True)
class LogPoint:
    """All that counters are made of.

    Attributes:
      window: the sums since the log point before.
      totals: the sums of the whole run.
      report: the newest report.
      pushes: that have reached the servers since the log point before.
      seconds_left: of training; None if unknown.
    """

    window: Totals
    totals: Totals
    report: BlockReport
    pushes: Sequence[PushReport]
    seconds_left: float | None

    @functools.cached_property
    def time_shares(self) -> Mapping[str, float]:
        """What the workers' time went to."""
        return time_shares(self.pushes)

    def of_pushes(self, amount: Callable[[PushReport], float]) -> float | None:
        """The sum over the pushes; None without any."""
        return sum(map(amount, self.pushes)) if self.pushes else None


class Counter(NamedTuple):
    """One number of a log point.

    Attributes:
      name: TensorBoard's tag; what follows the slash is the key in the JSON lines. Without a slash it is in neither.
        Of a sum since the log point before, TensorBoard has the rate: its tag ends in `_per_second`.
      meaning: what is counted, in which unit. TensorBoard shows it beside the curve.
      value: the number; None where there is nothing to tell; several by what stands for the `{}` in the name.
      text: its part of the log line, made of the log point and the value; nothing for one that is not in the line.
      is_sum: whether the value is a sum since the log point before, and worth a rate.
    """

    name: str
    meaning: str
    value: Callable[[LogPoint], Any]
    text: Callable[[LogPoint, Any], str] | None = None
    is_sum: bool = False


COUNTERS = (
    Counter("update", "server updates", lambda at: at.totals.updates, lambda at, updates: f"update {updates:,}"),
    Counter("epoch", "the reader's, from 1", lambda at: at.report.epoch + 1, lambda at, epoch: f"epoch {epoch}"),
    Counter(
        "train/loss",
        "label-smoothed cross entropy, nats per target token",
        lambda at: at.window.loss_per_token,
        lambda at, loss: f"loss {loss:.3f}",
    ),
    Counter("train/cross_entropy", "nats per target token", lambda at: at.window.cross_entropy_per_token),
    Counter(
        "train/perplexity",
        "the exponential of the cross entropy",
        lambda at: at.window.perplexity,
        lambda at, perplexity: f"ppl {format_number(perplexity)}",
    ),
    Counter(
        "train/learning_rate",
        "of the newest update",
        lambda at: at.report.learning_rate,
        lambda at, rate: f"lr {rate:.3g}",
    ),
    Counter(
        "train_speed/target_tokens_per_second",
        "target tokens that reached an update, per second of training",
        lambda at: at.window.target_tokens_per_second,
        lambda at, _: speed_text(at.window, at.report),
    ),
    Counter(
        "train_speed/source_tokens_per_second",
        "source tokens that reached an update, per second of training",
        lambda at: ratio(at.window.source_tokens, at.window.seconds),
    ),
    Counter(
        "train_speed/sentences_per_second",
        "sentence pairs that reached an update, per second of training",
        lambda at: ratio(at.window.sentences, at.window.seconds),
    ),
    Counter(
        "train_speed/data_wait_share",
        "share of the time of training in which a worker waited for batches",
        lambda at: ratio(at.window.data_wait_seconds, at.window.seconds),
    ),
    Counter("train_speed/data_wait_seconds", "the same in seconds", lambda at: at.window.data_wait_seconds),
    Counter(
        "train_speed/padding_share",
        "share of the computed positions that held padding",
        lambda at: ratio(at.window.padding, at.window.positions),
    ),
    Counter("workers/{}", "share of the workers' time", lambda at: at.time_shares, lambda _, shares: loss_text(shares)),
    Counter("workers_speed/target_tokens_per_second_of_{}", "by worker", lambda at: _speeds(at.pushes)),
    Counter(
        "workers/pushes", "payloads that reached the servers", lambda at: at.of_pushes(lambda push: 1), is_sum=True
    ),
    Counter(
        "workers/refused_pushes",
        "of these, not taken by the servers",
        lambda at: at.of_pushes(lambda push: push.refused is not None),
        is_sum=True,
    ),
    Counter(
        "workers/dropped_pushes",
        "of these, because they were more than --max_staleness updates old",
        lambda at: at.of_pushes(lambda push: push.dropped),
        lambda at, dropped: f"dropped {dropped}" if dropped else "",
        is_sum=True,
    ),
    Counter(
        "workers/skipped_steps",
        "local updates left out: their gradient was not finite",
        lambda at: at.of_pushes(lambda push: push.skipped_steps),
        is_sum=True,
    ),
    Counter(
        "workers/mean_staleness",
        "server updates between pull and push, the mean over the pushes",
        lambda at: at.of_pushes(lambda push: push.staleness / len(at.pushes)),
    ),
    Counter(
        "workers/max_staleness",
        "server updates between pull and push, the largest",
        lambda at: max((push.staleness for push in at.pushes), default=None),
    ),
    Counter(
        "workers/bytes_pulled", "by all workers", lambda at: at.of_pushes(lambda push: push.bytes_pulled), is_sum=True
    ),
    Counter(
        "workers/bytes_pushed", "by all workers", lambda at: at.of_pushes(lambda push: push.bytes_pushed), is_sum=True
    ),
    Counter(
        "train/gradient_norm",
        "L2 norm of the gradient per target token, or of the mean delta, before clipping; the mean over the updates",
        lambda at: ratio(at.window.gradient_norm, at.window.updates),
        lambda at, norm: f"grad {norm:.3g}",
    ),
    Counter("train/momentum_norm", "L2 norm of the servers' momentum", lambda at: at.report.momentum_norm),
    Counter(
        "train/noise_scale_tokens",
        "gradient noise over squared gradient, target tokens; a moving average",
        lambda at: at.report.noise_scale_tokens,
        lambda at, tokens: f"noise scale {format_number(tokens)} tokens",
    ),
    Counter("train_progress/epochs", "of the corpus, so far", lambda at: at.totals.epochs),
    Counter("train_progress/target_tokens", "so far", lambda at: at.totals.target_tokens),
    Counter(
        "train_progress/training_hours", "so far, evaluation and saving excluded", lambda at: at.totals.seconds / 3600
    ),
    Counter(
        "train_progress/skipped_updates",
        "so far: something in them was not finite",
        lambda at: at.totals.skipped,
        lambda at, skipped: f"skipped {skipped}" if skipped else "",
    ),
    Counter(
        "left",
        "seconds of training",
        lambda at: at.seconds_left,
        lambda at, seconds: f"left {format_seconds(seconds)}{_clock(at.report)}",
    ),
)
"""In the order of the log line."""

LAYOUT: Mapping[str, Mapping[str, Sequence[str]]] = {
    "Quality": {
        "loss": ("train/loss", "eval/loss"),
        "BLEU": ("eval/bleu", "eval/best_bleu"),
        "cross entropy": ("train/cross_entropy", "eval/cross_entropy"),
        "learning rate": ("train/learning_rate",),
        "norm of the gradient": ("train/gradient_norm",),
    },
    "Speed": {
        "target tokens a second": ("train_speed/target_tokens_per_second",),
        "tokens a second by worker": ("workers_speed/target_tokens_per_second_of_.*",),
    },
    "Workers": {
        "shares of the time": tuple(f"workers/{name}" for name in TIME),
        "bytes a second": ("workers/bytes_pulled_per_second", "workers/bytes_pushed_per_second"),
        "staleness": ("workers/mean_staleness", "workers/max_staleness"),
    },
}
"""TensorBoard's page of custom scalars: category -> chart -> patterns of the tags that it shows."""


class Scalar(NamedTuple):
    """One point of one of TensorBoard's curves."""

    tag: str
    value: float
    meaning: str = ""


def scalars(at: LogPoint) -> Iterator[Scalar]:
    """The points of TensorBoard's curves."""
    for counter, tag, number in _numbers(at):
        if not counter.is_sum:
            yield Scalar(tag, number, counter.meaning)
        elif at.window.seconds:
            yield Scalar(f"{tag}_per_second", number / at.window.seconds, f"{counter.meaning}, per second of training")


def json_record(at: LogPoint) -> dict[str, float]:
    """What the JSON lines have, by key."""
    return {tag.rpartition("/")[2]: number for _, tag, number in _numbers(at)}


def _numbers(at: LogPoint) -> Iterator[tuple[Counter, str, float]]:
    """Every number that has a curve, with its counter and its tag."""
    for counter in COUNTERS:
        value = counter.value(at) if "/" in counter.name else None
        found = value if isinstance(value, Mapping) else {"": value}
        for which, number in found.items():
            if number is not None:
                yield counter, counter.name.format(which), number


def training_line(at: LogPoint) -> str:
    """The log line of one log point."""
    told = [(counter.text, counter.value(at)) for counter in COUNTERS if counter.text]
    return "  ".join(filter(None, (text(at, value) for text, value in told if value is not None)))


def _speeds(pushes: Sequence[PushReport]) -> dict[int, float]:
    """Worker -> target tokens a second."""
    tokens: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for push in pushes:
        tokens[push.worker] = tokens.get(push.worker, 0) + push.target_tokens
        seconds[push.worker] = seconds.get(push.worker, 0.0) + push.seconds
    return {worker: tokens[worker] / seconds[worker] for worker in sorted(tokens) if seconds[worker]}


def speed_text(totals: Totals, report: BlockReport) -> str:
    """The speed of training, and on which clock it is measured when that is not the wall's."""
    return f"{format_number(totals.target_tokens_per_second)} tokens/s{_clock(report)}"


def _clock(report: BlockReport) -> str:
    return " (virtual)" if report.is_virtual else ""


def validation_line(update: int, metrics: Mapping[str, float], early_stopping: EarlyStopping, metric: str) -> str:
    """The log line of one evaluation; `metric` is that of early stopping."""
    numbers = [f"{title} {metrics[name]:{style}}" for name, (title, style) in METRICS.items()]
    numbers += [f"{name} {value:.4g}" for name, value in metrics.items() if name not in {*METRICS, "command"}]
    best, title = early_stopping.best, METRICS.get(metric, (f"of --metrics_{metric}",))[0]
    told = [f"best {title} {best:.4g} (update {early_stopping.best_update:,})"] if best is not None else []
    return "  ".join([f"validation at update {update:,}", *numbers, *told])
