import numpy as np
import pytest
import tensorflow as tf

from tfnmt.batch import PAD_ID
from tfnmt.models import output

WIDTH, VOCABULARY_SIZE = 5, 11


def random(*shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1], dtype=tf.float64)


def target_ids(sentences=3, length=4):
    ids = np.random.default_rng(0).integers(1, VOCABULARY_SIZE, (sentences, length))
    ids[1, 2:] = PAD_ID
    return tf.constant(ids, tf.int32)


def plain_loss(states, kernel, bias, ids, smoothing):
    """The definition: cross entropy between the smoothed references and softmax(h K' + b)."""
    scores = tf.einsum("btd,vd->btv", states, kernel) + (0 if bias is None else bias)
    references = (1 - smoothing) * tf.one_hot(ids, VOCABULARY_SIZE, dtype=scores.dtype) + smoothing / VOCABULARY_SIZE
    losses = -tf.reduce_sum(references * tf.nn.log_softmax(scores), axis=-1)
    return tf.reduce_sum(tf.where(ids == PAD_ID, tf.zeros_like(losses), losses))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("chunk_rows", [1, 5, 1024])
def test_loss_and_gradient_are_the_definition(monkeypatch, chunk_rows, biased, smoothing):
    monkeypatch.setattr(output, "CHUNK_ROWS", chunk_rows)
    ids = target_ids()
    inputs = [random(3, 4, WIDTH), random(VOCABULARY_SIZE, WIDTH, seed=1)]
    inputs += [random(VOCABULARY_SIZE, seed=2)] if biased else []

    @tf.function
    def both(*inputs):
        arguments = (*inputs, *([] if biased else [None]), ids, smoothing)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            sums = output.loss_sums(*arguments)
            loss, expected = 3 * sums.loss, 3 * plain_loss(*arguments)
        return (loss, sums.cross_entropy, tape.gradient(loss, inputs)), (expected, tape.gradient(expected, inputs))

    (loss, cross_entropy, gradients), (expected, expected_gradients) = both(*inputs)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    for gradient, expected_gradient in zip(gradients, expected_gradients):
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-12)
    unsmoothed = plain_loss(*inputs, *([] if biased else [None]), ids, 0.0)
    np.testing.assert_allclose(cross_entropy, unsmoothed, rtol=1e-12)
    scores = output.log_probabilities(*inputs, *([] if biased else [None]), ids)
    np.testing.assert_allclose(-tf.reduce_sum(scores), unsmoothed, rtol=1e-6)


def test_tokens_are_counted_without_padding():
    sums = output.loss_sums(random(3, 4, WIDTH), random(VOCABULARY_SIZE, WIDTH), None, target_ids(), 0.1)
    assert sums.target_tokens == 10 and sums.target_tokens.dtype == sums.loss.dtype


def test_hopeless_reference_leaves_loss_and_gradient_finite():
    states, kernel = tf.constant([[[200.0]]]), tf.constant([[0.0], [1.0], [-1.0]])
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        loss = output.loss_sums(states, kernel, None, tf.constant([[2]]), 0.0).loss
    np.testing.assert_allclose(tape.gradient(loss, kernel), [[0.0], [200.0], [-200.0]], atol=1e-6)
    assert 80 < loss < 400


def test_logits_are_float32_whatever_the_precision():
    states, kernel = (tf.cast(random(*shape), tf.bfloat16) for shape in ((2, 3, WIDTH), (VOCABULARY_SIZE, WIDTH)))
    scores = output.logits(states, kernel)
    assert scores.dtype == tf.float32 and scores.shape == (2, 3, VOCABULARY_SIZE)
