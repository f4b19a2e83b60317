"""Server updates for parameter deltas: they read a mean delta where an optimizer reads a mean gradient.

Block momentum follows the TensorFlow code of 2017 (tensorflow/tensorflow pull request 11581) and the equations of
blockwise model-update filtering (Chen & Huo, ICASSP 2016). Its Nesterov form equals SGD with Nesterov momentum on the
pseudo-gradient minus G, which is also the outer step of DiLoCo (Douillard et al., 2023).
"""

from collections.abc import Mapping

import tensorflow as tf


class AddMean:
    """Model averaging: θ ← θ + G, G the mean delta of the workers."""

    slots: Mapping[str, float | None] = {}
    evaluated = "parameters"
    momentum: str | None = None

    def apply(self, parameters, slots, gradient, learning_rate, version) -> None:
        """See `tfnmt.optimizers.optimizers.Optimizer`; `gradient` is G, and the learning rate is not read."""
        tf.raw_ops.AssignAddVariableOp(resource=parameters, value=gradient)


class BlockMomentum:
    """Blockwise model-update filtering: Δ ← η Δ + ζ G.

    Classical: θ ← θ + Δ. Nesterov: W ← W + Δ; θ ← W + η Δ, where W is evaluated and saved and θ is what workers pull.
    """

    momentum: str | None = "block_update"

    def __init__(self, rate: float, momentum: float, nesterov: bool):
        """Takes the block learning rate ζ, the block momentum rate η, and the form."""
        self.slots: Mapping[str, float | None] = {"block_update": 0.0, **({"filtered": None} if nesterov else {})}
        self.evaluated = "filtered" if nesterov else "parameters"
        self._rate, self._momentum = rate, momentum

    def apply(self, parameters, slots, gradient, learning_rate, version) -> None:
        """See `tfnmt.optimizers.optimizers.Optimizer`; `gradient` is G, and the learning rate is not read."""
        dtype = gradient.dtype
        update = self._momentum * _read(slots["block_update"], dtype) + self._rate * gradient
        tf.raw_ops.AssignVariableOp(resource=slots["block_update"], value=update)
        if "filtered" not in slots:
            tf.raw_ops.AssignAddVariableOp(resource=parameters, value=update)
            return
        filtered = _read(slots["filtered"], dtype) + update
        tf.raw_ops.AssignVariableOp(resource=slots["filtered"], value=filtered)
        tf.raw_ops.AssignVariableOp(resource=parameters, value=filtered + self._momentum * update)


def _read(handle: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
