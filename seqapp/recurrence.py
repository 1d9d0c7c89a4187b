"""A cell driven over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
from keras import ops

from seqapp import backend
from seqapp.cell import Cell, States, Tensor, by_columns, cut
from seqapp.disturbance import Disturbance
from seqapp.linear_cells import LinearCell

Drive = Callable[[Any, Tensor, States], tuple[Tensor, Any]]  # (layer, x, its states) -> outputs, its states after
CHUNK = 20  # timesteps; more would be quicker by little, and take longer to trace


@keras.saving.register_keras_serializable(package="seqapp")
class Recurrence(keras.layers.RNN):
    """`keras.layers.RNN` with dropout on the recurrence: one mask over H (B, U) for all timesteps of a sequence.

    Returns the outputs (B, T, U) followed by the states after the last timestep. `recurrent_dropout` is the fraction of H_{t-1}
    hidden from the recurrent product while training; the cell must then know `recurrent_mask` (see `seqapp.cell.Cell`).
    """

    def __init__(self, cell: Any, recurrent_dropout: float = 0.0, seed: int | None = None, **kwargs: Any) -> None:
        if recurrent_dropout and not hasattr(cell, "recurrent_mask"):
            raise ValueError(
                f"Dropout on the recurrence needs a cell with a recurrent_mask, and {type(cell).__name__} has none: "
                "derive it from seqapp.cell.Cell, or set recurrent_dropout to 0 (--recurrent-dropout 0). "
                f"Received: {recurrent_dropout}"
            )
        kwargs = {**kwargs, "return_sequences": True, "return_state": True}
        super().__init__(cell, **kwargs)
        self.recurrent_dropout = recurrent_dropout
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.disturbance: Disturbance | None = None  # for one pass
        self.chunk: int | None = None  # timesteps, in place of CHUNK

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        """Of sequences (B, T, F).

        Raises:
            ValueError: the cell's own `build` leaves out what its options ask for.
        """
        super().build(sequences_shape, initial_state_shape)
        if isinstance(self.cell, Cell) and not self.cell.complete:
            name = type(self.cell).__name__
            raise ValueError(f"{name}.build must call super().build(input_shape), which adds what its options ask for.")

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        if self.disturbance is not None:
            return self.disturbance.run(self.cell, sequences, initial_state)
        dropped = training and self.recurrent_dropout
        if dropped:
            ones = ops.ones_like(initial_state[0])
            self.cell.recurrent_mask = keras.random.dropout(ones, self.recurrent_dropout, seed=self.seed_generator)
        try:
            chunk = None if not training or mask is not None or self.go_backwards else chunk_of(self.cell)
            if chunk:
                return self.in_chunks(chunk, sequences, initial_state)
            if training and isinstance(self.cell, Cell) and self.cell.zoneout:
                return self.with_zoneout(sequences, initial_state, mask)
            return super().inner_loop(sequences, initial_state, mask, training=training)
        finally:
            if dropped:
                self.cell.recurrent_mask = None

    def in_chunks(self, chunk: Chunk, x: Any, states: Any) -> Any:
        """What Keras's loop over timesteps returns, by its loop over chunks of them."""
        timesteps, size = x.shape[1], chunk.size(x.shape[1], self.chunk or CHUNK)
        states = [chunk.turned(state) for state in states]
        if timesteps is None:
            y, states = over_chunks(chunk, filled_up(x, size), size, states)
            y = y[:, : ops.shape(x)[1]]
        else:
            rest = timesteps % size
            y, states = over_chunks(chunk, x[:, : timesteps - rest], size, states)
            if rest:
                last, states = over_chunks(chunk, x[:, timesteps - rest :], rest, states)
                y = ops.concatenate([y, last], axis=1)
        y = self.cell.joined(x, y)
        return y[:, -1], y, [chunk.turned(state) for state in states]

    def with_zoneout(self, x: Any, states: Any, mask: Any) -> Any:
        """What Keras's loop over timesteps returns, with other numbers of the states kept in each of them."""
        cell = Zoned(self.cell, x.shape[-1])
        shape = (*ops.shape(x)[:2], sum(cell.state_size))
        kept = keras.random.uniform(shape, seed=self.seed_generator) < self.cell.zoneout
        like = {"go_backwards": self.go_backwards, "zero_output_for_mask": self.zero_output_for_mask}
        loop = keras.layers.RNN(cell, return_sequences=True, **like)
        return loop.inner_loop(ops.concatenate([x, ops.cast(kept, x.dtype)], axis=-1), states, mask)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "recurrent_dropout": self.recurrent_dropout}


