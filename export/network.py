"""A trained model as the exporters see it: a chain of stages, each a function of one timestep.

Everything but a recurrent stage looks at its own timestep alone, so a chain runs one timestep at a time or whole, with the same
numbers. The stages hold the model's own variables and cells: nothing is copied, and nothing of the model is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from export.keras_model import in_float64, layers_of
from seqapp.cells import States, Tensor
from seqapp.errors import UsageError
from seqapp.model import SequenceModel

LOGITS, OUTPUTS = "logits", "outputs"
# Layers that look at the last axis alone, and those that do nothing once training is over.
POINTWISE = (
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.PReLU, layers.Softmax, layers.Rescaling,
    layers.LayerNormalization, layers.RMSNormalization, layers.BatchNormalization, layers.UnitNormalization,
)  # fmt: skip
INACTIVE = (
    layers.InputLayer, layers.Dropout, layers.SpatialDropout1D, layers.GaussianNoise, layers.GaussianDropout,
    layers.AlphaDropout, layers.ActivityRegularization,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Lookup:
    """Tokens (...) -> rows (..., E) of a table (V, E)."""

    table: Any

    def __call__(self, x: Tensor) -> Tensor:
        # A plain gather: Keras's layer would add three operators for negative numbers.
        return tf.gather(ops.convert_to_tensor(self.table), x)


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

    def whole(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        """x (B, T, F), states -> outputs (B, T, U), states: as Keras runs it."""
        y, *after = self.layer(x, initial_state=list(states))
        return y, keras.tree.flatten(after)

    @property
    def width(self) -> int:
        """Of the cell's output."""
        size = getattr(self.cell, "output_size", None) or self.sizes[0]
        return int(size[-1] if isinstance(size, (tuple, list)) else size)

    def initial_states(self, batch_size: int) -> States:
        states = keras.tree.flatten(self.layer.get_initial_state(batch_size))
        return [ops.broadcast_to(ops.convert_to_tensor(state), (batch_size, state.shape[-1])) for state in states]


Stage = Lookup | Affine | Pointwise | Recurrent
Drive = Callable[[Any, Tensor, States], tuple[Tensor, States]]


