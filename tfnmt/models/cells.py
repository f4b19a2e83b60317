"""Recurrent cells as functions of named views: GRU, LSTM, and several of them on end for one token.

    GRU (Cho et al. 2014)                LSTM (Hochreiter and Schmidhuber 1997, with a forget gate)
    r = sigma(x_r + u_r)                 i, f, o = sigma(x_i + u_i), sigma(x_f + u_f), sigma(x_o + u_o)
    z = sigma(x_z + u_z)                 c' = f c + i tanh(x_c + u_c)
    h' = z h + (1 - z) tanh(x_c + r u_c) h' = o tanh(c')

with x = input W + b and u = h U. Departure from the GRU's paper: the reset gate acts behind the product with U, as in
Nematus and Marian, so that one product gives all gates. With layer normalization (Ba et al. 2016), x and u are
normalized, each over all gates together.
"""

import abc
from collections.abc import Mapping

import tensorflow as tf

from tfnmt.layout import Parameter
from tfnmt.models import layers
from tfnmt.models.base import Views
from tfnmt.models.recurrence import Multiply, Tensors, add_bias, multiply_by, recur


class Cell(abc.ABC):
    """One cell of `width` D.

    Attributes:
      gates: G, blocks of D columns in each product.
      state_size: tensors [N, D] of the state; the first is the cell's output.
      weights: names of the matrices that `step` multiplies with.
      constants: names of the other parameters that `step` reads.
    """

    gates: int
    state_size: int

    def __init__(self, name: str, width: int, input_width: int | None, normalized: bool):
        """Names the cell's parameters; `input_width` is None for a cell that reads its state alone."""
        self.width, self._input_width, self._normalized = width, input_width, normalized
        self.input_kernel, self._recurrent_kernel = f"{name}/input/kernel", f"{name}/recurrent/kernel"
        self._bias, self._input_norm, self._recurrent_norm = f"{name}/bias", f"{name}/input", f"{name}/recurrent"
        self.weights = [self._recurrent_kernel]
        self.constants = [f"{self._recurrent_norm}/{part}" for part in ("scale", "offset") if normalized]
        self.input_constants = [self._bias]
        if normalized and input_width is not None:
            self.input_constants = [f"{self._input_norm}/{part}" for part in ("scale", "offset")]

    def parameters(self) -> list[Parameter]:
        """The parameters of the cell."""
        columns = self.gates * self.width
        declared = [Parameter(self._recurrent_kernel, (self.width, columns), orthogonal)]
        if self._input_width is not None:
            declared += [Parameter(self.input_kernel, (self._input_width, columns), layers.glorot(self.gates))]
        if self._normalized:
            declared += layers.norm_parameters(self._recurrent_norm, columns)
        if self._normalized and self._input_width is not None:
            return declared + layers.norm_parameters(self._input_norm, columns)
        return [*declared, Parameter(self._bias, (columns,), layers.zeros)]

    def project(self, multiply: Multiply, views: Mapping[str, tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """x [N, G D] of `inputs` [N, I], for one position or for many."""
        projected = multiply(inputs, self.input_kernel)
        if self._normalized:
            return layers.layer_norm(views, self._input_norm, projected)
        return add_bias(projected, views[self._bias])

    def step(
        self,
        multiply: Multiply,
        views: Mapping[str, tf.Tensor],
        state: Tensors,
        projected: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> Tensors:
        """The state, tensors [N, D], behind one position, from the one before it.

        `projected` is x [N, G D], or None for a cell that reads its state alone; `mask` [N, D] is the dropout of the
        state on its way into the product.
        """
        recurrent = multiply(state[0] if mask is None else state[0] * mask, self._recurrent_kernel)
        if self._normalized:
            recurrent = layers.layer_norm(views, self._recurrent_norm, recurrent)
        return self._combine(views[self._bias] if projected is None else projected, recurrent, state)

    @abc.abstractmethod
    def _combine(self, x: tf.Tensor, u: tf.Tensor, state: Tensors) -> Tensors:
        """The new state of x and u [N, G D]."""


class GatedRecurrentUnit(Cell):
    """GRU; gates r, z and the candidate."""

    gates = 3
    state_size = 1

    def _combine(self, x: tf.Tensor, u: tf.Tensor, state: Tensors) -> Tensors:
        (h,) = state
        (x_r, x_z, x_c), (u_r, u_z, u_c) = tf.split(x, 3, axis=-1), tf.split(u, 3, axis=-1)
        r, z = tf.sigmoid(x_r + u_r), tf.sigmoid(x_z + u_z)
        candidate = tf.tanh(x_c + r * u_c)
        return (candidate + z * (h - candidate),)


class LongShortTermMemory(Cell):
    """LSTM; gates i, f, o and the candidate. The forget gate starts open, at sigma(1)."""

    gates = 4
    state_size = 2

    def _combine(self, x: tf.Tensor, u: tf.Tensor, state: Tensors) -> Tensors:
        _, c = state
        i, f, o, candidate = tf.split(x + u, 4, axis=-1)
        c = tf.sigmoid(f + 1) * c + tf.sigmoid(i) * tf.tanh(candidate)
        return tf.sigmoid(o) * tf.tanh(c), c


CELLS: dict[str, type[Cell]] = {"gru": GatedRecurrentUnit, "lstm": LongShortTermMemory}
"""Cell by its name on the command line."""


class DeepCell:
    """Cells on end: each position's state passes through all of them; the first alone reads the input.

    The deep transition of "Deep architectures for neural machine translation" (Miceli Barone et al. 2017).
    """

    def __init__(self, kind: type[Cell], name: str, width: int, input_width: int | None, depth: int, normalized: bool):
        """`depth` cells of `kind`; see `Cell`."""
        self._cells = [
            kind(f"{name}/{number}", width, None if number else input_width, normalized) for number in range(depth)
        ]
        self.width, self.state_size = width, kind.state_size
        self.project = self._cells[0].project
        self.input_kernel = self._cells[0].input_kernel
        self.input_constants = self._cells[0].input_constants
        self.weights = [name for cell in self._cells for name in cell.weights]
        self.constants = [name for cell in self._cells for name in cell.constants]
        self.constants += [name for cell in self._cells[1:] for name in cell.input_constants]

    def parameters(self) -> list[Parameter]:
        """The parameters of the cells."""
        return [parameter for cell in self._cells for parameter in cell.parameters()]

    def step(
        self, multiply: Multiply, views: Views, state: Tensors, projected: tf.Tensor, mask: tf.Tensor | None = None
    ) -> Tensors:
        """The state behind one position; see `Cell.step`."""
        state = self._cells[0].step(multiply, views, state, projected, mask)
        for cell in self._cells[1:]:
            state = cell.step(multiply, views, state, mask=mask)
        return state

    def zeros(self, like: tf.Tensor) -> Tensors:
        """The state that knows nothing, for inputs `like` [T, B, I]."""
        return (tf.zeros([tf.shape(like)[1], self.width], like.dtype),) * self.state_size

    def run(
        self,
        views: Views,
        inputs: tf.Tensor,
        initial: Tensors,
        mask: tf.Tensor | None = None,
        *,
        keep: tf.Tensor | None = None,
        backwards: bool = False,
    ) -> tf.Tensor:
        """The output at each of T positions.

        Args:
          views: the parameters.
          inputs: [T, B, I].
          initial: the state before the first position.
          mask: dropout of the state on its way into each product, [B, D], or None.
          keep: bool [T, B], false where the state is set to zero; None for nowhere.
          backwards: whether to run from the last position to the first.

        Returns:
          [T, B, D]
        """

        def step(multiply: Multiply, state: Tensors, here: Tensors, constants: Views) -> tuple[Tensors, Tensors]:
            projected, *kept = here
            state = self.step(multiply, constants, state, projected, mask)
            return tuple(part * tf.cast(kept[0], part.dtype) for part in state) if kept else state, ()

        projected = self.project(multiply_by(views), views, inputs)
        inputs = (projected,) if keep is None else (projected, keep[..., None])
        weights, constants = ({name: views[name] for name in names} for names in (self.weights, self.constants))
        states, _ = recur(step, initial, inputs, weights, constants, backwards=backwards)
        return states[0]


def orthogonal(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """Initializer of a recurrent kernel [D, G D]: a random orthogonal matrix for each gate."""
    rows, columns = shape
    normal = tf.random.stateless_normal([columns // rows, rows, rows], seed)
    directions, triangle = tf.linalg.qr(normal)
    # Without the signs, the distribution would depend on how the decomposition is computed.
    directions *= tf.sign(tf.linalg.diag_part(triangle))[:, None, :]
    return tf.reshape(tf.transpose(directions, [1, 0, 2]), shape)
