"""What every model must do; a model's test inherits `ModelContract` and gives the model."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import op_callbacks

from graphs.forward_backward import forward_backward
from tfnmt.batch import BEGIN_ID, END_ID, PAD_ID, Batch
from tfnmt.engines.streams import in_streams
from tfnmt.layout import Layout
from tfnmt.models.base import Model, ModelSettings

VOCABULARY_SIZE = 19
SEED = tf.constant([3, 4])


def make_batch(source_lengths=(4, 6, 2), target_lengths=(5, 3, 7), extra=0, seed=0) -> Batch:
    """Random sentences of these lengths, `extra` columns of padding behind them."""
    generator = np.random.default_rng(seed)

    def fill(lengths):
        ids = np.full((len(lengths), max(lengths) + extra), PAD_ID, np.int32)
        for row, length in zip(ids, lengths):
            row[: length - 1] = generator.integers(END_ID + 1, VOCABULARY_SIZE, length - 1)
            row[length - 1] = END_ID
        return tf.constant(ids)

    return Batch(fill(source_lengths), fill(target_lengths), tf.zeros([3], tf.int64))


def matrix_operations(run: Callable[[], object]) -> float:
    """Multiplications and additions of the matrix products that `run` executes, eagerly."""
    total = 0.0

    def count(op_type, inputs, attributes, outputs, *_, **__):
        nonlocal total
        attributes, op_type = dict(zip(attributes[::2], attributes[1::2])), tf.compat.as_str(op_type)
        if op_type == "MatMul":
            inner = inputs[0].shape[0 if attributes["transpose_a"] else 1]
        elif op_type.startswith("BatchMatMul"):
            inner = inputs[0].shape[-2 if attributes["adj_x"] else -1]
        else:
            return
        total += 2.0 * inner * outputs[0].shape.num_elements()

    op_callbacks.add_op_callback(count)
    try:
        run()
    finally:
        op_callbacks.remove_op_callback(count)
    return total


def gradient_of(model: Model, layout: Layout, seed: tf.Tensor | None) -> Callable:
    """(parameters, batch) -> its gradient and its sums, by one graph for every shape."""
    ids = tf.TensorSpec([None, None], tf.int32)

    @tf.function(input_signature=[tf.TensorSpec([layout.size], tf.float64), ids, ids])
    def run(parameters, source_ids, target_ids):
        return forward_backward(model.loss, layout, parameters, Batch(source_ids, target_ids, None), seed)

    return lambda parameters, batch: run(parameters, batch.source_ids, batch.target_ids)


@functools.cache
def _model(contract: "type[ModelContract]") -> Model:
    return contract().build(contract.settings)


@functools.cache
def _gradient(contract: "type[ModelContract]", is_dropping: bool) -> Callable:
    model = _model(contract)
    return gradient_of(model, Layout(model.parameters), SEED if is_dropping else None)


class ModelContract:
    """Inherited by the test of each model, whose tests share its graphs: to build them takes most of the time."""

    settings: ModelSettings

    def build(self, settings: ModelSettings) -> Model:
        """The model with `settings` and joint vocabularies of `VOCABULARY_SIZE`."""
        raise NotImplementedError

    @pytest.fixture
    def model(self) -> Model:
        return _model(type(self))

    @pytest.fixture
    def layout(self, model) -> Layout:
        return Layout(model.parameters)

    @pytest.fixture
    def gradient(self) -> Callable:
        return _gradient(type(self), is_dropping=False)

    @pytest.fixture
    def dropout_gradient(self) -> Callable:
        return _gradient(type(self), is_dropping=True)

    def parameters(self, layout: Layout, dtype=tf.float64) -> tf.Tensor:
        """Initial values moved a little, so that no scale is 1 and no bias 0."""
        moved = 0.1 * tf.random.stateless_normal([layout.size], [5, 6], dtype=tf.float64)
        return tf.cast(tf.cast(layout.initialize(1), tf.float64) + moved, dtype)

    @pytest.mark.parametrize("name, seed", [("gradient", None), ("dropout_gradient", SEED)], ids=["plain", "dropout"])
    def test_gradient_equals_finite_differences(self, model, layout, name, seed, request):
        parameters, batch = self.parameters(layout), make_batch()
        run = request.getfixturevalue(name)
        gradient, sums = run(parameters, batch)
        np.testing.assert_allclose(sums.loss, model.loss(layout.unpack(parameters), batch, seed).loss, rtol=1e-12)
        step = 1e-5
        for place, parameter in enumerate(layout.parameters):
            # One direction inside of each parameter: a fault in any of them is seen, and named.
            inside = slice(layout.offsets[place], layout.offsets[place] + parameter.size)
            direction = np.zeros(layout.size)
            direction[inside] = np.random.default_rng(place).normal(size=parameter.size)
            ahead, behind = (run(parameters + sign * step * direction, batch)[1].loss for sign in (1, -1))
            slope, expected = np.dot(gradient.numpy(), direction), (ahead - behind) / (2 * step)
            np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6, err_msg=parameter.name)

    def test_padding_changes_nothing(self, model, layout, gradient):
        parameters = self.parameters(layout)
        own, sums = gradient(parameters, make_batch())
        padded_gradient, padded_sums = gradient(parameters, make_batch(extra=3))
        for name, total, padded in zip(sums._fields, sums, padded_sums):
            np.testing.assert_allclose(total, padded, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(own, padded_gradient, rtol=1e-9, atol=1e-10)
        padded_batch = make_batch(extra=3)
        scores = model.log_probabilities(layout.unpack(parameters), make_batch())
        padded_scores = model.log_probabilities(layout.unpack(parameters), padded_batch)
        np.testing.assert_allclose(scores, padded_scores[:, :-3], rtol=1e-6)
        assert not np.any(padded_scores.numpy()[padded_batch.target_ids.numpy() == PAD_ID])

    def test_halves_sum_to_the_whole(self, layout, gradient):
        parameters, batch = self.parameters(layout), make_batch()
        whole = gradient(parameters, batch)
        halves = [
            gradient(parameters, Batch(batch.source_ids[part], batch.target_ids[part], None))
            for part in (slice(0, 1), slice(1, 3))
        ]
        for total, first, second in zip(*(tf.nest.flatten(part) for part in (whole, *halves))):
            np.testing.assert_allclose(total, first + second, rtol=1e-9, atol=1e-10)

    def test_parts_side_by_side_sum_to_the_whole(self, model, layout, gradient):
        """Three streams of two sentences: one of them has nothing to do."""
        parameters, batch = self.parameters(layout), make_batch((4, 6), (5, 3))
        cut = tf.function(lambda vector: forward_backward(in_streams(model.loss, 3), layout, vector, batch, None))
        for total, parts in zip(*map(tf.nest.flatten, (gradient(parameters, batch), cut(parameters)))):
            np.testing.assert_allclose(total, parts, rtol=1e-9, atol=1e-10)

    def test_loss_is_that_of_the_log_probabilities(self, model, layout):
        views, batch = layout.unpack(self.parameters(layout)), make_batch()
        sums = model.loss(views, batch)
        assert sums.target_tokens == np.count_nonzero(batch.target_ids)
        np.testing.assert_allclose(sums.cross_entropy, -tf.reduce_sum(model.log_probabilities(views, batch)), rtol=1e-6)

    def test_steps_equal_teacher_forcing(self, model, layout):
        views, batch, beams = layout.unpack(self.parameters(layout)), make_batch(), 2
        expected = model.log_probabilities(views, batch).numpy()
        memory = model.encode(views, batch.source_ids)
        length = batch.target_ids.shape[1]
        cache = model.start(views, memory, beams, tf.constant(length))
        previous = tf.fill([batch.target_ids.shape[0], beams], BEGIN_ID)
        for step in range(length):
            logits, cache, attention = model.step(views, memory, cache, previous, tf.constant(step))
            ids = batch.target_ids[:, step]
            for beam in range(beams):
                scores = tf.gather(tf.nn.log_softmax(logits[:, beam]), ids, batch_dims=1).numpy()
                tokens = ids.numpy() != PAD_ID
                np.testing.assert_allclose(scores[tokens], expected[tokens, step], rtol=1e-5)
            np.testing.assert_allclose(tf.reduce_sum(attention, axis=-1), np.ones([3, beams]), rtol=1e-5)
            assert not np.any(attention.numpy()[:, 0][batch.source_ids.numpy() == PAD_ID])
            previous = tf.repeat(ids[:, None], beams, axis=1)

    def test_no_token_reads_a_later_one(self, model, layout):
        views, batch = layout.unpack(self.parameters(layout)), make_batch(target_lengths=(6, 6, 6))
        changed = batch.target_ids.numpy().copy()
        changed[:, 3] = END_ID + 1 + (changed[:, 3] - END_ID) % (VOCABULARY_SIZE - END_ID - 1)
        before = model.log_probabilities(views, batch).numpy()
        behind = model.log_probabilities(views, batch._replace(target_ids=tf.constant(changed))).numpy()
        np.testing.assert_allclose(before[:, :3], behind[:, :3], rtol=1e-6)
        assert np.all(before[:, 3:5] != behind[:, 3:5])

    def test_of_a_table_that_is_looked_up_source_tokens_rows_are_read_alone(self, layout, gradient):
        """The others may be anything: loss and gradient stay the same, and are zero for what is not read."""
        batch, vector = make_batch(), layout.initialize(1, tf.float64).numpy()
        names = [parameter.name for parameter in layout.parameters if parameter.looked_up]
        expected, sums = gradient(tf.constant(vector), batch)
        unread = np.setdiff1d(np.arange(VOCABULARY_SIZE), batch.source_ids)
        for name in names:
            layout.unpack_array(vector)[name][unread] = np.nan
            assert not layout.unpack_array(expected.numpy())[name][unread].any()
        found, others = gradient(tf.constant(vector), batch)
        np.testing.assert_array_equal(found, expected)
        assert others.loss == sums.loss
        assert names == (["encoder/embedding"] if "encoder/embedding" in layout.unpack_array(vector) else [])

    def test_dropout_depends_on_the_seed_alone(self, model, layout):
        views, batch = layout.unpack(self.parameters(layout)), make_batch()
        run = tf.function(lambda seed: model.loss(views, batch, seed).loss)
        seeds = [tf.constant(seed) for seed in ([1, 2], [1, 3], [2, 2], [1, 2])]
        losses = [float(run(seed)) for seed in seeds]
        assert losses[0] == losses[3]
        # Graphs fuse operations, which rounds otherwise.
        np.testing.assert_allclose(losses[0], model.loss(views, batch, seeds[0]).loss, rtol=1e-12)
        assert len({*losses, float(model.loss(views, batch).loss)}) == 4

    def test_bfloat16_is_close_and_leaves_parameters_in_float32(self, layout):
        views_of = {}
        for precision in ("float32", "bfloat16"):
            model = self.build(dataclasses.replace(self.settings, precision=precision))
            parameters = self.parameters(layout, tf.float32)
            views_of[precision] = forward_backward(model.loss, layout, parameters, make_batch(), None)
            assert {parameter.name for parameter in model.parameters} == {p.name for p in layout.parameters}
        (exact, exact_sums), (rounded, rounded_sums) = views_of.values()
        assert rounded.dtype == tf.float32
        np.testing.assert_allclose(rounded_sums.loss, exact_sums.loss, rtol=0.01)
        cosine = np.dot(exact, rounded) / np.linalg.norm(exact) / np.linalg.norm(rounded)
        assert cosine > 0.99, cosine

    def test_one_graph_serves_every_shape(self, layout, dropout_gradient):
        for lengths in ((4, 6), (3,)):
            gradient, sums = dropout_gradient(self.parameters(layout), make_batch(lengths, lengths))
            assert np.isfinite(sums.loss) and np.isfinite(gradient).all()
