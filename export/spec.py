"""What an exported model promises, declared before a file is made: converters, validation, manifest and runtime share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH, TIME = "batch", "time"
STEP, SEQUENCE, PREFILL = "step", "sequence", "prefill"
ENCODE, DECODE_STEP = "encode", "decode_step"  # of an encoder-decoder
TOKENS, FEATURES, SEQUENCE_LENGTHS = "tokens", "features", "lengths"
MEMORY, ATTENTION = "memory", "attention"


KEY_LOGITS = "key_logits"
PITCH_LOGITS, DURATION_LOGITS = "pitch_logits", "duration_logits"
Parts = tuple[tuple[str, int], ...]


def categorical(output: str) -> bool:
    """Whether an output of this name are logits of one choice among many; keys of a piano each sound by themselves."""
    return output.endswith("logits") and output != KEY_LOGITS


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor; a named axis is any size, a number a fixed one."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True)
class State:
    """One state of one layer, as the signatures name it; `initial` (U,) is what it holds before the first timestep."""

    number: int
    layer: int
    role: str
    initial: tuple[float, ...]

    @property
    def size(self) -> int:
        return len(self.initial)

    @property
    def input(self) -> str:
        return f"state_{self.number}_in"

    @property
    def output(self) -> str:
        return f"state_{self.number}_out"


def states_of(recurrent: Sequence[Any]) -> tuple[State, ...]:
    """The states of some stages, layer by layer: the first of each is `h`, a second one `c`."""
    states: list[State] = []
    for layer, stage in enumerate(recurrent):
        for i, value in enumerate(stage.initial_states(1)):
            role = "hc"[i] if i < 2 else f"state_{i}"
            states.append(State(len(states), layer, role, tuple(np.asarray(value, np.float32)[0].tolist())))
    return tuple(states)


@dataclass(frozen=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Spec:
    """A model of tokens, or of `features` numbers a timestep, to `output_size` numbers, with its states outside.

    One that reads `both_ways` has no states: it takes whole sequences with their lengths. With `last_only`, `sequence` gives
    one output for each sequence, at its end, and takes their lengths too: the states after it are those at the ends. With
    `parts`, names and widths, its files cut the numbers into outputs of their own.
    """

    output_size: int
    states: tuple[State, ...]
    features: int | None = None
    output: str = "logits"
    both_ways: bool = False
    last_only: bool = False
    parts: Parts = ()

    @classmethod
    def of(cls, network: Any) -> Spec:
        """The spec of an `export.network.Network`."""
        both_ways, last_only = network.both_ways, network.of_sequences
        states = states_of(network.recurrent)
        return cls(network.output_size, states, network.features, network.output, both_ways, last_only, network.parts)

    @property
    def categorical(self) -> bool:
        """Whether each output are logits of one choice among many: their log-probabilities are then what counts."""
        return all(categorical(name) for name, _ in self.outputs)

    @property
    def outputs(self) -> Parts:
        """Names and widths of what a file gives beside the states."""
        return self.parts or ((self.output, self.output_size),)

    def cut(self, outputs: Any) -> list[Any]:
        """The numbers (..., V) of a model, those of each output apart."""
        ends = list(accumulate(width for _, width in self.outputs))
        return [outputs] if not self.parts else [outputs[..., a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def named(self, outputs: Any) -> dict[str, Any]:
        """The numbers (..., V) of a model, as its files name them."""
        return dict(zip((name for name, _ in self.outputs), self.cut(outputs), strict=True))

    def joined(self, result: Mapping[str, Any]) -> Any:
        """What `named` was made of."""
        found = [result[name] for name, _ in self.outputs]
        return np.concatenate(found, axis=-1) if self.parts else found[0]

    @property
    def takes_lengths(self) -> bool:
        """Whether `sequence` wants to know where each sequence ends."""
        return self.both_ways or self.last_only

    @property
    def input(self) -> str:
        return TOKENS if self.features is None else FEATURES

    @property
    def input_dtype(self) -> str:
        return "int32" if self.features is None else "float32"

    def initial_states(self, batch_size: int) -> list[NDArray[np.float32]]:
        """The states (B, U) before the first timestep."""
        return [np.tile(np.array(state.initial, np.float32), (batch_size, 1)) for state in self.states]

    @property
    def signatures(self) -> dict[str, Signature]:
        if self.takes_lengths:
            lengths = TensorSpec(SEQUENCE_LENGTHS, "int32", (BATCH,))
            sequence = self._signature((BATCH, TIME), (BATCH,) if self.last_only else (BATCH, TIME), lengths)
            return {SEQUENCE: sequence} if self.both_ways else {STEP: self._signature((BATCH,), (BATCH,)), SEQUENCE: sequence}
        return {
            STEP: self._signature((BATCH,), (BATCH,)),
            SEQUENCE: self._signature((BATCH, TIME), (BATCH, TIME)),
            PREFILL: self._signature((BATCH, TIME), (BATCH,)),
        }

    def _signature(self, inner: tuple[str | int, ...], outer: tuple[str | int, ...], *more: TensorSpec) -> Signature:
        width = () if self.features is None else (self.features,)
        return Signature(
            inputs=(
                TensorSpec(self.input, self.input_dtype, (*inner, *width)),
                *more,
                *(TensorSpec(state.input, "float32", (BATCH, state.size)) for state in self.states),
            ),
            outputs=(
                *(TensorSpec(name, "float32", (*outer, width)) for name, width in self.outputs),
                *(TensorSpec(state.output, "float32", (BATCH, state.size)) for state in self.states),
            ),
        )


@dataclass(frozen=True)
class TranslationSpec:
    """An encoder-decoder of tokens: `encode` makes a memory (B, S, M) of a source and the decoder's first states, and
    `decode_step` takes both, with the last token, to the logits of the next one.
    """

    output_size: int
    memory_size: int
    states: tuple[State, ...]
    output: str = "logits"
    attention: str = ATTENTION
    categorical = True

    @classmethod
    def of(cls, network: Any) -> TranslationSpec:
        """The spec of an `export.encoder_decoder.EncoderDecoder`."""
        return cls(network.model.target_size, network.model.memory_size, states_of(network.decoder))

    @property
    def signatures(self) -> dict[str, Signature]:
        memory = TensorSpec(MEMORY, "float32", (BATCH, TIME, self.memory_size))
        lengths = TensorSpec(SEQUENCE_LENGTHS, "int32", (BATCH,))
        before, after = (
            [TensorSpec(getattr(state, side), "float32", (BATCH, state.size)) for state in self.states]
            for side in ("input", "output")
        )
        logits = TensorSpec(self.output, "float32", (BATCH, self.output_size))
        attention = TensorSpec(self.attention, "float32", (BATCH, TIME))
        return {
            ENCODE: Signature((TensorSpec(TOKENS, "int32", (BATCH, TIME)), lengths), (memory, *after)),
            DECODE_STEP: Signature(
                (TensorSpec(TOKENS, "int32", (BATCH,)), memory, lengths, *before), (logits, attention, *after)
            ),
        }

    def named_states(self, states: Sequence[Any]) -> dict[str, Any]:
        """States after a call by their names."""
        return {state.output: value for state, value in zip(self.states, states, strict=True)}
