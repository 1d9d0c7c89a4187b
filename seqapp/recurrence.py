"""A cell driven over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from seqapp.cell import Cell, States, Tensor, by_columns
from seqapp.linear_cells import LinearCell

Drive = Callable[[Any, Tensor, States], tuple[Tensor, Any]]  # (layer, x, its states) -> outputs, its states after
CHUNK = 20  # timesteps; more would be quicker by little, and take longer to trace


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
            if training and mask is None and sequences.shape[1] and not self.go_backwards:
                if isinstance(self.cell, LinearCell):
                    outputs, states = self.cell.scan(sequences, initial_state)
                    return outputs[:, -1], outputs, states
                if by_columns(self.cell):
                    return self.in_columns(sequences, initial_state)
            return super().inner_loop(sequences, initial_state, mask, training=training)
        finally:
            if dropped:
                self.cell.recurrent_mask = None

    def in_columns(self, x: Any, states: Any) -> Any:
        """Keras's loop over chunks of timesteps: what its loop over timesteps returns, in half the time."""
        timesteps, size = x.shape[1], chunk_size(x.shape[1])
        rest, outputs = timesteps % size, []
        states = [ops.transpose(state) for state in states]
        loop = keras.layers.RNN(Chunk(self.cell), return_sequences=True)
        for part, length in ((x[:, : timesteps - rest], size), (x[:, timesteps - rest :], rest)):
            if length:
                cut = ops.reshape(part, (-1, part.shape[1] // length, length, x.shape[2]))
                _, y, states = loop.inner_loop(cut, states, None)
                outputs.append(ops.reshape(y, (-1, part.shape[1], self.cell.output_size)))
        y = outputs[0] if not rest else ops.concatenate(outputs, axis=1)
        return y[:, -1], y, [ops.transpose(state) for state in states]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "recurrent_dropout": self.recurrent_dropout}


class Chunk:
    """Some timesteps of a cell written out, to Keras's loop as one: inputs (B, C, F) and states (U, B) -> outputs (B, C, U) and
    states.

    Everything in it is in columns, a batch of them side by side. With the few rows of a batch, processors multiply a kernel by
    columns in half the time that rows by a kernel take, and gates that lie one above the other need no copy to be told apart.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell, self.state_size = cell, cell.state_size
        # Outside of the loop: TensorFlow would fold a transposition inside of it back into the slower product.
        (kernel, bias), (recurrent, more) = cell.input_part, cell.recurrent_part
        self.kernel, self.bias = ops.transpose(kernel), bias[:, None]
        self.recurrent, self.more = ops.transpose(recurrent), None if more is None else more[:, None]
        self.mask = None if cell.recurrent_mask is None else ops.transpose(cell.recurrent_mask)

    def call(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        _, timesteps, features = x.shape
        projected = ops.matmul(self.kernel, ops.reshape(ops.transpose(x, (2, 1, 0)), (features, -1))) + self.bias
        outputs = []
        for now in ops.split(projected, timesteps, axis=1):
            h = ops.matmul(self.recurrent, states[0] if self.mask is None else states[0] * self.mask)
            y, states = self.cell.blend(now, h if self.more is None else h + self.more, states, 0)
            outputs.append(y)
        return ops.transpose(ops.stack(outputs), (2, 0, 1)), states

    __call__ = call


def chunk_size(timesteps: int) -> int:
    """The largest divisor up to `CHUNK`; where that is small, `CHUNK` itself, which leaves a rest."""
    size = max(size for size in range(1, CHUNK + 1) if timesteps % size == 0)
    return size if size * 4 >= CHUNK else min(CHUNK, timesteps)


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
