"""The stages that a network is a chain of: what a Keras layer computes, over the model's own variables and cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from seqapp.cell import States, Tensor


@dataclass(frozen=True, eq=False)
class Lookup:
    """Tokens (...) -> rows (..., E) of a table (V, E)."""

    table: Any

    def __call__(self, x: Tensor) -> Tensor:
        # A plain gather: Keras's layer would add three operators for negative numbers.
        return tf.gather(ops.convert_to_tensor(self.table), x)


@dataclass(frozen=True, eq=False)
class Scaled:
    """x (..., F) -> (x - mean) / deviation, number by number."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return (x - tf.constant(self.mean, x.dtype)) / tf.constant(self.deviation, x.dtype)


@dataclass(frozen=True, eq=False)
class Affine:
    """x (..., F) -> f(x·K + b) (..., G), with K (F, G); transposed, the kernel is kept as (G, F)."""

    kernel: Any
    bias: Any = None
    activation: Any = None
    transposed: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        x = ops.matmul(x, ops.transpose(self.kernel) if self.transposed else self.kernel)
        if self.bias is not None:
            x = x + self.bias
        return x if self.activation is None else self.activation(x)


@dataclass(frozen=True, eq=False)
class Pointwise:
    """Any other Keras layer that looks at the last axis alone."""

    layer: Any

    def __call__(self, x: Tensor) -> Tensor:
        # A layer may have been built for sequences and refuse a single timestep.
        return self.layer(x[:, None])[:, 0] if len(x.shape) == 2 else self.layer(x)


class Driven(layers.RNN):
    """Without the masks that Keras draws for a cell with dropout, even where nothing is dropped."""

    def _maybe_config_dropout_masks(self, *_: Any) -> None:
        pass


@dataclass(frozen=True, eq=False)
class Recurrent:
    """A cell, driven over time by whoever runs the chain."""

    cell: Any

    @property
    def sizes(self) -> list[int]:
        return [int(size) for size in keras.tree.flatten(self.cell.state_size)]

    @cached_property
    def layer(self) -> Any:
        """The cell in a `keras.layers.RNN` of the exporter's own, whatever the model wraps it in."""
        return Driven(self.cell, return_sequences=True, return_state=True, dtype=self.cell.dtype_policy)

    def step(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        """x (B, F), states -> outputs (B, U), states."""
        y, after = self.cell(x, states)
        return y, keras.tree.flatten(after)  # a cell of one state may return it bare

    def whole(self, x: Tensor, states: States, mask: Tensor | None = None) -> tuple[Tensor, States]:
        """x (B, T, F), states -> outputs (B, T, U), states: as Keras runs it.

        Where a mask (B, T) is False, states and outputs stay what they were.
        """
        y, *after = self.layer(x, initial_state=list(states), mask=mask)
        return y, keras.tree.flatten(after)

    def along(self, drive: Drive, x: Tensor, lengths: Tensor, last_only: bool = False) -> Tensor:
        """x (B, T, F) -> outputs (B, T, U) from the first states on, or (B, U) where a sequence ends, after `lengths` (B,)."""
        y, _ = drive(self, x, self.initial_states(tf.shape(x)[0]))
        return last(y, lengths) if last_only else y

    @property
    def width(self) -> int:
        """Of the cell's output."""
        size = getattr(self.cell, "output_size", None) or self.sizes[0]
        return int(size[-1] if isinstance(size, (tuple, list)) else size)

    def initial_states(self, batch_size: int) -> States:
        # Of one row, whatever the size is: where that is a tensor, a cell's own code may not know what to do with it.
        states = keras.tree.flatten(self.layer.get_initial_state(1))
        return [ops.broadcast_to(ops.convert_to_tensor(state), (batch_size, state.shape[-1])) for state in states]


Drive = Callable[[Recurrent, Tensor, States], tuple[Tensor, States]]
# What a layer that reads both ways makes of the outputs ahead (..., U) and back (..., U).
MERGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda ahead, back: ops.concatenate([ahead, back], axis=-1),
    "sum": lambda ahead, back: ahead + back,
    "ave": lambda ahead, back: (ahead + back) / 2,
    "mul": lambda ahead, back: ahead * back,
}


@dataclass(frozen=True, eq=False)
class Both:
    """Cells that read a sequence ahead and cells that read it back, from its last timestep on; their outputs merged."""

    ahead: Sequence[Recurrent]
    back: Sequence[Recurrent]
    merge: str

    @property
    def width(self) -> int:
        """Of the merged outputs."""
        widths = [stages[-1].width for stages in (self.ahead, self.back)]
        return sum(widths) if self.merge == "concat" else widths[0]

    def along(self, drive: Drive, x: Tensor, lengths: Tensor, last_only: bool = False) -> Tensor:
        """x (B, T, F) of sequences that end after `lengths` (B,) -> outputs (B, T, U), or (B, U) where each direction ends."""
        ahead, back = x, tf.reverse_sequence(x, lengths, 1)
        for stage in self.ahead:
            ahead = stage.along(drive, ahead, lengths)
        for stage in self.back:
            back = stage.along(drive, back, lengths)
        back = tf.reverse_sequence(back, lengths, 1)
        return MERGES[self.merge](last(ahead, lengths), back[:, 0]) if last_only else MERGES[self.merge](ahead, back)


Stage = Lookup | Scaled | Affine | Pointwise | Recurrent | Both


def last(y: Tensor, lengths: Tensor) -> Tensor:
    """y (B, T, U) -> (B, U) at the last timestep of each sequence."""
    return tf.reverse_sequence(y, lengths, 1)[:, 0]
