"""A cell driven over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from seqapp.cells import States, Tensor, by_halves

Drive = Callable[[Any, Tensor, States], tuple[Tensor, Any]]  # (layer, x, its states) -> outputs, its states after
UNROLLED = 64  # timesteps; a longer window would take too long to trace


@keras.saving.register_keras_serializable(package="seqapp")
class Recurrence(keras.layers.RNN):
    """`keras.layers.RNN` with dropout on the recurrence: one mask over H (B, U) for all timesteps of a sequence.

    Returns the outputs (B, T, U) followed by the states after the last timestep. `recurrent_dropout` is the fraction of H_{t-1}
    hidden from the recurrent product while training; the cell must then know `recurrent_mask` (see `seqapp.cells.Cell`).
    """

    def __init__(self, cell: Any, recurrent_dropout: float = 0.0, seed: int | None = None, **kwargs: Any) -> None:
        if recurrent_dropout and not hasattr(cell, "recurrent_mask"):
            raise ValueError(
                f"Dropout on the recurrence needs a cell with a recurrent_mask, and {type(cell).__name__} has none: "
                "derive it from seqapp.cells.Cell, or set recurrent_dropout to 0 (--recurrent-dropout 0). "
                f"Received: {recurrent_dropout}"
            )
        kwargs = {**kwargs, "return_sequences": True, "return_state": True}
        super().__init__(cell, **kwargs)
        self.recurrent_dropout = recurrent_dropout
        self.seed_generator = keras.random.SeedGenerator(seed)

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        dropped = training and self.recurrent_dropout
        if dropped:
            ones = ops.ones_like(initial_state[0])
            self.cell.recurrent_mask = keras.random.dropout(ones, self.recurrent_dropout, seed=self.seed_generator)
        try:
            if training and mask is None and by_halves(self.cell) and not self.go_backwards:
                short = (sequences.shape[1] or UNROLLED + 1) <= UNROLLED
                return (self.unrolled if short else self.looped)(sequences, initial_state)
            return super().inner_loop(sequences, initial_state, mask, training=training)
        finally:
            if dropped:
                self.cell.recurrent_mask = None

    def unrolled(self, x: Any, states: Any) -> Any:
        """The loop written out, its input products as one: what Keras's loop returns, sooner for the windows of training."""
        outputs = []
        for now in ops.unstack(self._projected(ops.swapaxes(x, 0, 1)), ops.shape(x)[1]):
            y, states = self.cell.recur(now, states)
            outputs.append(y)
        return outputs[-1], ops.stack(outputs, axis=1), states

    def looped(self, x: Any, states: Any) -> Any:
        """Keras's loop, its input products as one."""
        self.cell.projected = True
        try:
            return super().inner_loop(self._projected(x), states, None, training=True)
        finally:
            self.cell.projected = False

    def _projected(self, x: Any) -> Any:
        """The input half of the product (..., F) -> (..., gates·U), all timesteps at once."""
        rows, columns, features = ops.shape(x)
        flat = self.cell.project(ops.reshape(x, (-1, features)))
        return ops.reshape(flat, (rows, columns, flat.shape[-1]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "recurrent_dropout": self.recurrent_dropout}


def through(layers: Sequence[Recurrence], drive: Drive, x: Tensor, states: States) -> tuple[Tensor, States]:
    """Layers one above the other, each run by `drive` with its own of the states: outputs of the last, all states after."""
    states, after = list(states), []
    for layer in layers:
        own, states = states[: len(layer.state_size)], states[len(layer.state_size) :]
        x, own = drive(layer, x, own)
        after += keras.tree.flatten(own)  # a cell of one state may return it bare
    return x, after


def one_step(layer: Recurrence, x: Tensor, states: States) -> tuple[Tensor, Any]:
    """Drives a layer for one timestep: x (B, F), states -> outputs (B, U), states."""
    return layer.cell(x, states)


def cells_in_config(layers: Sequence[Recurrence]) -> list[dict[str, Any]]:
    """The cells of some layers, for the configuration of a model."""
    return [keras.saving.serialize_keras_object(layer.cell) for layer in layers]


def with_cells(config: dict[str, Any], names: Sequence[str], custom_objects: Any = None) -> dict[str, Any]:
    """A configuration with the cells made that it lists under some names."""
    made = {name: [keras.saving.deserialize_keras_object(cell, custom_objects) for cell in config[name]] for name in names}
    return {**config, **made}


def state_sizes(layers: Sequence[Recurrence]) -> list[int]:
    """Widths of the states, layer by layer."""
    return [size for layer in layers for size in layer.state_size]


def initial_states(layers: Sequence[Recurrence], batch_size: Any) -> States:
    """The states (B, U) before the first timestep, layer by layer."""
    return [state for layer in layers for state in layer.get_initial_state(batch_size)]
