"""One step of a beam: which tokens may come next, and which hypotheses survive."""

from typing import NamedTuple

import tensorflow as tf

from tfnmt.batch import BEGIN_ID, END_ID, PAD_ID, UNKNOWN_ID
from tfnmt.decoding.largest import largest

IMPOSSIBLE = float("-inf")


class Candidates(NamedTuple):
    """The best continuations of a sentence's hypotheses, best first; C of them."""

    log_probabilities: tf.Tensor  # float32 [B, C]: of the whole hypothesis; minus infinity where there is none
    parents: tf.Tensor  # int32 [B, C]: the hypothesis that is continued
    tokens: tf.Tensor  # int32 [B, C]: the token that it is continued with


def length_penalty(length: tf.Tensor, exponent: float) -> tf.Tensor:
    """((5 + length) / 6)^exponent, float32: what log-probabilities of that many tokens are divided by.

    This is the penalty of Wu et al. (2016), "Google's Neural Machine Translation System", equation 14 without
    its coverage.
    """
    return tf.pow((5.0 + tf.cast(length, tf.float32)) / 6.0, exponent)


def best_candidates(
    log_probabilities: tf.Tensor, logits: tf.Tensor, must_end: tf.Tensor, allow_unknown: bool = False
) -> Candidates:
    """The 2K best continuations: as at most K of them end their hypothesis, K are left to go on.

    Probabilities are normalised over the whole vocabulary, so that scores equal forced scores; forbidden tokens are
    passed over afterwards. Equal candidates are taken in the order of hypotheses, then of tokens.

    Args:
      log_probabilities: float32 [B, K], of the hypotheses so far.
      logits: float32 [B, K, V], of their next tokens.
      must_end: bool [B], where END_ID is the only token allowed.
      allow_unknown: whether UNKNOWN_ID may be chosen.
    """
    forbidden = [PAD_ID, BEGIN_ID] + ([] if allow_unknown else [UNKNOWN_ID])
    hypotheses = logits.shape[1]
    values, tokens = largest(logits, 2 * hypotheses + len(forbidden))  # [B, K, W]
    largest_logits = values[:, :, :1]
    normalizers = largest_logits + tf.math.log(tf.reduce_sum(tf.exp(logits - largest_logits), axis=2, keepdims=True))
    for token in forbidden:
        values = tf.where(tokens == token, IMPOSSIBLE, values)
    values, tokens = _only_end(values, tokens, logits[:, :, END_ID], must_end[:, None, None])
    return _best_of_all(log_probabilities[:, :, None] - normalizers + values, tokens, 2 * hypotheses)


def _only_end(
    values: tf.Tensor, tokens: tf.Tensor, end_logits: tf.Tensor, must_end: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Values and tokens [B, K, W], with END_ID as the single candidate where `must_end` [B, 1, 1]."""
    width = tf.shape(values)[2]
    ending = tf.where(tf.range(width) == 0, end_logits[:, :, None], IMPOSSIBLE)
    return tf.where(must_end, ending, values), tf.where(must_end, END_ID, tokens)


def _best_of_all(values: tf.Tensor, tokens: tf.Tensor, count: int) -> Candidates:
    """The `count` best of values [B, K, W] over all hypotheses of a sentence."""
    sentences, hypotheses, width = tf.unstack(tf.shape(values))
    everything = [sentences, hypotheses * width]
    best, places = tf.math.top_k(tf.reshape(values, everything), count)
    return Candidates(best, places // width, tf.gather(tf.reshape(tokens, everything), places, batch_dims=1))


def going_on(candidates: Candidates, count: int) -> Candidates:
    """The `count` best candidates that do not end their hypothesis."""
    open_values = tf.where(candidates.tokens == END_ID, IMPOSSIBLE, candidates.log_probabilities)
    best, places = tf.math.top_k(open_values, count)
    return Candidates(
        best, *(tf.gather(field, places, batch_dims=1) for field in (candidates.parents, candidates.tokens))
    )


def ending(candidates: Candidates, count: int) -> Candidates:
    """The first `count` candidates, impossible where they do not end their hypothesis."""
    first = Candidates(*(field[:, :count] for field in candidates))
    return first._replace(log_probabilities=tf.where(first.tokens == END_ID, first.log_probabilities, IMPOSSIBLE))
