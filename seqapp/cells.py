"""Recurrent cells: a single step each, and nothing else.

Looping, stacking, masking and dropout between layers are wrappers around a cell. Shapes: `B` batch, `F` features, `U` units.
Every cell splits its step in two, `call(x, states) = recur(project(x), states)`, because the input half of the product does
not depend on the state: whoever runs a cell over a known sequence may project all of it in one matrix product.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any
States = list[Any]
Shape = tuple[Any, ...]


class Cell(keras.layers.Layer):
    """What the four cells share: the size of their states and the mask on the recurrence.

    `recurrent_mask` (B, U) multiplies H_{t-1} inside the recurrent product only. The layer that runs the cell sets it for one
    pass over a sequence, so that one mask holds for all timesteps (Gal and Ghahramani 2016, arXiv:1512.05287v5). It sets
    `projected` too, for a pass whose inputs it has projected already, all of them at once.
    """

    states_per_cell = 1

    def __init__(self, units: int, **kwargs: Any) -> None:
        if units < 1:
            raise ValueError(f"A cell needs at least 1 unit. Received: units={units}")
        super().__init__(**kwargs)
        self.units = units
        self.state_size = [units] * self.states_per_cell
        self.output_size = units
        self.recurrent_mask: Tensor | None = None
        self.projected = False

    def get_initial_state(self, batch_size: Any = None) -> States:
        return [ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in self.state_size]

    def masked(self, h: Tensor) -> Tensor:
        return h if self.recurrent_mask is None else h * self.recurrent_mask

    def add_kernels(self, features: int, gates: int) -> None:
        """Adds `kernel` (F, gates·U) and `recurrent_kernel` (U, gates·U)."""
        width = gates * self.units
        self.kernel = self.add_weight(shape=(features, width), initializer="glorot_uniform", name="kernel")
        self.recurrent_kernel = self.add_weight(shape=(self.units, width), initializer="orthogonal", name="recurrent_kernel")

    def project(self, x: Tensor) -> Tensor:
        """The part of the step that depends on the input alone: (..., F) -> (..., gates·U)."""
        return ops.matmul(x, self.kernel) + self.bias

    def recur(self, projected: Tensor, states: States) -> tuple[Tensor, States]:
        """The rest of the step: (B, gates·U) and the states -> the output (B, U) and the new states."""
        raise NotImplementedError(f"{type(self).__name__} must define recur(projected, states)")

    def call(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        return self.recur(inputs if self.projected else self.project(inputs), states)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


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

    def __init__(self, units: int, activation: str = "tanh", **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.add_weight(
            shape=(self.units + input_shape[-1], self.units), initializer=self._initial_kernel, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def _initial_kernel(self, shape: tuple[int, int], dtype: Any = None) -> Tensor:
        """Orthogonal over H, Glorot over X: the two halves of one kernel have different jobs."""
        recurrent = keras.initializers.Orthogonal()((self.units, self.units), dtype=dtype)
        inputs = keras.initializers.GlorotUniform()((shape[0] - self.units, self.units), dtype=dtype)
        return ops.concatenate([recurrent, inputs], axis=0)

    def project(self, x: Tensor) -> Tensor:
        return ops.matmul(x, self.kernel[self.units :]) + self.bias

    def recur(self, projected: Tensor, states: States) -> tuple[Tensor, States]:
        h = self.activation(projected + ops.matmul(self.masked(states[0]), self.kernel[: self.units]))
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

    def build(self, input_shape: Shape) -> None:
        self.add_kernels(input_shape[-1], gates=4)
        self.bias = self.add_weight(shape=(4 * self.units,), initializer=self._initial_bias, name="bias")

    def _initial_bias(self, shape: tuple[int], dtype: Any = None) -> Tensor:
        u = self.units
        return ops.concatenate([ops.zeros(u, dtype), ops.ones(u, dtype), ops.zeros(2 * u, dtype)])

    def recur(self, projected: Tensor, states: States) -> tuple[Tensor, States]:
        h, c = states
        i, f, g, o = ops.split(projected + ops.matmul(self.masked(h), self.recurrent_kernel), 4, axis=-1)
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

    def build(self, input_shape: Shape) -> None:
        self.add_kernels(input_shape[-1], gates=3)
        self.bias = self.add_weight(shape=(2, 3 * self.units), initializer="zeros", name="bias")

    def project(self, x: Tensor) -> Tensor:
        return ops.matmul(x, self.kernel) + self.bias[0]

    def recur(self, projected: Tensor, states: States) -> tuple[Tensor, States]:
        h = states[0]
        recurrent = ops.matmul(self.masked(h), self.recurrent_kernel) + self.bias[1]
        xz, xr, xg = ops.split(projected, 3, axis=-1)
        hz, hr, hg = ops.split(recurrent, 3, axis=-1)
        z = ops.sigmoid(xz + hz)
        g = ops.tanh(xg + ops.sigmoid(xr + hr) * hg)
        h = z * h + (1 - z) * g
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

    def build(self, input_shape: Shape) -> None:
        self.add_kernels(input_shape[-1], gates=3)
        self.bias = self.add_weight(shape=(3 * self.units,), initializer=self._initial_bias, name="bias")

    def _initial_bias(self, shape: tuple[int], dtype: Any = None) -> Tensor:
        return ops.concatenate([-ops.ones(self.units, dtype), ops.zeros(2 * self.units, dtype)])

    def recur(self, projected: Tensor, states: States) -> tuple[Tensor, States]:
        h, c = states
        i, g, o = ops.split(projected + ops.matmul(self.masked(h), self.recurrent_kernel), 3, axis=-1)
        i = ops.sigmoid(i)
        c = (1 - i) * c + i * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


def by_halves(cell: Any) -> bool:
    """Whether a cell's step is `recur(project(x), states)` and nothing else: a whole sequence may then be projected first."""
    return getattr(type(cell), "call", None) is Cell.call


CELLS: dict[str, type[Cell]] = {"plain": PlainCell, "lstm": LSTMCell, "gru": GRUCell, "cifg": CIFGCell}
