"""A trained model as the exporters see it: a chain of stages, each a function of one timestep.

Everything but a recurrent stage looks at its own timestep alone, so a chain runs one timestep at a time or whole, with the same
numbers; unless a stage reads both ways, which takes whole sequences. The stages hold the model's own variables and cells:
nothing is copied, and nothing of the model is changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras
from keras import layers, ops

from export.keras_model import in_float64, layers_of
from export.spec import Parts, categorical
from export.stages import MERGES, Affine, Both, Drive, Lookup, Pointwise, Recurrent, Scaled, Stage
from seqapp.cell import States, Tensor
from seqapp.classifier import Classifier
from seqapp.errors import UsageError
from seqapp.model import SequenceModel

LOGITS, CLASS_LOGITS, QUANTILES, VALUE, OUTPUTS = "logits", "class_logits", "quantiles", "value", "outputs"
# Layers that look at the last axis alone, and those that do nothing once training is over.
POINTWISE = (
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.PReLU, layers.Softmax, layers.Rescaling,
    layers.LayerNormalization, layers.RMSNormalization, layers.BatchNormalization, layers.UnitNormalization,
)  # fmt: skip
INACTIVE = (
    layers.InputLayer, layers.Dropout, layers.SpatialDropout1D, layers.GaussianNoise, layers.GaussianDropout,
    layers.AlphaDropout, layers.ActivityRegularization,
)  # fmt: skip
OVER_TIME = (Recurrent, Both)
DRIVING = (layers.RNN, layers.Bidirectional)


@dataclass(frozen=True, eq=False)
class Network:
    """Stages in a chain, from tokens (B,) or features (B, F) of one timestep to `output`.

    It has what `seqapp.step.KerasStepper` needs of a model. With `last_only`, the model behind it gives the output of the last
    timestep alone, and with `of_ends` its files do so too; with `softmax_left_out`, it gives probabilities, and the chain their
    logits.
    """

    model: Any
    stages: tuple[Stage, ...]
    features: int | None = None
    output: str = LOGITS
    last_only: bool = False
    softmax_left_out: bool = False
    of_ends: bool = False
    parts: Parts = ()

    @classmethod
    def of(cls, model: Any, output: str | None = None, parts: Parts = ()) -> Network:
        """The chain of a model of seqapp's own, a `keras.Sequential` or a functional model whose layers follow one another.

        `output` names the result; where the name ends in "logits", a softmax at the end is left out. By default it is `logits`
        for a model of tokens or one with such a softmax, `class_logits` for a `Classifier`, else `outputs`. Its
        numbers may be several outputs side by side: `parts` are their names and widths.

        Raises:
            UsageError: the model is of another kind, or holds a layer that needs more than its own timestep.
        """
        if isinstance(model, SequenceModel):
            return cls(model, tuple(_of_sequence_model(model)))
        if isinstance(model, Classifier):
            features, last_only = None if model.vocabulary_size else len(model.mean), not model.each_timestep
            return cls(model, tuple(_of_classifier(model)), features, output or CLASS_LOGITS, last_only, of_ends=last_only)
        chain = layers_of(model)
        if not model.built:
            raise UsageError("The model has no weights yet: begin it with a keras.Input, or call it once.")
        stages, last_only = _stages(chain)
        if not any(isinstance(stage, OVER_TIME) for stage in stages):
            raise UsageError("The model has no recurrent layer: there is no state to carry, so any converter will do.")
        _check_input(model.inputs[0].shape, stages[0])
        _check_dtypes([model, *chain, *_cells(stages)])
        features = None if isinstance(stages[0], Lookup) else int(model.inputs[0].shape[-1])
        with_softmax = _ends_in_softmax(stages[-1])
        output = output or (LOGITS if with_softmax or features is None else OUTPUTS)
        left_out = with_softmax and categorical(output)
        kept = tuple(_without_softmax(stages) if left_out else stages)
        return cls(model, kept, features, output, last_only, left_out, parts=parts)

    @property
    def both_ways(self) -> bool:
        """Whether a stage reads both ways, so that the network takes whole sequences and carries no states."""
        return any(isinstance(stage, Both) for stage in self.stages)

    @property
    def of_sequences(self) -> bool:
        """Whether its files give one output for each sequence."""
        return self.last_only and (self.both_ways or self.of_ends)

    @property
    def recurrent(self) -> list[Recurrent]:
        """The recurrent stages whose states are carried from call to call."""
        return [] if self.both_ways else [stage for stage in self.stages if isinstance(stage, Recurrent)]

    @property
    def head(self) -> tuple[Any, ...]:
        """Everything up to the last recurrent stage."""
        end = max(i for i, stage in enumerate(self.stages) if isinstance(stage, OVER_TIME))
        return self.stages[: end + 1]

    @property
    def tail(self) -> tuple[Any, ...]:
        return self.stages[len(self.head) :]

    @property
    def token_count(self) -> int | None:
        """How many tokens it knows, numbered from 0 on; of one that takes features, None."""
        return int(self.stages[0].table.shape[0]) if isinstance(self.stages[0], Lookup) else None

    @property
    def width(self) -> int:
        """Of the last recurrent stage's output."""
        return self.head[-1].width

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

    def sequences(self, drive: Drive, x: Tensor, lengths: Tensor) -> Tensor:
        """x (B, T) or (B, T, F) of whole sequences, which end after `lengths` (B,): outputs (B, T, U) of the last recurrent
        stage, of which those from the length on mean nothing, or (B, U) with `last_only`.
        """
        *before, end = self.head
        for stage in before:
            x = stage.along(drive, x, lengths) if isinstance(stage, OVER_TIME) else stage(x)
        return end.along(drive, x, lengths, self.last_only)

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
        cells = _cells(self.stages)
        if isinstance(self.model, (SequenceModel, Classifier)):
            return Network.of(in_float64(self.model, cells), self.output)
        copy = in_float64(self.model, [*layers_of(self.model), *cells])
        stages, _ = _stages(layers_of(copy))
        return replace(self, model=copy, stages=tuple(_without_softmax(stages) if self.softmax_left_out else stages))