class Zoned:
    """A cell for inputs (B, F + S), which end with what zoneout keeps of its states: (B, S) of 1 and 0."""

    def __init__(self, cell: Cell, features: int) -> None:
        self.cell, self.features, self.state_size = cell, features, cell.state_size

    def call(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        x, *self.cell.kept = cut(x, [self.features, *self.state_size])
        try:
            return self.cell(x, states)
        finally:
            self.cell.kept = None

    __call__ = call


class Chunk(Protocol):
    """Some timesteps of a cell as one, for Keras's loop: inputs (B, C, F) and states -> outputs (B, C, U) and states.

    Inputs with one more feature say with it which timesteps count, by 1 and 0: behind the others, the states stay.
    """

    state_size: list[int]

    def call(self, x: Tensor, states: States) -> tuple[Tensor, States]: ...

    def size(self, timesteps: int | None, most: int) -> int:
        """Timesteps in a chunk of a sequence, whose length may not be known: about `most`."""

    def turned(self, state: Tensor) -> Tensor:
        """A state as the loop carries it, or back again."""


class Columns:
    """A `Chunk`: timesteps written out one after the other, all in columns, with states (U, B).

    With the few rows of a batch, processors multiply a kernel by columns in half the time that rows by a kernel take, and gates
    that lie one above the other need no copy to be told apart.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell, self.state_size = cell, cell.state_size
        # Outside of the loop: TensorFlow would fold a transposition inside of it back into the slower product.
        self.project, self.recur = cell.of_input.in_columns(), cell.of_state.in_columns()
        self.mask = None if cell.recurrent_mask is None else ops.transpose(cell.recurrent_mask)

    def call(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        features, timesteps = self.project.kernel.shape[0], x.shape[1]
        columns = ops.reshape(ops.transpose(x[..., :features], (2, 1, 0)), (features, -1))
        outputs = []
        for t, now in enumerate(ops.split(self.project(columns), timesteps, axis=1)):
            h = self.recur(states[0] if self.mask is None else states[0] * self.mask)
            y, after = self.cell.blend(now, h, states, 0)
            if x.shape[2] > features:
                after = [ops.where(x[:, t, -1] > 0, new, old) for new, old in zip(after, states, strict=True)]
            states = after
            outputs.append(y)
        return ops.transpose(ops.stack(outputs), (2, 0, 1)), states

    __call__ = call

    def size(self, timesteps: int | None, most: int) -> int:
        """The largest divisor up to `most`; where that is small, `most` itself, which leaves a rest."""
        if timesteps is None:
            return most // 2  # the less is filled up, the better
        most = most if backend.engine() == "tensorflow" else most // 4  # what XLA gains by more, it takes to compile it
        size = max(size for size in range(1, most + 1) if timesteps % size == 0)
        return size if size * 4 >= most else min(most, timesteps)

    def turned(self, state: Tensor) -> Tensor:
        return ops.transpose(state)


class Scanned:
    """A `Chunk`: timesteps of a linear cell, all at once."""

    def __init__(self, cell: LinearCell) -> None:
        self.cell, self.state_size = cell, cell.state_size

    def call(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        features = self.cell.kernel.shape[0]
        return self.cell.scan(x[..., :features], states, x[..., features:] if x.shape[2] > features else None)

    __call__ = call

    def size(self, timesteps: int | None, most: int) -> int:
        return timesteps or 2 * most

    def turned(self, state: Tensor) -> Tensor:
        return state


def over_chunks(chunk: Chunk, x: Tensor, size: int, states: States) -> tuple[Tensor, States]:
    """x (B, T, F), with T a multiple of `size` -> outputs (B, T, U), states: by Keras's loop."""
    timesteps = x.shape[1] or ops.shape(x)[1]
    cut = ops.reshape(x, (-1, timesteps // size, size, x.shape[2]))
    _, y, states = keras.layers.RNN(chunk, return_sequences=True).inner_loop(cut, states, None)
    return ops.reshape(y, (-1, timesteps, y.shape[-1])), states


def filled_up(x: Tensor, size: int) -> Tensor:
    """x (B, T, F) with zeros behind it, up to a multiple of `size`, and one more feature: 1, and in what is added 0."""
    rows, timesteps, _ = ops.shape(x)
    x = ops.concatenate([x, ops.ones_like(x[..., :1])], axis=-1)
    return ops.concatenate([x, ops.zeros((rows, -timesteps % size, x.shape[2]), x.dtype)], axis=1)


def chunk_of(cell: Any) -> Chunk | None:
    """How a cell is run in chunks; None where only Keras knows how to run it."""
    if isinstance(cell, LinearCell):
        return Scanned(cell)
    return Columns(cell) if by_columns(cell) else None


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
