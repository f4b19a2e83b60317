"""Attention by a small network ("Neural machine translation by jointly learning to align and translate", 2015).

    e_s = v' tanh(W h + U m_s),  a = softmax(e),  context = sum_s a_s m_s

for a query state h and the annotations m_s of a source.
"""

import tensorflow as tf

from tfnmt.layout import Parameter
from tfnmt.models import layers
from tfnmt.models.base import Views
from tfnmt.models.recurrence import Multiply, add_bias

MEMORY, KEYS = "memory", "keys"
"""Names under which the annotations [B, S, M] are multiplied with, and the keys [B, S, A] are read."""


class AdditiveAttention:
    """Attention of `width` A. `weights` and `constants` name what `read` uses, as in `Cell`."""

    def __init__(self, name: str, query_width: int, memory_width: int, width: int, normalized: bool):
        """Names the parameters; `normalized` says whether the query and the keys have layer normalization."""
        self._name, self._normalized = name, normalized
        self._sizes = query_width, memory_width, width
        self.weights = [f"{name}/query/kernel"]
        self.constants = [f"{name}/energy"]
        if normalized:
            self.constants += [f"{name}/query/scale", f"{name}/query/offset"]

    def parameters(self) -> list[Parameter]:
        """The parameters of the attention."""
        query_width, memory_width, width = self._sizes
        declared = [
            *layers.dense_parameters(f"{self._name}/query", query_width, width, bias=False),
            *layers.dense_parameters(f"{self._name}/key", memory_width, width),
            Parameter(f"{self._name}/energy", (width,), layers.normal(width**-0.5)),
        ]
        if self._normalized:
            declared += layers.norm_parameters(f"{self._name}/query", width)
            declared += layers.norm_parameters(f"{self._name}/key", width)
        return declared

    def keys(self, multiply: Multiply, views: Views, memory: tf.Tensor) -> tf.Tensor:
        """U m_s of the annotations [B, S, M]: [B, S, A]. They are the same for every query."""
        _, memory_width, width = self._sizes
        rows = multiply(tf.reshape(memory, [-1, memory_width]), f"{self._name}/key/kernel")
        rows = add_bias(rows, views[f"{self._name}/key/bias"])
        if self._normalized:
            rows = layers.layer_norm(views, f"{self._name}/key", rows)
        shape = tf.shape(memory)
        return tf.reshape(rows, [shape[0], shape[1], width])

    def read(self, multiply: Multiply, views: Views, hidden: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Reads the memory for K queries of each sentence, whose states `hidden` are [B K, D].

        It multiplies with the query's kernel and with MEMORY; the views have the other parameters, and KEYS. The bias,
        [B, 1, S], which is added to the energies, is hugely negative on padding.

        Returns:
          contexts [B K, M] and weights [B, K, S], whose rows are distributions.
        """
        keys, (_, memory_width, width) = views[KEYS], self._sizes
        query = multiply(hidden, f"{self._name}/query/kernel")
        if self._normalized:
            query = layers.layer_norm(views, f"{self._name}/query", query)
        query = tf.reshape(query, [tf.shape(keys)[0], -1, 1, width])
        weights = tf.nn.softmax(_energies(keys, query, views[f"{self._name}/energy"]) + bias)
        contexts = multiply(weights, MEMORY)
        return tf.reshape(contexts, [-1, memory_width]), weights


def _energies(keys: tf.Tensor, query: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
    """v' tanh(query + key): [B, K, S] of keys [B, S, A] and queries [B, K, 1, A]."""
    hidden = tf.tanh(tf.expand_dims(keys, 1) + query)
    rows = tf.matmul(tf.reshape(hidden, [-1, vector.shape[0]]), vector[:, None])
    return tf.reshape(rows, tf.shape(hidden)[:-1])
