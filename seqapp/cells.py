"""The cells that ONNX and Keras know too: the plain one and those with gates."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from seqapp.attention_cell import AttentionCell
from seqapp.cell import Cell, Product, Shape, States, Tensor
from seqapp.linear_cells import LRUCell, MinGRUCell, MinLSTMCell

# Those that look along an axis, which a cell of columns has none to spare for.
ALONG_AN_AXIS = ("softmax", "log_softmax", "sparsemax", "glu")
FAR = 1e4  # from 0, where an activation that has bounds is at them


@keras.saving.register_keras_serializable(package="seqapp")
class PlainCell(Cell):
    """A single step of the plain recurrent network (Elman 1990, Cognitive Science 14).

        H_t = f(W·[H_{t-1}, X_t] + b)

    Weights: `kernel` W (U + F, U), its first U rows for H_{t-1}, the other F for X_t; `bias` b (U,).
    Call: inputs X_t (B, F), states [H_{t-1} (B, U)] -> H_t (B, U), [H_t].

    >>> from keras import ops
    >>> cell = PlainCell(4, activation="relu")
    >>> h, states = cell(ops.ones((2, 3)), cell.get_initial_state(batch_size=2))
    >>> tuple(h.shape), tuple(cell.kernel.shape)
    ((2, 4), (7, 4))
    """

    remembers = False

    def __init__(self, units: int, activation: str = "tanh", **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.activation = keras.activations.get(activation)

    @property
    def bounds(self) -> tuple[float, float] | None:  # type: ignore[override]
        """Those of f, found far out on both sides."""
        least, most = (float(end) for end in self.activation(ops.convert_to_tensor([-FAR, FAR])))
        return (least, most) if 0 < most - least < 100 else None

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.add_weight(
            shape=(self.units + input_shape[-1], self.units), initializer=self._initial_kernel, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        super().build(input_shape)

    def _initial_kernel(self, shape: tuple[int, int], dtype: Any = None) -> Tensor:
        """Glorot over X, whatever it is over H: the two halves of one kernel have different jobs."""
        recurrent = self.initial_recurrent((self.units, self.units), dtype)
        inputs = keras.initializers.GlorotUniform()((shape[0] - self.units, self.units), dtype=dtype)
        return ops.concatenate([recurrent, inputs], axis=0)

    @property
    def input_part(self) -> Product:
        return Product(self.kernel[self.units :], self.bias, self.input_gain)

    @property
    def recurrent_part(self) -> Product:
        return Product(self.kernel[: self.units], None, self.recurrent_gain)

    @property
    def elementwise(self) -> bool:
        """Whether f looks at each number by itself."""
        return getattr(self.activation, "__name__", "") not in ALONG_AN_AXIS

    def blend(self, x: Tensor, h: Tensor, states: States, axis: int) -> tuple[Tensor, States]:
        h = self.activation(x + h)
        return h, [h]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}


@keras.saving.register_keras_serializable(package="seqapp")
class LSTMCell(Cell):
    """A single step of the long short-term memory (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000).

        [i, f, g, o] = W·X_t + R·H_{t-1} + b
        C_t = σ(f) ⊙ C_{t-1} + σ(i) ⊙ tanh(g)
        H_t = σ(o) ⊙ tanh(C_t)

    Weights, gate order i, f, g, o as in `keras.layers.LSTM`: `kernel` W (F, 4U), `recurrent_kernel` R (U, 4U), `bias` b (4U,),
    ones for the forget gate at first (Jozefowicz et al. 2015).
    Call: inputs X_t (B, F), states [H_{t-1} (B, U), C_{t-1} (B, U)] -> H_t (B, U), [H_t, C_t].

    >>> from keras import ops
    >>> cell = LSTMCell(4)
    >>> h, states = cell(ops.ones((2, 3)), cell.get_initial_state(batch_size=2))
    >>> [tuple(s.shape) for s in states]
    [(2, 4), (2, 4)]
    """

    states_per_cell = 2
    bounds = (-1.0, 1.0)

    def build(self, input_shape: Shape) -> None:
        self.add_kernels(input_shape[-1], gates=4)
        self.bias = self.add_weight(shape=(4 * self.units,), initializer=self._initial_bias, name="bias")
        super().build(input_shape)

    def _initial_bias(self, shape: tuple[int], dtype: Any = None) -> Tensor:
        u = self.units
        if self.memory is None:
            return ops.concatenate([ops.zeros(u, dtype), ops.ones(u, dtype), ops.zeros(2 * u, dtype)])
        kept = self.initial_memory(dtype)
        return ops.concatenate([-kept, kept, ops.zeros(2 * u, dtype)])

    def blend(self, x: Tensor, h: Tensor, states: States, axis: int) -> tuple[Tensor, States]:
        c = states[1]
        i, f, g, o = ops.split(x + h, 4, axis=axis)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


@keras.saving.register_keras_serializable(package="seqapp")
class GRUCell(Cell):
    """A single step of the gated recurrent unit, reset gate after the product (Cho et al. 2014, arXiv:1406.1078v1).

        z = σ(W_z·X_t + b_z + R_z·H_{t-1} + s_z)
        r = σ(W_r·X_t + b_r + R_r·H_{t-1} + s_r)
        g = tanh(W_g·X_t + b_g + r ⊙ (R_g·H_{t-1} + s_g))
        H_t = z ⊙ H_{t-1} + (1 - z) ⊙ g

    Weights, gate order z, r, g as in `keras.layers.GRU(reset_after=True)`: `kernel` W (F, 3U), `recurrent_kernel` R (U, 3U),
    `bias` (2, 3U), b above s.
    Call: inputs X_t (B, F), states [H_{t-1} (B, U)] -> H_t (B, U), [H_t].

    >>> from keras import ops
    >>> cell = GRUCell(4)
    >>> h, states = cell(ops.ones((2, 3)), cell.get_initial_state(batch_size=2))
    >>> tuple(h.shape), tuple(cell.bias.shape)
    ((2, 4), (2, 12))
    """

    bounds = (-1.0, 1.0)

    def build(self, input_shape: Shape) -> None:
        self.add_kernels(input_shape[-1], gates=3)
        self.bias = self.add_weight(shape=(2, 3 * self.units), initializer=self._initial_bias, name="bias")
        super().build(input_shape)

    def _initial_bias(self, shape: tuple[int, int], dtype: Any = None) -> Tensor:
        if self.memory is None:
            return ops.zeros(shape, dtype)
        first = ops.concatenate([self.initial_memory(dtype), ops.zeros(2 * self.units, dtype)])
        return ops.stack([first, ops.zeros(shape[1], dtype)])

    @property
    def input_part(self) -> Product:
        return Product(self.kernel, self.bias[0], self.input_gain)

    @property
    def recurrent_part(self) -> Product:
        return Product(self.recurrent_kernel, self.bias[1], self.recurrent_gain)

    def blend(self, x: Tensor, h: Tensor, states: States, axis: int) -> tuple[Tensor, States]:
        xz, xr, xg = ops.split(x, 3, axis=axis)
        hz, hr, hg = ops.split(h, 3, axis=axis)
        z = ops.sigmoid(xz + hz)
        g = ops.tanh(xg + ops.sigmoid(xr + hr) * hg)
        h = z * states[0] + (1 - z) * g
        return h, [h]


@keras.saving.register_keras_serializable(package="seqapp")
class CIFGCell(Cell):
    """A single step of the LSTM with coupled input and forget gate (Greff et al. 2015, arXiv:1503.04069v2, variant CIFG).

        [i, g, o] = W·X_t + R·H_{t-1} + b
        C_t = (1 - σ(i)) ⊙ C_{t-1} + σ(i) ⊙ tanh(g)
        H_t = σ(o) ⊙ tanh(C_t)

    Weights, gate order i, g, o: `kernel` W (F, 3U), `recurrent_kernel` R (U, 3U), `bias` b (3U,), minus one for the input gate
    at first, which keeps as much of C_{t-1} as the LSTM's forget bias of one.
    Call: inputs X_t (B, F), states [H_{t-1} (B, U), C_{t-1} (B, U)] -> H_t (B, U), [H_t, C_t].

    >>> from keras import ops
    >>> cell = CIFGCell(4)
    >>> h, states = cell(ops.ones((2, 3)), cell.get_initial_state(batch_size=2))
    >>> tuple(cell.kernel.shape)
    (3, 12)
    """

    states_per_cell = 2
    bounds = (-1.0, 1.0)

    def build(self, input_shape: Shape) -> None:
        self.add_kernels(input_shape[-1], gates=3)
        self.bias = self.add_weight(shape=(3 * self.units,), initializer=self._initial_bias, name="bias")
        super().build(input_shape)

    def _initial_bias(self, shape: tuple[int], dtype: Any = None) -> Tensor:
        kept = ops.ones(self.units, dtype) if self.memory is None else self.initial_memory(dtype)
        return ops.concatenate([-kept, ops.zeros(2 * self.units, dtype)])

    def blend(self, x: Tensor, h: Tensor, states: States, axis: int) -> tuple[Tensor, States]:
        c = states[1]
        i, g, o = ops.split(x + h, 3, axis=axis)
        i = ops.sigmoid(i)
        c = (1 - i) * c + i * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


CELLS: dict[str, type[Cell]] = {
    "plain": PlainCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
    "cifg": CIFGCell,
    "mingru": MinGRUCell,
    "minlstm": MinLSTMCell,
    "lru": LRUCell,
    "attention": AttentionCell,
}