def _of_sequence_model(model: SequenceModel) -> list[Stage]:
    stages: list[Stage] = [Lookup(model.embedding.embeddings), *(Recurrent(layer.cell) for layer in model.recurrent)]
    if model.projection:
        stages.append(Affine(model.projection.kernel))
    kernel = model.embedding.embeddings if model.tied else model.output_kernel
    return [*stages, Affine(kernel, model.output_bias, transposed=model.tied)]


def _of_classifier(model: Classifier) -> list[Stage]:
    first = Lookup(model.first.embeddings) if model.vocabulary_size else _scaled(model)
    ahead = [Recurrent(layer.cell) for layer in model.ahead]
    back = [Recurrent(layer.cell) for layer in model.back]
    over_time = [Both([one], [other], "concat") for one, other in zip(ahead, back, strict=True)] if back else ahead
    return [first, *over_time, Affine(model.head.kernel, model.head.bias)]


def _scaled(model: Classifier) -> Scaled:
    return Scaled(tuple(model.mean), tuple(math.sqrt(value) for value in model.variance))


def _stages(chain: Sequence[Any]) -> tuple[list[Stage], bool]:
    """The stages of layers, and whether the last recurrent one gives its last timestep alone."""
    stages: list[Stage] = []
    last_only = False
    for layer in chain:
        found = _stage(layer)
        if last_only and any(isinstance(stage, OVER_TIME) for stage in found):
            raise UsageError("A recurrent layer follows one without return_sequences: set return_sequences=True there.")
        last_only = last_only or (isinstance(layer, DRIVING) and not layer.return_sequences)
        stages += found
    return stages, last_only


def _stage(layer: Any) -> list[Stage]:
    if isinstance(layer, layers.TimeDistributed):
        return _stage(layer.layer)
    if isinstance(layer, INACTIVE):
        return []
    if isinstance(layer, layers.Embedding):
        if layer.mask_zero:
            raise UsageError(
                f"The layer {layer.name!r} masks token 0: a stream has no padding, and a layer that reads both ways is told "
                "the lengths of its sequences. Set mask_zero=False."
            )
        return [Lookup(layer.embeddings)]
    if isinstance(layer, layers.Dense):
        linear = layer.activation is keras.activations.linear
        return [Affine(layer.kernel, layer.bias, None if linear else layer.activation)]
    if isinstance(layer, DRIVING):
        return _of_cells(layer)
    if isinstance(layer, POINTWISE) and _along_last_axis(layer):
        return [Pointwise(layer)]
    raise UsageError(
        f"The layer {layer.name!r} ({type(layer).__name__}) is none that looks at one timestep alone: "
        "expected Embedding, Dense, recurrent or Bidirectional layers, normalization, activations or dropout."
    )


def _of_cells(layer: Any) -> list[Stage]:
    """The stages of a layer that drives cells over time."""
    if isinstance(layer, layers.Bidirectional):
        return [_both(layer)]
    if layer.go_backwards:
        raise UsageError(
            f"The layer {layer.name!r} goes backwards and leaves its outputs in that order: use keras.layers.Bidirectional."
        )
    return list(_recurrent(layer))


def _recurrent(layer: Any) -> list[Recurrent]:
    cells = layer.cell.cells if isinstance(layer.cell, layers.StackedRNNCells) else [layer.cell]
    return [Recurrent(cell) for cell in cells]


def _both(layer: Any) -> Both:
    parts = (layer.forward_layer, layer.backward_layer)
    if layer.merge_mode not in MERGES or not all(isinstance(part, layers.RNN) for part in parts):
        raise UsageError(
            f"The layer {layer.name!r} must wrap recurrent layers, with a merge_mode of {', '.join(MERGES)}. "
            f"Received: {' and '.join(type(part).__name__ for part in parts)}, merge_mode {layer.merge_mode!r}"
        )
    if [bool(part.go_backwards) for part in parts] != [False, True]:
        raise UsageError(f"The layer {layer.name!r} must wrap a layer that goes forward, then one with go_backwards=True.")
    return Both(_recurrent(parts[0]), _recurrent(parts[1]), layer.merge_mode)


def _cells(stages: Sequence[Stage]) -> list[Any]:
    flat = [part for stage in stages for part in ([*stage.ahead, *stage.back] if isinstance(stage, Both) else [stage])]
    return [part.cell for part in flat if isinstance(part, Recurrent)]


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
