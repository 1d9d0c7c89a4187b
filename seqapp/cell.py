"""What every cell of this package is: a single step, told so that a layer may run it over time as it likes.

Looping, stacking, masking and dropout between layers are wrappers around a cell. Shapes: `B` batch, `F` features, `U` units.
Every cell splits its step in two, `call(x, states) = recur(project(x), states)`, because the input half of the product does
not depend on the state: whoever runs a cell over a known sequence may project all of it in one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any
States = list[Any]
Shape = tuple[Any, ...]

SHORTEST_MEMORY = 3  # timesteps
INITIALIZATIONS = {
    "orthogonal": keras.initializers.Orthogonal,
    "identity": keras.initializers.Identity,
    "glorot": keras.initializers.GlorotUniform,
}


class Cell(keras.layers.Layer):
    """The size of the states, the two matrix products of a step, and the mask on the recurrence.

    A cell defines `blend`, which takes the products and does the rest number by number, each gate on its own. Gates lie side by
    side along an axis, the last one of (B, gates·U) or the first one of (gates·U, B): the same code serves rows and columns.
    A cell that is more than that defines `recur` itself.

    How a cell begins decides how far back it learns from. `initialization` is that of the recurrent kernel: orthogonal (Saxe et
    al. 2013, arXiv:1312.6120v3), the identity for each gate (Le et al. 2015, arXiv:1504.00941v2) or Glorot's, under which a
    gradient fades soonest. With `memory` T, the gates begin to keep the state for 1 to T timesteps, spread over the units
    (Tallec and Ollivier 2018, arXiv:1804.11188v1, "chrono").

    `recurrent_mask` (B, U) multiplies H_{t-1} inside the recurrent product only. The layer that runs the cell sets it for one
    pass over a sequence, so that one mask holds for all timesteps (Gal and Ghahramani 2016, arXiv:1512.05287v5).
    """

    states_per_cell = 1
    remembers = True  # by a gate that may begin open for long
    multiplies = True  # its state by a recurrent kernel
    bounds: tuple[float, float] | None = None  # of its outputs, where there are any

    def __init__(self, units: int, memory: int | None = None, initialization: str = "orthogonal", **kwargs: Any) -> None:
        if units < 1:
            raise ValueError(f"A cell needs at least 1 unit. Received: units={units}")
        if memory is not None and (not self.remembers or memory < SHORTEST_MEMORY):
            expected = (
                f"a number of timesteps of at least {SHORTEST_MEMORY}" if self.remembers else "None: it has no gate for it"
            )
            raise ValueError(f"memory must be {expected}. Received: memory={memory}")
        if initialization not in INITIALIZATIONS or (initialization != "orthogonal" and not self.multiplies):
            expected = f"one of {', '.join(INITIALIZATIONS)}" if self.multiplies else "orthogonal: it has no recurrent kernel"
            raise ValueError(f"initialization must be {expected}. Received: initialization={initialization!r}")
        super().__init__(**kwargs)
        self.units, self.memory, self.initialization = units, memory, initialization
        self.state_size = [units] * self.states_per_cell
        self.output_size = units
        self.recurrent_mask: Tensor | None = None

    def get_initial_state(self, batch_size: Any = None) -> States:
        return [ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in self.state_size]

    def masked(self, h: Tensor) -> Tensor:
        return h if self.recurrent_mask is None else h * self.recurrent_mask

    def add_kernels(self, features: int, gates: int) -> None:
        """Adds `kernel` (F, gates·U) and `recurrent_kernel` (U, gates·U)."""
        width = gates * self.units
        self.kernel = self.add_weight(shape=(features, width), initializer="glorot_uniform", name="kernel")
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, width), initializer=self.initial_recurrent, name="recurrent_kernel"
        )

    def initial_recurrent(self, shape: tuple[int, int], dtype: Any = None) -> Tensor:
        """Of a recurrent kernel (U, gates·U)."""
        if self.initialization == "identity":
            return ops.tile(ops.eye(shape[0], dtype=dtype), (1, shape[1] // shape[0]))
        return INITIALIZATIONS[self.initialization]()(shape, dtype=dtype)

    def initial_memory(self, dtype: Any = None) -> Tensor:
        """What a gate that keeps the state begins with (U,), where `memory` is given."""
        longest = (self.memory or SHORTEST_MEMORY) - 1
        return ops.log(keras.random.uniform((self.units,), 1, longest, dtype=dtype))

    @property
    def input_part(self) -> tuple[Tensor, Tensor]:
        """What X_t is multiplied by (F, gates·U), and what is added (gates·U,)."""
        return self.kernel, self.bias

    @property
    def recurrent_part(self) -> tuple[Tensor, Tensor | None]:
        """What H_{t-1} is multiplied by (U, gates·U), and what is added (gates·U,), if anything is."""
        return self.recurrent_kernel, None

    def project(self, x: Tensor) -> Tensor:
        """The part of the step that depends on the input alone: (..., F) -> (..., gates·U)."""
        kernel, bias = self.input_part
        return ops.matmul(x, kernel) + bias

    def recur(self, projected: Tensor, states: States) -> tuple[Tensor, States]:
        """The rest of the step: (B, gates·U) and the states -> the output (B, U) and the new states."""
        kernel, bias = self.recurrent_part
        product = ops.matmul(self.masked(states[0]), kernel)
        return self.blend(projected, product if bias is None else product + bias, states, -1)

    def blend(self, x: Tensor, h: Tensor, states: States, axis: int) -> tuple[Tensor, States]:
        """The rest of the rest: what X_t and H_{t-1} say to the gates, and the states -> the output and the new states."""
        raise NotImplementedError(f"{type(self).__name__} must define blend(x, h, states, axis), or recur(projected, states)")

    def call(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        return self.recur(self.project(inputs), states)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "memory": self.memory,
            "initialization": self.initialization,
        }


def cut(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """x (..., sum of sizes) -> parts (..., size)."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [x[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]


def by_halves(cell: Any) -> bool:
    """Whether a cell's step is `recur(project(x), states)` and nothing else: a whole sequence may then be projected first."""
    return _own(cell, "call")


def by_columns(cell: Any) -> bool:
    """Whether a cell's step is its two products and `blend`, and nothing else."""
    return _own(cell, "call", "project", "recur") and getattr(cell, "elementwise", True)


def _own(cell: Any, *methods: str) -> bool:
    return isinstance(cell, Cell) and all(getattr(type(cell), name) is getattr(Cell, name) for name in methods)
