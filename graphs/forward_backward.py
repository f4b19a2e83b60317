"""The forward-backward subgraph: a replica and a batch to a summed gradient."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfnmt.layout import Layout

Loss = Callable[[Mapping[str, tf.Tensor], Any, tf.Tensor | None], Any]
"""(views, batch, seed) -> sums over the batch, among them `loss`, which is differentiated."""

Pack = Callable[[Mapping[str, tf.Tensor]], tf.Tensor]
"""The views' gradients by name -> one vector [size]."""


def forward_backward(
    loss: Loss,
    layout: Layout,
    replica: tf.Tensor,
    batch: Any,
    seed: tf.Tensor | None,
    pack: Pack | None = None,
) -> tuple[tf.Tensor, Any]:
    """The gradient of the summed loss of `batch` at `replica`.

    The tape watches the views and not the vector: the gradient of a slice would be a whole vector of zeros around it,
    once for every parameter.

    Args:
      loss: the model's loss.
      layout: the map between views and vector.
      replica: parameter vector [size].
      batch: the second argument of `loss`.
      seed: stateless seed of the step, int32 [2], or None for no randomness.
      pack: makes one vector [size] of the views' gradients; None for `layout.pack`.

    Returns:
      The gradient sum [size], and what `loss` returned.
    """
    views = layout.unpack(replica)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(list(views.values()))
        sums = loss(views, batch, seed)
    gradients = tape.gradient(sums.loss, views, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    # A gathered embedding's gradient is IndexedSlices; everything behind this line sees dense arrays only.
    dense = {name: tf.convert_to_tensor(gradient) for name, gradient in gradients.items()}
    return (pack or layout.pack)(dense), sums