@dataclass(frozen=True, eq=False)
class Network:
    """Stages in a chain, from tokens (B,) or features (B, F) of one timestep to `output`.

    It has what `seqapp.step.KerasStepper` needs of a model. With `last_only`, the model behind it gives the output of the last
    timestep alone; with `softmax_left_out`, it gives probabilities, and the chain their logits.
    """

    model: Any
    stages: tuple[Stage, ...]
    features: int | None = None
    output: str = LOGITS
    last_only: bool = False
    softmax_left_out: bool = False

    @classmethod
    def of(cls, model: Any, output: str | None = None) -> Network:
        """The chain of a `SequenceModel`, a `keras.Sequential` or a functional model whose layers follow one another.

        `output` names the result; where the name ends in "logits", a softmax at the end is left out. By default it is `logits`
        for a model of tokens or one with such a softmax, else `outputs`.

        Raises:
            UsageError: the model is of another kind, or holds a layer that needs more than its own timestep.
        """
        if isinstance(model, SequenceModel):
            return cls(model, tuple(_of_sequence_model(model)))
        chain = layers_of(model)
        if not model.built:
            raise UsageError("The model has no weights yet: begin it with a keras.Input, or call it once.")
        stages, last_only = _stages(chain)
        if not any(isinstance(stage, Recurrent) for stage in stages):
            raise UsageError("The model has no recurrent layer: there is no state to carry, so any converter will do.")
        _check_input(model.inputs[0].shape, stages[0])
        _check_dtypes([model, *chain, *(stage.cell for stage in stages if isinstance(stage, Recurrent))])
        features = None if isinstance(stages[0], Lookup) else int(model.inputs[0].shape[-1])
        with_softmax = _ends_in_softmax(stages[-1])
        output = output or (LOGITS if with_softmax or features is None else OUTPUTS)
        left_out = with_softmax and output.endswith(LOGITS)
        return cls(model, tuple(_without_softmax(stages) if left_out else stages), features, output, last_only, left_out)

    @property
    def recurrent(self) -> list[Recurrent]:
        return [stage for stage in self.stages if isinstance(stage, Recurrent)]

    @property
    def head(self) -> tuple[Stage, ...]:
        """Everything up to the last recurrent stage."""
        last = max(i for i, stage in enumerate(self.stages) if isinstance(stage, Recurrent))
        return self.stages[: last + 1]

    @property
    def tail(self) -> tuple[Any, ...]:
        return self.stages[len(self.head) :]

    @property
    def width(self) -> int:
        """Of the last recurrent stage's output."""
        return self.recurrent[-1].width

    @cached_property
    def output_size(self) -> int:
        return int(self.finish(ops.zeros((1, self.width), self.compute_dtype)).shape[-1])

    @property
    def compute_dtype(self) -> str:
        return str(self.model.compute_dtype)

    @property
    def variables(self) -> list[Any]:
        return list(self.model.variables)

    @property
    def state_sizes(self) -> list[int]:
        return [size for stage in self.recurrent for size in stage.sizes]

    def initial_states(self, batch_size: int) -> States:
        return [state for stage in self.recurrent for state in stage.initial_states(batch_size)]

    def run(self, drive: Drive, x: Tensor, states: States) -> tuple[Tensor, States]:
        """The head, each recurrent stage run by `drive(stage, x, its states)`: (outputs of the last one, all states after)."""
        states, after = list(states), []
        for stage in self.head:
            if isinstance(stage, Recurrent):
                own, states = states[: len(stage.sizes)], states[len(stage.sizes) :]
                x, own = drive(stage, x, own)
                after += own
            else:
                x = stage(x)
        return x, after

    def finish(self, x: Tensor) -> Tensor:
        """The tail: outputs of the last recurrent stage (..., U) -> output (..., V)."""
        for stage in self.tail:
            x = stage(x)
        return x

    def step(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        """x (B,) or (B, F), states -> output (B, V), states."""
        x, states = self.run(Recurrent.step, x, states)
        return self.finish(x), states

    def __call__(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        """x (B, T) or (B, T, F), states -> output (B, T, V), states: as Keras runs it."""
        x, states = self.run(Recurrent.whole, x, states)
        return self.finish(x), states

    def in_float64(self) -> Network:
        """The same chain over a copy of the model that computes in float64."""
        cells = [stage.cell for stage in self.recurrent]
        if isinstance(self.model, SequenceModel):
            return Network.of(in_float64(self.model, cells))
        copy = in_float64(self.model, [*layers_of(self.model), *cells])
        stages, _ = _stages(layers_of(copy))
        return replace(self, model=copy, stages=tuple(_without_softmax(stages) if self.softmax_left_out else stages))


def _of_sequence_model(model: SequenceModel) -> list[Stage]:
    stages: list[Stage] = [Lookup(model.embedding.embeddings), *(Recurrent(layer.cell) for layer in model.recurrent)]
    if model.projection:
        stages.append(Affine(model.projection.kernel))
    kernel = model.embedding.embeddings if model.tied else model.output_kernel
    return [*stages, Affine(kernel, model.output_bias, transposed=model.tied)]


def _stages(chain: Sequence[Any]) -> tuple[list[Stage], bool]:
    """The stages of layers, and whether the last recurrent one gives its last timestep alone."""
    stages: list[Stage] = []
    last_only = False
    for layer in chain:
        found = _stage(layer)
        if last_only and any(isinstance(stage, Recurrent) for stage in found):
            raise UsageError("A recurrent layer follows one without return_sequences: set return_sequences=True there.")
        last_only = last_only or (isinstance(layer, layers.RNN) and not layer.return_sequences)
        stages += found
    return stages, last_only


def _stage(layer: Any) -> list[Stage]:
    if isinstance(layer, layers.TimeDistributed):
        return _stage(layer.layer)
    if isinstance(layer, INACTIVE):
        return []
    if isinstance(layer, layers.Embedding):
        if layer.mask_zero:
            raise UsageError(f"The layer {layer.name!r} masks token 0: streams have no padding, so set mask_zero=False.")
        return [Lookup(layer.embeddings)]
    if isinstance(layer, layers.Dense):
        linear = layer.activation is keras.activations.linear
        return [Affine(layer.kernel, layer.bias, None if linear else layer.activation)]
    if isinstance(layer, layers.RNN):
        if layer.go_backwards:
            raise UsageError(f"The layer {layer.name!r} goes backwards: it cannot run one piece at a time.")
        cells = layer.cell.cells if isinstance(layer.cell, layers.StackedRNNCells) else [layer.cell]
        return [Recurrent(cell) for cell in cells]
    if isinstance(layer, POINTWISE) and _along_last_axis(layer):
        return [Pointwise(layer)]
    raise UsageError(
        f"The layer {layer.name!r} ({type(layer).__name__}) is none that looks at one timestep alone: "
        "expected Embedding, Dense, RNN layers, normalization, activations or dropout."
    )


def _along_last_axis(layer: Any) -> bool:
    """Whether a layer that could look along other axes does not; one of PReLU's slopes may be for all timesteps."""
    axes, shared = getattr(layer, "axis", -1), getattr(layer, "shared_axes", [1])
    return set(keras.tree.flatten(axes)) <= {-1, 2} and list(shared or []) == [1]


def _check_input(shape: Sequence[int | None], first: Stage) -> None:
    if len(shape) != (2 if isinstance(first, Lookup) else 3):
        raise UsageError(
            "The model must take tokens (batch, time) into an Embedding, or features (batch, time, features). "
            f"Received: {tuple(shape)}"
        )


def _check_dtypes(parts: Sequence[Any]) -> None:
    for part in parts:
        if not isinstance(part, layers.InputLayer) and part.compute_dtype != "float32":
            raise UsageError(f"{part.name!r} computes in {part.compute_dtype}: only models in float32 are exported.")


def _ends_in_softmax(stage: Stage) -> bool:
    if isinstance(stage, Pointwise):
        layer = stage.layer
        return isinstance(layer, layers.Softmax) or getattr(layer, "activation", None) is keras.activations.softmax
    return isinstance(stage, Affine) and stage.activation is keras.activations.softmax


def _without_softmax(stages: list[Stage]) -> list[Stage]:
    last = stages[-1]
    if not _ends_in_softmax(last):
        return stages
    return [*stages[:-1], replace(last, activation=None)] if isinstance(last, Affine) else stages[:-1]
