"""Encodings: the numbers that travel over the network in place of a payload, and how the payload is read from them."""

from typing import Protocol

import tensorflow as tf


class Encoding(Protocol):
    """One way to send a payload [size], which its weight divides later; so an encoding knows the size of the mean.

    Encoded payloads may be added up only where all were encoded with one and the same weight, which decodes the sum.
    """

    def dtype(self, parameters: tf.DType) -> tf.DType:
        """The type of the numbers that travel, for parameters of a type."""

    def encode(self, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """The numbers [size] that travel."""

    def decode(self, encoded: tf.Tensor, weight: tf.Tensor, parameters: tf.DType) -> tf.Tensor:
        """The payload [size] of type `parameters`, as it was or nearly so."""


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
    """16-bit floats of the mean times 256: usual elements of a mean are then far from the smallest and largest floats.

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
