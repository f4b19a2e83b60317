"""Encodings: the numbers that travel over the network in place of a vector, and how the vector is read from them.

`Half` and `BFloat16` round each element. The others lose so much that whoever sends keeps what was not sent, and adds
it to what is sent next (`graphs.error_feedback`): 8-bit and 4-bit integers with a scale for each chunk, and the k
largest elements of each chunk.

Sources: Seide et al. 2014 (integers of few bits with error feedback); Aji & Heafield 2017 and Lin et al. 2018 (the
largest elements). Departures: the largest elements are found in each chunk and not in the whole vector, so that a place
fits into 16 bits and no threshold has to be found; integers are rounded to the nearest, because with error feedback
nothing is lost that random rounding would have to make up for.
"""

import dataclasses
from typing import ClassVar

import tensorflow as tf

_SCALED, _SORTED = 256, 4096
"""The longest chunks that share a scale, and of which the largest elements are found."""


class Encoding:
    """One way to send a vector [size], which its weight divides later; so an encoding knows the size of the mean.

    Attributes:
      adds_up: whether encoded payloads may be added up where all were encoded with one and the same weight, which then
        decodes the sum. Otherwise each is decoded, and ranks gather what they could have summed.
      keeps_rest: whether senders keep what was not sent, and add it to what they send next.
    """

    adds_up: ClassVar[bool] = False
    keeps_rest: ClassVar[bool] = False

    def dtype(self, parameters: tf.DType) -> tf.DType:
        """The type of the numbers that travel, for parameters of a type."""
        return tf.uint8

    def length(self, size: int, parameters: tf.DType) -> int:
        """How many numbers travel for a vector [size]."""
        return size

    def bytes(self, size: int, parameters: tf.DType) -> int:
        """How many bytes travel for a vector [size]."""
        return self.length(size, parameters) * self.dtype(parameters).size

    def encode(self, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """The numbers [length] that travel; those of a vector of infinities decode to what is not finite."""
        raise NotImplementedError

    def decode(self, encoded: tf.Tensor, weight: tf.Tensor, size: int, parameters: tf.DType) -> tf.Tensor:
        """The vector [size] of type `parameters`, as it was or nearly so."""
        raise NotImplementedError


class Dense(Encoding):
    """The vector as it is."""

    adds_up = True

    def dtype(self, parameters: tf.DType) -> tf.DType:
        """See `Encoding`."""
        return parameters

    def encode(self, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """See `Encoding`."""
        return vector

    def decode(self, encoded: tf.Tensor, weight: tf.Tensor, size: int, parameters: tf.DType) -> tf.Tensor:
        """See `Encoding`."""
        return encoded


class Half(Encoding):
    """16-bit floats of the mean times 256: usual elements of a mean are then far from the smallest and largest floats.

    >>> half, weight = Half(), tf.constant(4.0, tf.float64)
    >>> encoded = half.encode(tf.constant([4.0, -2.0]), weight)
    >>> encoded.dtype.name, encoded.numpy().tolist()
    ('float16', [256.0, -128.0])
    >>> half.decode(encoded, weight, 2, tf.float32).numpy().tolist()
    [4.0, -2.0]
    """

    adds_up = True
    _FACTOR = 256.0

    def dtype(self, parameters: tf.DType) -> tf.DType:
        """See `Encoding`."""
        return tf.float16

    def encode(self, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """See `Encoding`."""
        return tf.cast(vector * self._scale(weight, vector.dtype), tf.float16)

    def decode(self, encoded: tf.Tensor, weight: tf.Tensor, size: int, parameters: tf.DType) -> tf.Tensor:
        """See `Encoding`."""
        return tf.cast(encoded, parameters) / self._scale(weight, parameters)

    def _scale(self, weight: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        return tf.cast(self._FACTOR / tf.maximum(weight, 1.0), dtype)


class BFloat16(Encoding):
    """16-bit floats that reach as far as those of 32 bits, and have eight bits of each element.

    They are not added up as they are: eight bits of a sum of many payloads would be eight bits of the largest.

    >>> weight = tf.constant(1.0, tf.float64)
    >>> encoded = BFloat16().encode(tf.constant([1.0, 257.0]), weight)
    >>> BFloat16().decode(encoded, weight, 2, tf.float32).numpy().tolist()
    [1.0, 256.0]
    """

    def length(self, size: int, parameters: tf.DType) -> int:
        """See `Encoding`."""
        return 2 * size

    def encode(self, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """See `Encoding`."""
        return _bytes_of(tf.cast(vector, tf.bfloat16))

    def decode(self, encoded: tf.Tensor, weight: tf.Tensor, size: int, parameters: tf.DType) -> tf.Tensor:
        """See `Encoding`."""
        return tf.cast(_read(encoded, tf.bfloat16), parameters)


@dataclasses.dataclass(frozen=True)
class Integers(Encoding):
    """n = round(x / s), an integer of b bits, with s = max |x| / (2^(b - 1) - 1) of its chunk; q = n s.

    >>> weight = tf.constant(1.0, tf.float64)
    >>> encoded = Integers(4).encode(tf.constant([7.0, -2.6, 0.4, 0.0]), weight)
    >>> encoded.numpy().tolist()[4:]  # behind the scale, two numbers in a byte, each plus 8
    [95, 136]
    >>> Integers(4).decode(encoded, weight, 4, tf.float32).numpy().tolist()
    [7.0, -3.0, 0.0, 0.0]

    Attributes:
      bits: b, 8 or 4.
    """

    keeps_rest = True
    bits: int

    def length(self, size: int, parameters: tf.DType) -> int:
        """See `Encoding`."""
        chunks, longest = _chunks(size, _SCALED)
        return chunks * (tf.float32.size + longest * self.bits // 8)

    def encode(self, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """See `Encoding`."""
        chunks = _in_chunks(vector, _SCALED)
        largest = tf.reduce_max(tf.abs(chunks), axis=1, keepdims=True)
        scales = tf.cast(largest / (2 ** (self.bits - 1) - 1), tf.float32)
        # Not every number fits into a scale of 32 bits: chunks of tiny ones have a scale of zero, and are kept.
        numbers = tf.round(tf.math.divide_no_nan(chunks, tf.cast(scales, vector.dtype)))
        numbers = tf.cast(tf.reshape(numbers, [-1]), tf.int8)
        return tf.concat([_bytes_of(tf.reshape(scales, [-1])), self._packed(numbers)], axis=0)

    def decode(self, encoded: tf.Tensor, weight: tf.Tensor, size: int, parameters: tf.DType) -> tf.Tensor:
        """See `Encoding`."""
        count, longest = _chunks(size, _SCALED)
        scales, numbers = encoded[: tf.float32.size * count], encoded[tf.float32.size * count :]
        chunks = tf.reshape(tf.cast(self._unpacked(numbers), parameters), [count, longest])
        decoded = chunks * tf.cast(_read(scales, tf.float32), parameters)[:, tf.newaxis]
        return tf.reshape(decoded, [-1])[:size]

    def _packed(self, numbers: tf.Tensor) -> tf.Tensor:
        if self.bits == 8:
            return tf.bitcast(numbers, tf.uint8)
        low, high = tf.unstack(tf.reshape(tf.cast(numbers + 8, tf.uint8), [-1, 2]), axis=1)
        return low + 16 * high

    def _unpacked(self, packed: tf.Tensor) -> tf.Tensor:
        if self.bits == 8:
            return tf.bitcast(packed, tf.int8)
        both = tf.stack([packed % 16, packed // 16], axis=1)
        return tf.cast(tf.reshape(both, [-1]), tf.int8) - 8


@dataclasses.dataclass(frozen=True)
class TopK(Encoding):
    """The largest elements of each chunk as they are, each with its place; the others are not sent.

    >>> weight = tf.constant(1.0, tf.float64)
    >>> encoded = TopK(0.5).encode(tf.constant([1.0, -4.0, 3.0, 2.0]), weight)
    >>> TopK(0.5).decode(encoded, weight, 4, tf.float32).numpy().tolist()
    [0.0, -4.0, 3.0, 0.0]

    Attributes:
      fraction: of the elements that are sent; at least one of each chunk.
    """

    keeps_rest = True
    fraction: float = 0.01

    def length(self, size: int, parameters: tf.DType) -> int:
        """See `Encoding`."""
        chunks, _ = _chunks(size, _SORTED)
        return chunks * self._sent(size) * (parameters.size + tf.uint16.size)

    def encode(self, vector: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """See `Encoding`."""
        chunks = _in_chunks(vector, _SORTED)
        places = tf.math.top_k(tf.abs(chunks), self._sent(vector.shape[0]), sorted=False).indices
        values = tf.gather(chunks, places, batch_dims=1)
        parts = values, tf.cast(places, tf.uint16)
        return tf.concat([_bytes_of(tf.reshape(part, [-1])) for part in parts], axis=0)

    def decode(self, encoded: tf.Tensor, weight: tf.Tensor, size: int, parameters: tf.DType) -> tf.Tensor:
        """See `Encoding`."""
        count, longest = _chunks(size, _SORTED)
        value_bytes = count * self._sent(size) * parameters.size
        places = tf.cast(tf.reshape(_read(encoded[value_bytes:], tf.uint16), [count, -1]), tf.int32)
        places = tf.reshape(places + longest * tf.range(count)[:, tf.newaxis], [-1, 1])
        return tf.scatter_nd(places, _read(encoded[:value_bytes], parameters), [count * longest])[:size]

    def _sent(self, size: int) -> int:
        """How many elements of each chunk are sent, k."""
        return max(round(self.fraction * _chunks(size, _SORTED)[1]), 1)


def _chunks(size: int, most: int) -> tuple[int, int]:
    """How many equal chunks of even length, `most` at most, hold a vector [size]; and their length.

    >>> _chunks(5000, 4096), _chunks(11, 4096)
    ((2, 2500), (1, 12))
    """
    count = -(-size // most)
    return count, 2 * -(-size // (2 * count))


def _in_chunks(vector: tf.Tensor, most: int) -> tf.Tensor:
    """The vector in chunks [count, length], with zeros behind its end."""
    size = vector.shape[0]
    count, longest = _chunks(size, most)
    return tf.reshape(tf.pad(vector, [[0, count * longest - size]]), [count, longest])


def _bytes_of(numbers: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.bitcast(numbers, tf.uint8), [-1])


def _read(encoded: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The numbers of a type that these bytes are."""
    return tf.bitcast(tf.reshape(encoded, [-1, dtype.size]), dtype)


DENSE = Dense()
_BFLOAT16 = BFloat16()
ENCODINGS: dict[str, Encoding] = {
    "none": DENSE,
    "float16": Half(),
    "bfloat16": _BFLOAT16,
    "int8": Integers(8),
    "int4": Integers(4),
    "topk": TopK(),
}


def slot_encoding(encoding: Encoding) -> Encoding:
    """How an optimizer's slots travel beside payloads of this encoding.

    Squares of gradients span more than integers or half floats reach: those that became zero would divide by it.
    """
    return DENSE if encoding is DENSE else _BFLOAT16


def find_encoding(name: str, topk_fraction: float) -> Encoding:
    """The encoding of a name of `ENCODINGS` that sends such a share, if it is one that sends a share."""
    found = ENCODINGS[name]
    return dataclasses.replace(found, fraction=topk_fraction) if isinstance(found, TopK) else found
