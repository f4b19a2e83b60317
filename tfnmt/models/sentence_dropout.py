"""Dropout with one mask for all positions of a sentence (Gal and Ghahramani 2016), as recurrent layers need it."""

import tensorflow as tf

from tfnmt.models.dropout import Dropout


class SentenceDropout:
    """Masks of one step; each call is a new place, numbered in the order in which the graph asks."""

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
