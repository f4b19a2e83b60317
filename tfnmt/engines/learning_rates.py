"""What the learning rate of an update is: the schedule, times the law that says how it grows with the update."""

import tensorflow as tf

from tfnmt.optimizers.schedules import ScheduleSettings, learning_rate
from tfnmt.strategies import Phase, StrategySettings


class LearningRates:
    """The rates of one strategy, for the servers and for the workers' own updates."""

    def __init__(self, schedule: ScheduleSettings, settings: StrategySettings, phase: Phase):
        """Takes the schedule, the law's constants, and the phase: its row, and the law that applies to it."""
        self._schedule, self._settings = schedule, settings
        self._strategy, self._name = phase.strategy, phase.law

    def of_server(
        self, version: tf.Tensor, target_tokens: tf.Tensor, batches: tf.Tensor, plateau_scale: tf.Tensor
    ) -> tf.Tensor:
        """The rate of the server update behind `version`, which takes in so many target tokens and batches."""
        return learning_rate(self._schedule, version, plateau_scale) * self._law(target_tokens, batches)

    def of_worker(
        self, clock: tf.Tensor, target_tokens: tf.Tensor, batches: tf.Tensor, plateau_scale: tf.Tensor
    ) -> tf.Tensor:
        """The rate of a worker's own update at `clock`, which takes in so many target tokens and batches.

        Where replicas are averaged, every worker's update is one of as many, whose mean moves the servers.
        """
        averaged = self._strategy.quorum if self._strategy.exchange.trains_replicas else 1
        rate = learning_rate(self._schedule, clock, plateau_scale) * self._strategy.local_rate
        return rate * self._law(averaged * target_tokens, averaged * batches)

    def describe(self) -> str:
        """The law in words, for the start of a run."""
        batches = self._strategy.law_factor
        if self._settings.global_batch_tokens:
            text = {"linear": "times the batches of an update", "sqrt": "times the root of the batches of an update"}
        else:
            text = {
                "linear": f"times {batches} by the linear law, for {batches} batches an update",
                "sqrt": f"times {batches**0.5:.3g} by the square-root law, for {batches} batches an update",
            }
        text |= {"none": "no law scales it", "words": f"times target tokens over {self._settings.law_tokens:,}"}
        return text[self._name]

    def _law(self, target_tokens: tf.Tensor, batches: tf.Tensor) -> tf.Tensor | float:
        laws = {
            "none": lambda: 1.0,
            "linear": lambda: tf.cast(batches, target_tokens.dtype),
            "sqrt": lambda: tf.sqrt(tf.cast(batches, target_tokens.dtype)),
            "words": lambda: target_tokens / self._settings.law_tokens,
        }
        return laws[self._name]()
