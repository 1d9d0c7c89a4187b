"""What every cell of this package is: a single step, told so that a layer may run it over time as it likes.

Looping, stacking, masking and dropout between layers are wrappers around a cell. Shapes: `B` batch, `F` features, `U` units.
Every cell splits its step in two, `call(x, states) = recur(project(x), states)`, because the input half of the product does
not depend on the state: whoever runs a cell over a known sequence may project all of it in one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from seqapp import backend

Tensor = Any
States = list[Any]
Shape = tuple[Any, ...]

SHORTEST_MEMORY = 3  # timesteps
EPSILON = 1e-3  # added to a variance, so that what is nearly constant is not blown up to nothing but its rounding
INITIALIZATIONS = {
    "orthogonal": keras.initializers.Orthogonal,
    "identity": keras.initializers.Identity,
    "glorot": keras.initializers.GlorotUniform,
}


@dataclass(frozen=True)
class Product:
    """One of the two matrix products of a step: rows (..., F) -> (..., gates·U), or columns (F, N) -> (gates·U, N).

    Where there is a `gain` (gates·U,), the product is normalized, over all gates at once, before `bias` (gates·U,) is added.
    With a `dtype`, it is multiplied in that: what comes out is of the dtype of x all the same.
    """

    kernel: Tensor
    bias: Tensor | None = None
    gain: Tensor | None = None
    turned: Tensor | None = None  # the kernel (gates·U, F) of columns
    dtype: str | None = None

    def __call__(self, x: Tensor) -> Tensor:
        kernel, factor = self._rounded(self.kernel), self._rounded(x)
        if self.turned is None:
            axis, product = -1, ops.matmul(factor, kernel)
        else:
            axis, product = 0, backend.multiplied(self.turned, kernel, factor)
        product = ops.cast(product, x.dtype)
        if self.gain is not None:
            centred = product - ops.mean(product, axis=axis, keepdims=True)
            variance = ops.mean(centred * centred, axis=axis, keepdims=True)
            product = centred * ops.rsqrt(variance + EPSILON) * self.gain
        return product if self.bias is None else product + self.bias

    def in_columns(self) -> Product:
        """The same of columns, made of rows."""
        bias, gain = (None if part is None else part[:, None] for part in (self.bias, self.gain))
        kernel = self._rounded(self.kernel)
        # The kernel itself is there for a gradient alone; stopped, it is read once, and not by each gradient in a loop.
        return Product(ops.stop_gradient(kernel), bias, gain, ops.transpose(kernel), self.dtype)

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self.dtype is None else ops.cast(x, self.dtype)


# The methods of a cell that do what an option asks for.
OPTIONS = {"residual": ("call",), "zoneout": ("call", "recur"), "normalized": ("call", "project", "recur")}


class Cell(keras.layers.Layer):
    """The size of the states, the two matrix products of a step, and the mask on the recurrence.

    A cell defines `blend`, which takes the products and does the rest number by number, each gate on its own. Gates lie side by
    side along an axis, the last one of (B, gates·U) or the first one of (gates·U, B): the same code serves rows and columns.
    A cell that is more than that defines `recur` itself.

    How a cell begins decides how far back it learns from. `initialization` is that of the recurrent kernel: orthogonal (Saxe et
    al. 2013, arXiv:1312.6120v3), the identity for each gate (Le et al. 2015, arXiv:1504.00941v2) or Glorot's, under which a
    gradient fades soonest. With `memory` T, the gates begin to keep the state for 1 to T timesteps, spread over the units
    (Tallec and Ollivier 2018, arXiv:1804.11188v1, "chrono"). With `learned_start`, the states before the first timestep are
    weights, zeros at first.

    Three more remedies for what is long or deep. `normalized` cells put both products through layer normalization (Ba et al.
    2016, arXiv:1607.06450v1; the states of an LSTM are left as they are). `residual` ones add X_t, as wide as H_t, to what they
    put out, though not to the state. With `zoneout`, each number of a state keeps its old value with that probability while
    training, and in that proportion from then on (Krueger et al. 2016, arXiv:1606.01305v4).

    `recurrent_mask` (B, U) multiplies H_{t-1} inside the recurrent product only. The layer that runs the cell sets it for one
    pass over a sequence, so that one mask holds for all timesteps (Gal and Ghahramani 2016, arXiv:1512.05287v5). It sets
    `kept` for one timestep: for each state (B, U) what zoneout keeps, 1 or 0. Whoever trains may set `product_dtype`, in which
    both products are then taken; gates and states keep their own.
    """

    states_per_cell = 1
    remembers = True  # by a gate that may begin open for long
    multiplies = True  # its state by a recurrent kernel
    bounds: tuple[float, float] | None = None  # of its outputs, where there are any

    def __init__(
        self,
        units: int,
        memory: int | None = None,
        initialization: str = "orthogonal",
        normalized: bool = False,
        zoneout: float = 0.0,
        residual: bool = False,
        learned_start: bool = False,
        **kwargs: Any,
    ) -> None:
        if units < 1:
            raise ValueError(f"A cell needs at least 1 unit. Received: units={units}")
        if memory is not None and (not self.remembers or memory < SHORTEST_MEMORY):
            expected = (
                f"a number of timesteps of at least {SHORTEST_MEMORY}" if self.remembers else "None: it has no gate for it"
            )
            raise ValueError(f"memory must be {expected}. Received: memory={memory}")
        if initialization not in INITIALIZATIONS:
            expected = ", ".join(INITIALIZATIONS)
            raise ValueError(f"initialization must be one of {expected}. Received: initialization={initialization!r}")
        if not 0 <= zoneout < 1:
            raise ValueError(f"zoneout must be at least 0 and below 1. Received: zoneout={zoneout}")
        if not self.multiplies:
            self._refuse("initialization", "orthogonal", initialization)
            self._refuse("normalized", False, normalized)
            self._refuse("zoneout", 0.0, zoneout)
        super().__init__(**kwargs)
        self.units, self.memory, self.initialization = units, memory, initialization
        self.normalized, self.zoneout, self.residual, self.learned_start = normalized, zoneout, residual, learned_start
        self.state_size = [units] * self.states_per_cell
        self.output_size = units
        self.starts: list[Tensor] = []
        self.input_gain = self.recurrent_gain = None
        self.recurrent_mask: Tensor | None = None
        self.kept: States | None = None
        self.product_dtype: str | None = None

    def _refuse(self, name: str, only: Any, received: Any) -> None:
        if received != only:
            raise ValueError(f"{name} must be {only}: it has no recurrent kernel. Received: {name}={received!r}")

    def build(self, input_shape: Shape) -> None:
        """Adds the weights that the options ask for; a cell adds its own and then calls this.

        Raises:
            ValueError: the input of a residual cell is not as wide as its output, or the class replaces what an option changes.
        """
        for option, methods in OPTIONS.items():
            if getattr(self, option) and not _own(self, *methods):
                raise ValueError(
                    f"{option} changes what {' and '.join(methods)} do, and {type(self).__name__} has its own: leave it out."
                )
        if self.residual and input_shape[-1] != self.output_size:
            raise ValueError(f"A residual cell of {self.output_size} units needs as many features. Received: {input_shape[-1]}")
        if self.learned_start:
            self.starts = [
                self.add_weight(shape=(size,), initializer="zeros", name=f"start_{i}") for i, size in enumerate(self.state_size)
            ]
        if self.normalized:
            try:
                width = self.recurrent_part.kernel.shape[-1]
            except AttributeError:
                raise ValueError(
                    f"normalized needs kernels: {type(self).__name__}.build must add them before it calls super().build."
                ) from None
            self.input_gain, self.recurrent_gain = (
                self.add_weight(shape=(width,), initializer="ones", name=f"{of}_gain") for of in ("input", "recurrent")
            )
        super().build(input_shape)

    @property
    def complete(self) -> bool:
        """Whether `build` has added the weights that the options ask for."""
        return bool(self.starts) >= self.learned_start and (self.input_gain is not None) >= self.normalized

    def get_initial_state(self, batch_size: Any = None) -> States:
        if self.starts:
            return [ops.tile(ops.cast(start, self.compute_dtype)[None], (batch_size, 1)) for start in self.starts]
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
    def input_part(self) -> Product:
        """Of X_t: kernel (F, gates·U)."""
        return Product(self.kernel, self.bias, self.input_gain)

    @property
    def recurrent_part(self) -> Product:
        """Of H_{t-1}: kernel (U, gates·U)."""
        return Product(self.recurrent_kernel, None, self.recurrent_gain)

    @property
    def of_input(self) -> Product:
        """`input_part`, as it is to be taken now."""
        return replace(self.input_part, dtype=self.product_dtype)

    @property
    def of_state(self) -> Product:
        """`recurrent_part`, as it is to be taken now."""
        return replace(self.recurrent_part, dtype=self.product_dtype)

    def project(self, x: Tensor) -> Tensor:
        """The part of the step that depends on the input alone: (..., F) -> (..., gates·U)."""
        return self.of_input(x)

    def recur(self, projected: Tensor, states: States) -> tuple[Tensor, States]:
        """The rest of the step: (B, gates·U) and the states -> the output (B, U) and the new states."""
        y, new = self.blend(projected, self.of_state(self.masked(states[0])), states, -1)
        if not self.zoneout:
            return y, new
        kept = self.kept or [self.zoneout] * len(states)
        after = [share * old + (1 - share) * now for share, old, now in zip(kept, states, new, strict=True)]
        return after[0] if y is new[0] else y, after

    def blend(self, x: Tensor, h: Tensor, states: States, axis: int) -> tuple[Tensor, States]:
        """The rest of the rest: what X_t and H_{t-1} say to the gates, and the states -> the output and the new states."""
        raise NotImplementedError(f"{type(self).__name__} must define blend(x, h, states, axis), or recur(projected, states)")

    def call(self, inputs: Tensor, states: States) -> tuple[Tensor, States]:
        y, states = self.recur(self.project(inputs), states)
        return self.joined(inputs, y), states

    def joined(self, x: Tensor, y: Tensor) -> Tensor:
        """What goes out: with what comes in (..., F), where the cell is residual, and what the step makes of it (..., U)."""
        return x + y if self.residual else y

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "memory": self.memory,
            "initialization": self.initialization,
            "normalized": self.normalized,
            "zoneout": self.zoneout,
            "residual": self.residual,
            "learned_start": self.learned_start,
        }


def cut(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """x (..., sum of sizes) -> parts (..., size)."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [x[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]


def by_halves(cell: Any) -> bool:
    """Whether a cell's step is `recur(project(x), states)`, `joined` to x, and nothing else.

    A whole sequence may then be projected first, and joined last.
    """
    return _own(cell, "call")


def is_residual(cell: Any) -> bool:
    """Whether a cell's output is `joined` to its input: one that is goes by halves, or `build` refuses it."""
    return isinstance(cell, Cell) and cell.residual


def by_columns(cell: Any) -> bool:
    """Whether a cell's step is its two products and `blend`, and nothing else."""
    return _own(cell, "call", "project", "recur") and getattr(cell, "elementwise", True) and not cell.zoneout


def _own(cell: Any, *methods: str) -> bool:
    return isinstance(cell, Cell) and all(getattr(type(cell), name) is getattr(Cell, name) for name in methods)
