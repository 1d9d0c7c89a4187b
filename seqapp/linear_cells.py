"""Cells whose state is a linear function of the state before: no timestep waits for another while they learn.

A layer runs them over a known sequence by `seqapp.scan.linear_recurrence`, and everyone else one timestep after the other.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from seqapp.cell import Cell, Shape, States, Tensor
from seqapp.scan import Number, advanced, linear_recurrence

TINY = 1e-30  # keeps the sum of two gates that are both shut tight from being 0 in float32, and changes no other


class LinearCell(Cell):
    """A step S_t = A_t ⊙ S_{t-1} + B_t, both of the input alone, and an output read from the input and the new state.

    `recurrent_mask` (B, U) multiplies B_t, which is what a timestep adds to the memory (Semeniuta et al. 2016,
    arXiv:1603.05118v2): there is no recurrent product that it could act in.
    """

    multiplies = False

    def coefficients(self, projected: Tensor) -> tuple[Number, Number]:
        """(..., gates·U) -> A and B (..., U), or A (U,) where it is always the same; two tensors each for complex numbers."""
        raise NotImplementedError(f"{type(self).__name__} must define coefficients(projected)")

    def read(self, projected: Tensor, states: States) -> Tensor:
        """(..., gates·U), new states (..., U) -> outputs (..., U)."""
        return states[0]

    def recur(self, projected: Tensor, states: States) -> tuple[Tensor, States]:
        a, b = self.coefficients(projected)
        states = advanced(a, states, [self.masked(part) for part in b])
        return self.read(projected, states), states

    def scan(self, x: Tensor, states: States, counts: Tensor | None = None) -> tuple[Tensor, States]:
        """x (B, T, F) with T known, states -> outputs (B, T, U), states: what `call` gives timestep by timestep.

        Where `counts` (B, T, 1) is 0, the states stay what they were.
        """
        projected = self.project(x)
        a, b = self.coefficients(projected)
        if self.recurrent_mask is not None:
            b = [part * self.recurrent_mask[:, None] for part in b]
        if len(a[0].shape) == 1:
            a = [part[None, None] for part in a]
        if counts is not None:
            one = [1.0, 0.0]  # as a complex number
            a = [ops.where(counts > 0, part, one[i]) for i, part in enumerate(a)]
            b = [part * counts for part in b]
        memory = linear_recurrence(a, b, states)
        return self.read(projected, memory), [part[:, -1] for part in memory]


@keras.saving.register_keras_serializable(package="seqapp")
class MinGRUCell(LinearCell):
    """A single step of the minimal gated recurrent unit (Feng et al. 2024, arXiv:2410.01201v3, "vanilla").

        [z, g] = W·X_t + b
        H_t = (1 - σ(z)) ⊙ H_{t-1} + σ(z) ⊙ g

    Weights, gate order z, g: `kernel` W (F, 2U), `bias` b (2U,).
    Call: inputs X_t (B, F), states [H_{t-1} (B, U)] -> H_t (B, U), [H_t].

    >>> from keras import ops
    >>> cell = MinGRUCell(4)
    >>> h, states = cell(ops.ones((2, 3)), cell.get_initial_state(batch_size=2))
    >>> tuple(h.shape), tuple(cell.kernel.shape)
    ((2, 4), (3, 8))
    """

    def build(self, input_shape: Shape) -> None:
        shape = (input_shape[-1], 2 * self.units)
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(2 * self.units,), initializer=self._initial_bias, name="bias")
        super().build(input_shape)

    def _initial_bias(self, shape: tuple[int], dtype: Any = None) -> Tensor:
        if self.memory is None:
            return ops.zeros(shape, dtype)
        return ops.concatenate([-self.initial_memory(dtype), ops.zeros(self.units, dtype)])

    def coefficients(self, projected: Tensor) -> tuple[Number, Number]:
        z, g = ops.split(projected, 2, axis=-1)
        z = ops.sigmoid(z)
        return [1 - z], [z * g]


@keras.saving.register_keras_serializable(package="seqapp")
class MinLSTMCell(LinearCell):
    """A single step of the minimal long short-term memory (Feng et al. 2024, arXiv:2410.01201v3, "vanilla").

        [f, i, g] = W·X_t + b
        H_t = (σ(f) ⊙ H_{t-1} + σ(i) ⊙ g) / (σ(f) + σ(i))

    Weights, gate order f, i, g: `kernel` W (F, 3U), `bias` b (3U,).
    Call: inputs X_t (B, F), states [H_{t-1} (B, U)] -> H_t (B, U), [H_t].

    >>> from keras import ops
    >>> cell = MinLSTMCell(4)
    >>> h, states = cell(ops.ones((2, 3)), cell.get_initial_state(batch_size=2))
    >>> tuple(h.shape), tuple(cell.kernel.shape)
    ((2, 4), (3, 12))
    """

    def build(self, input_shape: Shape) -> None:
        shape = (input_shape[-1], 3 * self.units)
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(3 * self.units,), initializer=self._initial_bias, name="bias")
        super().build(input_shape)

    def _initial_bias(self, shape: tuple[int], dtype: Any = None) -> Tensor:
        if self.memory is None:
            return ops.zeros(shape, dtype)
        kept = self.initial_memory(dtype)
        return ops.concatenate([kept, -kept, ops.zeros(self.units, dtype)])

    def coefficients(self, projected: Tensor) -> tuple[Number, Number]:
        f, i, g = ops.split(projected, 3, axis=-1)
        f, i = ops.sigmoid(f), ops.sigmoid(i)
        share = f / (f + i + TINY)
        return [share], [(1 - share) * g]


@keras.saving.register_keras_serializable(package="seqapp")
class LRUCell(LinearCell):
    """A single step of the linear recurrent unit (Orvieto et al. 2023, arXiv:2303.06349v1), with an activation behind it.

        λ = exp(-exp(ν) + i·exp(θ))
        S_t = λ ⊙ S_{t-1} + √(1 - |λ|²) ⊙ (B·X_t + β)
        H_t = silu(Re(C·S_t) + D·X_t + b)

    The memory S is complex, and |λ| < 1 whatever is learned. At first |λ|² is uniform between the squares of two `radii` near
    1, or with `memory`, |λ| begins as a gate does. The root keeps S as large as what it is made of; the paper only begins with
    it.
    Weights: `kernel` (F, 3U), the real parts of B, the imaginary ones, and D; `bias` (3U,), those of β, then b; `nu` ν and
    `theta` θ (U,); `output_kernel` (2U, U), the real parts of C above the negated imaginary ones.
    Call: inputs X_t (B, F), states [Re S_{t-1} (B, U), Im S_{t-1} (B, U)] -> H_t (B, U), [Re S_t, Im S_t].

    >>> from keras import ops
    >>> cell = LRUCell(4)
    >>> h, states = cell(ops.ones((2, 3)), cell.get_initial_state(batch_size=2))
    >>> [tuple(s.shape) for s in states]
    [(2, 4), (2, 4)]
    """

    states_per_cell = 2

    def __init__(self, units: int, radii: tuple[float, float] = (0.9, 0.999), **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.radii = (float(radii[0]), float(radii[1]))
        if not 0 <= self.radii[0] < self.radii[1] < 1:
            raise ValueError(f"radii must be two numbers from 0 to below 1, the smaller one first. Received: {radii}")

    def build(self, input_shape: Shape) -> None:
        u, features = self.units, input_shape[-1]
        self.kernel = self.add_weight(shape=(features, 3 * u), initializer=self._initial_kernel, name="kernel")
        self.bias = self.add_weight(shape=(3 * u,), initializer="zeros", name="bias")
        self.nu = self.add_weight(shape=(u,), initializer=self._initial_nu, name="nu")
        self.theta = self.add_weight(shape=(u,), initializer=self._initial_theta, name="theta")
        self.output_kernel = self.add_weight(
            shape=(2 * u, u), initializer=keras.initializers.RandomNormal(stddev=1 / math.sqrt(u)), name="output_kernel"
        )
        super().build(input_shape)

    def _initial_kernel(self, shape: tuple[int, int], dtype: Any = None) -> Tensor:
        into = keras.random.normal((shape[0], 2 * self.units), stddev=1 / math.sqrt(2 * shape[0]), dtype=dtype)
        past = keras.random.normal((shape[0], self.units), stddev=1 / math.sqrt(shape[0]), dtype=dtype)
        return ops.concatenate([into, past], axis=-1)

    def _initial_nu(self, shape: tuple[int], dtype: Any = None) -> Tensor:
        if self.memory is not None:
            return ops.log(ops.log1p(ops.exp(-self.initial_memory(dtype))))  # |λ| = σ(it), as of a gate
        least, most = self.radii
        square = keras.random.uniform(shape, least**2, most**2, dtype=dtype)
        return ops.log(-0.5 * ops.log(square))

    def _initial_theta(self, shape: tuple[int], dtype: Any = None) -> Tensor:
        return ops.log(keras.random.uniform(shape, 1e-3, math.pi, dtype=dtype))

    def coefficients(self, projected: Tensor) -> tuple[Number, Number]:
        real, imaginary, _ = ops.split(projected, 3, axis=-1)
        radius, angle = ops.exp(-ops.exp(self.nu)), ops.exp(self.theta)
        scale = ops.sqrt(1 - radius * radius)
        return [radius * ops.cos(angle), radius * ops.sin(angle)], [scale * real, scale * imaginary]

    def read(self, projected: Tensor, states: States) -> Tensor:
        past = projected[..., 2 * self.units :]
        return ops.silu(ops.matmul(ops.concatenate(states, axis=-1), self.output_kernel) + past)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "radii": self.radii}
