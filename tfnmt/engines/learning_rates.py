"""What the learning rate of an update is: the schedule, times the law that says how it grows with the update."""

import tensorflow as tf

from tfnmt.optimizers.schedules import ScheduleSettings, learning_rate
from tfnmt.strategies import DELTA, Strategy, StrategySettings


class LearningRates:
    """The rates of one strategy, for the servers and for the workers' own updates."""

    def __init__(self, schedule: ScheduleSettings, settings: StrategySettings, strategy: Strategy):
        """Takes the schedule, the law's name and the row to which it applies."""
        self._schedule, self._settings, self._strategy = schedule, settings, strategy

    def of_server(self, version: tf.Tensor, target_tokens: tf.Tensor, plateau_scale: tf.Tensor) -> tf.Tensor:
        """The rate of the server update behind `version`, which takes in `target_tokens`."""
        rate = learning_rate(self._schedule, version, plateau_scale)
        return rate * self._law(self._strategy.law_factor, target_tokens)

    def of_worker(self, step: tf.Tensor, target_tokens: tf.Tensor, plateau_scale: tf.Tensor) -> tf.Tensor:
        """The rate of a worker's own update behind `step` steps, which takes in `target_tokens`."""
        rate = learning_rate(self._schedule, step, plateau_scale) * self._strategy.local_rate
        return rate * self._law(self._strategy.law_factor if self._strategy.payload == DELTA else 1, target_tokens)

    def describe(self) -> str:
        """The law in words, for the start of a run."""
        batches = self._strategy.law_factor
        text = {
            "none": "no law scales it",
            "linear": f"times {batches} by the linear law, for {batches} batches an update",
            "sqrt": f"times {batches**0.5:.3g} by the square-root law, for {batches} batches an update",
            "words": f"times target tokens over {self._settings.law_tokens:,}",
        }
        return text[self._settings.learning_rate_law]

    def _law(self, batches: int, target_tokens: tf.Tensor) -> tf.Tensor | float:
        laws = {
            "none": lambda: 1.0,
            "linear": lambda: float(batches),
            "sqrt": lambda: batches**0.5,
            "words": lambda: target_tokens / self._settings.law_tokens,
        }
        return laws[self._settings.learning_rate_law]()
