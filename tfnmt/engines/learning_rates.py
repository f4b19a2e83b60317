"""The learning rate of an update: the schedule, times a law that makes it grow with the size of the update."""

import tensorflow as tf

from tfnmt.optimizers.schedules import ScheduleSettings, learning_rate
from tfnmt.strategies import Phase, StrategySettings


class LearningRates:
    """The learning rates of one row, for the servers and for the workers' own updates."""

    def __init__(self, schedule: ScheduleSettings, settings: StrategySettings, phase: Phase):
        """Takes the schedule, the law's constants, and a phase, which names a row and the law of its rates."""
        self._schedule, self._settings = schedule, settings
        self._strategy, self._name = phase.strategy, phase.law

    def of_server(
        self, version: tf.Tensor, target_tokens: tf.Tensor, batches: tf.Tensor, plateau_scale: tf.Tensor
    ) -> tf.Tensor:
        """The rate of the server update that follows `version`.

        Args:
          version: updates applied so far, an integer scalar.
          target_tokens: of the gradient that the update averages, a scalar of the parameters' dtype.
          batches: the same of its batches, a scalar.
          plateau_scale: the plateau schedule's factor, a scalar.
        """
        return learning_rate(self._schedule, version, plateau_scale) * self._law(version, target_tokens, batches)

    def of_worker(
        self, clock: tf.Tensor, target_tokens: tf.Tensor, batches: tf.Tensor, plateau_scale: tf.Tensor
    ) -> tf.Tensor:
        """The rate of a worker's own update.

        Args:
          clock: time of the worker's schedule, a float64 scalar; see `BlockGraph.run`.
          target_tokens: of the step, a scalar of the parameters' dtype.
          batches: of the step, a scalar.
          plateau_scale: the plateau schedule's factor, a scalar.
        """
        # The mean of as many replicas moves the servers: together, they have averaged over so many times the batches.
        averaged = self._strategy.averaged_replicas if self._strategy.exchange.trains_replicas else 1
        rate = learning_rate(self._schedule, clock, plateau_scale) * self._strategy.local_rate
        return rate * self._law(clock, averaged * target_tokens, averaged * batches)

    def describe(self) -> str:
        """The law in words, for the start of a log."""
        batches = self._strategy.law_factor
        up_to = "up to " if self._strategy.meetings.ramp_steps else ""
        update = f"for {up_to}{batches} batches an update"
        if self._settings.global_batch_tokens:
            text = {"linear": "times the batches of an update", "sqrt": "times the root of the batches of an update"}
        else:
            text = {
                "linear": f"times {up_to}{batches} by the linear law, {update}",
                "sqrt": f"times {up_to}{batches**0.5:.3g} by the square-root law, {update}",
            }
        last, start = self._settings.law_tokens, self._settings.law_start_tokens
        tokens = f"{last:,}" if start is None else f"{start:,} to {last:,}"
        text |= {"none": "no law scales it", "words": f"times target tokens over {tokens}"}
        return text[self._name]

    def _law(self, clock: tf.Tensor, target_tokens: tf.Tensor, batches: tf.Tensor) -> tf.Tensor | float:
        laws = {
            "none": lambda: 1.0,
            "linear": lambda: tf.cast(batches, target_tokens.dtype),
            "sqrt": lambda: tf.sqrt(tf.cast(batches, target_tokens.dtype)),
            "words": lambda: target_tokens / self._law_tokens(clock, target_tokens.dtype),
        }
        return laws[self._name]()

    def _law_tokens(self, clock: tf.Tensor, dtype: tf.DType) -> tf.Tensor | int:
        """The target tokens for which the schedule's rate is meant; the ramp is that of Bogoychev's code (2018)."""
        last, start = self._settings.law_tokens, self._settings.law_start_tokens
        if start is None:
            return last
        passed = tf.minimum(tf.cast(clock, dtype) / self._settings.law_ramp_updates, 1)
        return start + (last - start) * passed
