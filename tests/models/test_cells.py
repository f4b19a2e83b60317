import numpy as np
import pytest
import tensorflow as tf

from tfnmt.layout import Layout
from tfnmt.models.cells import CELLS, DeepCell, orthogonal
from tfnmt.models.recurrence import multiply_by

N, D, I = 3, 4, 5  # noqa: E741


def sigma(x):
    return 1 / (1 + np.exp(-x))


def norm(x, scale, offset):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + offset


def views_of(cell):
    layout = Layout(cell.parameters())
    return layout.unpack_array(np.random.default_rng(0).normal(size=layout.size))


def tensors(views):
    return {name: tf.constant(view) for name, view in views.items()}


def gates(views, prefix, h, inputs, normalized):
    """Columns x and u of one cell by the equations."""
    u = h @ views[f"{prefix}/recurrent/kernel"]
    x = 0 if inputs is None else inputs @ views[f"{prefix}/input/kernel"]
    if normalized:
        u = norm(u, views[f"{prefix}/recurrent/scale"], views[f"{prefix}/recurrent/offset"])
        if inputs is not None:
            return norm(x, views[f"{prefix}/input/scale"], views[f"{prefix}/input/offset"]), u
    return np.broadcast_to(x + views[f"{prefix}/bias"], u.shape), u


def gru(views, prefix, state, inputs, normalized):
    (h,) = state
    x, u = (np.split(part, 3, axis=1) for part in gates(views, prefix, h, inputs, normalized))
    r, z = sigma(x[0] + u[0]), sigma(x[1] + u[1])
    return (z * h + (1 - z) * np.tanh(x[2] + r * u[2]),)


def lstm(views, prefix, state, inputs, normalized):
    h, c = state
    i, f, o, candidate = np.split(sum(gates(views, prefix, h, inputs, normalized)), 4, axis=1)
    c = sigma(f + 1) * c + sigma(i) * np.tanh(candidate)
    return sigma(o) * np.tanh(c), c


ORACLES = {"gru": gru, "lstm": lstm}


def random_state(cell):
    generator = np.random.default_rng(1)
    return tuple(generator.normal(size=(N, D)) for _ in range(cell.state_size))


@pytest.mark.parametrize("normalized", [False, True], ids=["plain", "normalized"])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_cells_on_end_are_the_equations(kind, normalized):
    cell = DeepCell(CELLS[kind], "cell", D, I, 2, normalized)
    views, state = views_of(cell), random_state(cell)
    inputs = np.random.default_rng(2).normal(size=(N, I))
    expected = ORACLES[kind](views, "cell/0", state, inputs, normalized)
    expected = ORACLES[kind](views, "cell/1", expected, None, normalized)
    constants, multiply = tensors(views), multiply_by(tensors(views))
    projected = cell.project(multiply, constants, tf.constant(inputs))
    found = cell.step(multiply, constants, tuple(map(tf.constant, state)), projected)
    for part, oracle in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, oracle, rtol=1e-10)


def test_dropout_of_the_state_touches_the_product_alone():
    cell = DeepCell(CELLS["gru"], "cell", D, I, 1, False)
    views, (h,) = views_of(cell), random_state(cell)
    constants, projected = tensors(views), np.random.default_rng(3).normal(size=(N, 3 * D))
    (found,) = cell.step(multiply_by(constants), constants, (tf.constant(h),), tf.constant(projected), tf.zeros_like(h))
    _, z, candidate = np.split(projected, 3, axis=1)
    np.testing.assert_allclose(found, sigma(z) * h + (1 - sigma(z)) * np.tanh(candidate), rtol=1e-10)


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_a_run_takes_one_step_after_the_other_and_stays_zero_before_the_sentence(backwards):
    cell = DeepCell(CELLS["lstm"], "cell", D, I, 2, True)
    constants = tensors(views_of(cell))
    inputs = tf.constant(np.random.default_rng(4).normal(size=(4, N, I)))
    keep = tf.constant([[True] * N, [True, True, False], [True, False, False], [True, False, False]])
    found = cell.run(constants, inputs, cell.zeros(inputs), keep=keep, backwards=backwards).numpy()
    for sentence, length in enumerate([4, 2, 1]):
        state = cell.zeros(inputs[:, :1])
        for position in reversed(range(length)) if backwards else range(length):
            projected = cell.project(multiply_by(constants), constants, inputs[position, sentence][None])
            state = cell.step(multiply_by(constants), constants, state, projected)
            np.testing.assert_allclose(found[position, sentence], state[0][0], rtol=1e-10)
        assert not found[length:, sentence].any()


def test_recurrent_kernels_start_orthogonal():
    kernel = orthogonal((D, 3 * D), tf.constant([1, 2])).numpy()
    for gate in np.split(kernel, 3, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(D), atol=1e-5)
    assert not np.allclose(kernel[:, :D], kernel[:, D : 2 * D])
