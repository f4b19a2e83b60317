"""Dropout addressed by (seed, place): the same seed drops the same activations, whatever ran before.

Recurrent layers need one mask for all positions of a sentence (Gal and Ghahramani 2016).
"""

from collections.abc import Callable

import tensorflow as tf

LEVELS = 256  # values of one random byte


class Dropout:
    """Drops activations at the places of one step, numbered in the order in which the graph asks for them.

    A mask costs one random byte for each position, so a rate is rounded to a multiple of 1/256; kept activations
    are divided by the share that is really kept, so that the expectation is exact.
    """

    def __init__(self, rate: float, seed: tf.Tensor | None, purpose: int = 0):
        """Drops a share of the activations by the stateless seed, int32 [2], of this step; none without a seed.

        The purpose tells the dropouts of one step, of different rates, apart.
        """
        self._dropped_levels = 0 if seed is None else round(rate * LEVELS)
        self._places = 0
        if self.active:
            # One scrambled key for the step; the places differ in the counter's upper half, which no mask reaches.
            self._key, self._counter, self._algorithm = tf.raw_ops.StatelessRandomGetKeyCounterAlg(seed=seed)
            self._first_place = purpose << 32

    @property
    def active(self) -> bool:
        """Whether anything is dropped."""
        return self._dropped_levels > 0

    @property
    def scale(self) -> float:
        """The factor of the activations that are kept; 1 when nothing is dropped."""
        return LEVELS / (LEVELS - self._dropped_levels)

    def mask(self, shape: tf.Tensor) -> tf.Tensor:
        """True where an activation is kept; bool of the int32 `shape`. Every call is a new place."""
        size = tf.reduce_prod(shape, keepdims=True)
        counter = self._counter + tf.constant([0, self._first_place + self._places], tf.uint64)
        self._places += 1
        words = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=(size + 3) // 4, key=self._key, counter=counter, alg=self._algorithm, dtype=tf.uint32
        )
        random_bytes = tf.slice(tf.reshape(tf.bitcast(words, tf.uint8), [-1]), [0], size)
        return tf.reshape(random_bytes >= tf.constant(self._dropped_levels, tf.uint8), shape)

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        """`inputs` with a share of its elements set to zero and the rest scaled up."""
        if not self.active:
            return inputs
        mask = tf.cast(self.mask(tf.shape(inputs)), inputs.dtype)
        return inputs * (mask * tf.constant(self.scale, inputs.dtype))

    def add(self, residual: tf.Tensor, branch: tf.Tensor) -> tf.Tensor:
        """`residual` plus what is kept of `branch`: the end of a residual branch.

        The branch must carry the factor `scale` already: in the kernel of its last layer it costs nearly nothing.
        """
        if not self.active:
            return residual + branch
        mask = tf.cast(self.mask(tf.shape(branch)), branch.dtype)

        @tf.custom_gradient
        def compute(residual: tf.Tensor, branch: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            return residual + branch * mask, lambda upstream: (upstream, upstream * mask)

        return compute(residual, branch)


class SentenceDropout:
    """Dropout with one mask for all positions of a sentence; each call is a new place."""

    def __init__(self, rate: float, seed: tf.Tensor | None, purpose: int = 0):
        """See `Dropout`."""
        self._dropout = Dropout(rate, seed, purpose)

    def mask(self, like: tf.Tensor, width: int) -> tf.Tensor | None:
        """Zeros and scaled ones [B, width] for `like` [..., B, any], in its dtype; None when nothing is dropped."""
        if not self._dropout.active:
            return None
        return self._dropout(tf.ones([tf.shape(like)[-2], width], like.dtype))

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        """`inputs` [T, B, width] with the same elements dropped at all T positions."""
        mask = self.mask(inputs, inputs.shape[-1])
        return inputs if mask is None else inputs * mask
