"""The numbers and the line of one log point."""

from collections.abc import Mapping

from tfnmt.engines.report import BlockReport
from tfnmt.progress import format_number, format_seconds
from tfnmt.training.stopping import EarlyStopping
from tfnmt.training.time_spent import TimeSpent, loss_text
from tfnmt.training.totals import Totals

_UNKNOWN = TimeSpent()

METRICS = {
    "bleu": ("BLEU", ".2f"),
    "chrf": ("chrF", ".2f"),
    "ter": ("TER", ".2f"),
    "loss": ("loss", ".3f"),
    "cross_entropy": ("cross entropy", ".3f"),
}
"""A metric's name -> how people write it, and with how many digits."""


def training_values(window: Totals, totals: Totals, report: BlockReport) -> dict[str, float]:
    """The scalars of one log point.

    Args:
      window: the sums since the log point before.
      totals: the sums of the whole run.
      report: the newest report.

    Returns:
      TensorBoard's tag -> value; what follows the slash is the name in the JSON lines.
    """
    return {
        "train/loss": window.loss_per_token,
        "train/cross_entropy": window.cross_entropy_per_token,
        "train/perplexity": window.perplexity,
        "train/gradient_norm": window.mean_gradient_norm,
        "train/learning_rate": report.learning_rate,
        "speed/target_tokens_per_second": window.target_tokens_per_second,
        "speed/source_tokens_per_second": window.source_tokens_per_second,
        "speed/sentences_per_second": window.sentences_per_second,
        "speed/data_wait_share": window.data_wait_share,
        "speed/data_wait_seconds": window.data_wait_seconds,
        "speed/padding_share": window.padding_share,
        **_known("train/momentum_norm", report.momentum_norm),
        **_known("train/noise_scale_tokens", report.noise_scale_tokens),
        "progress/epochs": totals.epochs,
        "progress/target_tokens": totals.target_tokens,
        "progress/training_hours": totals.seconds / 3600,
        "progress/skipped_updates": totals.skipped,
    }


def training_line(
    window: Totals, totals: Totals, report: BlockReport, left: float | None, spent: TimeSpent = _UNKNOWN
) -> str:
    """The log line of one log point.

    Args:
      window: as in `training_values`, and so the next two.
      totals: see there.
      report: see there.
      left: seconds; None if unknown.
      spent: the workers' time since the log point before.
    """
    noise = report.noise_scale_tokens
    parts = [
        f"update {totals.updates:,}",
        f"epoch {report.epoch + 1}",
        f"loss {window.loss_per_token:.3f}",
        f"ppl {format_number(window.perplexity)}",
        f"lr {report.learning_rate:.3g}",
        speed_text(window, report),
        loss_text(spent),
        f"grad {window.mean_gradient_norm:.3g}",
        "" if noise is None else f"noise scale {format_number(noise)} tokens",
        f"skipped {totals.skipped}" if totals.skipped else "",
        f"left {format_seconds(left)}{_clock(report)}" if left is not None else "",
    ]
    return "  ".join(part for part in parts if part)


def _known(tag: str, value: float | None) -> dict[str, float]:
    return {} if value is None else {tag: value}


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
