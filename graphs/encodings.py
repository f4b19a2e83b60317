"""How a payload travels: the numbers that go over the network in place of a vector, and the vector that comes out."""

from typing import Protocol

import tensorflow as tf


class Encoding(Protocol):
    """One way to send a payload [size] of a known weight, by which the sum that it belongs to is divided later.

    Payloads that were encoded with one and the same weight may be added up as they are.
    """

    def dtype(self, parameters: tf.DType) -> tf.DType:
        """The type of the numbers that travel, where parameters have this one."""

    def encode(self, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """What travels [size]."""

    def decode(self, encoded: tf.Tensor, weight: tf.Tensor, parameters: tf.DType) -> tf.Tensor:
        """The vector [size] that arrives."""


class Dense:
    """The vector as it is."""

    def dtype(self, parameters: tf.DType) -> tf.DType:
        """See `Encoding`."""
        return parameters

    def encode(self, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """See `Encoding`."""
        return vector

    def decode(self, encoded: tf.Tensor, weight: tf.Tensor, parameters: tf.DType) -> tf.Tensor:
        """See `Encoding`."""
        return encoded


class Half:
    """16-bit floats of the mean, times 256: its usual elements are then far from the smallest and the largest.

    >>> half, weight = Half(), tf.constant(4.0, tf.float64)
    >>> encoded = half.encode(tf.constant([4.0, -2.0]), weight)
    >>> encoded.dtype.name, encoded.numpy().tolist()
    ('float16', [256.0, -128.0])
    >>> half.decode(encoded, weight, tf.float32).numpy().tolist()
    [4.0, -2.0]
    """

    _FACTOR = 256.0

    def dtype(self, parameters: tf.DType) -> tf.DType:
        """See `Encoding`."""
        return tf.float16

    def encode(self, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """See `Encoding`."""
        return tf.cast(vector * self._scale(weight, vector.dtype), tf.float16)

    def decode(self, encoded: tf.Tensor, weight: tf.Tensor, parameters: tf.DType) -> tf.Tensor:
        """See `Encoding`."""
        return tf.cast(encoded, parameters) / self._scale(weight, parameters)

    def _scale(self, weight: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        return tf.cast(self._FACTOR / tf.maximum(weight, 1.0), dtype)


DENSE = Dense()
ENCODINGS: dict[str, Encoding] = {"none": DENSE, "float16": Half()}
