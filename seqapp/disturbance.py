"""What is added to the states of a cell while it runs, so that a loss has a gradient by them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from seqapp.cell import States, Tensor, cut


class Disturbance:
    """Something added to all states of a cell before each timestep, for one pass of a layer over a sequence.

    The gradient by it is the gradient by the states themselves, which a loop over timesteps keeps to itself.

    Attributes:
        added: (B, at least T, S), S being the numbers of all states of the cell, side by side.
        inputs: (B, T, F), what the layer was given; there once it has run, like the following.
        outputs: (B, T, U).
        states: (B, T, S), those after each timestep.
    """

    def __init__(self, added: Tensor) -> None:
        self.added = added
        self.inputs: Tensor = None
        self.outputs: Tensor = None
        self.states: Tensor = None

    def run(self, cell: Any, x: Tensor, states: States) -> tuple[Tensor, Tensor, States]:
        """As `keras.layers.RNN.inner_loop`."""
        added = ops.cast(self.added[:, : x.shape[1] or ops.shape(x)[1]], x.dtype)
        loop = keras.layers.RNN(Disturbed(cell, x.shape[-1]), return_sequences=True)
        _, y, after = loop.inner_loop(ops.concatenate([x, added], axis=-1), keras.tree.flatten(states), None)
        self.inputs, (self.outputs, self.states) = x, cut(y, [cell.output_size, sum(loop.cell.state_size)])
        return self.outputs[:, -1], self.outputs, after


class Disturbed:
    """A cell for inputs (B, F + S), whose outputs (B, U + S) end with its new states."""

    def __init__(self, cell: Any, features: int) -> None:
        self.cell, self.features = cell, features
        self.state_size = keras.tree.flatten(cell.state_size)

    def call(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        x, *added = cut(x, [self.features, *self.state_size])
        y, after = self.cell(x, [state + ops.cast(more, state.dtype) for state, more in zip(states, added, strict=True)])
        after = keras.tree.flatten(after)  # a cell of one state may return it bare
        return ops.concatenate([y, *after], axis=-1), after

    __call__ = call
