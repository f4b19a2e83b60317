"""Learning rate schedules: functions of the number of updates."""

import dataclasses
import math

import tensorflow as tf

from tfnmt.settings import setting

_PLATEAU = {"schedule": ("plateau",)}


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate moves."""

    learning_rate: float = setting(0.0007, "Highest learning rate, reached at the end of the warm-up.", minimum=0)
    schedule: str = setting(
        "inverse_sqrt",
        "After the warm-up: constant; inverse_sqrt, falling with the root of the update number (Vaswani et al., "
        "2017); cosine, falling to --final_learning_rate at --decay_updates; plateau, falling whenever validation "
        "stands still.",
        choices=("constant", "inverse_sqrt", "cosine", "plateau"),
    )
    warmup_updates: int = setting(4000, "Updates of linear warm-up from zero.", minimum=0)
    decay_updates: int = setting(
        100_000,
        "Update at which cosine has reached --final_learning_rate.",
        minimum=1,
        only_with={"schedule": ("cosine",)},
    )
    final_learning_rate: float = setting(
        0.0,
        "Floor of the learning rate.",
        minimum=0,
        only_with={"schedule": ("inverse_sqrt", "cosine", "plateau")},
    )
    plateau_factor: float = setting(
        0.5, "What plateau multiplies the learning rate by.", minimum=0, maximum=1, only_with=_PLATEAU
    )
    plateau_patience: int = setting(
        3, "Evaluations without improvement before plateau falls.", minimum=1, only_with=_PLATEAU
    )


def learning_rate(settings: ScheduleSettings, version: tf.Tensor, plateau_scale: tf.Tensor) -> tf.Tensor:
    """The learning rate α of the next update.

    Args:
      settings: the schedule.
      version: updates applied so far, an integer scalar.
      plateau_scale: float scalar, what plateau has multiplied the rate by so far; other schedules do not read it.

    Returns:
      A scalar of the dtype of `plateau_scale`.
    """
    update = tf.cast(version + 1, plateau_scale.dtype)
    warmup = max(settings.warmup_updates, 1)
    shapes = {
        "constant": lambda: tf.ones_like(update),
        "inverse_sqrt": lambda: tf.math.rsqrt(tf.maximum(update / warmup, 1.0)),
        "cosine": lambda: _cosine(update, warmup, settings.decay_updates),
        "plateau": lambda: plateau_scale,
    }
    rise = tf.minimum(update / warmup, 1.0)
    return rise * tf.maximum(settings.learning_rate * shapes[settings.schedule](), settings.final_learning_rate)


def _cosine(update: tf.Tensor, warmup: int, decay_updates: int) -> tf.Tensor:
    """Half a cosine wave from one at the end of the warm-up to zero at `decay_updates` (Loshchilov & Hutter, 2017)."""
    share = tf.clip_by_value((update - warmup) / max(decay_updates - warmup, 1), 0.0, 1.0)
    return 0.5 * (1 + tf.cos(math.pi * share))


def average_weight(rate: float, updates_before: float, updates: float) -> float:
    """The weight d of the newest parameters in a ← a + d (θ - a), behind so many updates at once.

    Of one update it is max(rate, 1 - (t + 1) / (t + 10)): short memory at first (Marian's smoothing).
    """
    newest = max(rate, 1 - (updates_before + 1) / (updates_before + 10))
    return 1 - (1 - newest) ** updates
