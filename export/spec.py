"""What an exported model promises, declared before a file is made: converters, validation, manifest and runtime share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH, TIME = "batch", "time"
STEP, SEQUENCE, PREFILL = "step", "sequence", "prefill"
TOKENS, FEATURES, SEQUENCE_LENGTHS = "tokens", "features", "lengths"


KEY_LOGITS = "key_logits"


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


@dataclass(frozen=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Spec:
    """A model of tokens, or of `features` numbers a timestep, to `output_size` numbers, with its states outside.

    One that reads `both_ways` has no states: it takes whole sequences with their lengths. With `last_only`, `sequence` gives
    one output for each sequence, at its end, and takes their lengths too: the states after it are those at the ends.
    """

    output_size: int
    states: tuple[State, ...]
    features: int | None = None
    output: str = "logits"
    both_ways: bool = False
    last_only: bool = False

    @classmethod
    def of(cls, network: Any) -> Spec:
        """The spec of an `export.network.Network`: states layer by layer, the first of each `h`, a second one `c`."""
        states: list[State] = []
        for layer, stage in enumerate(network.recurrent):
            for i, value in enumerate(stage.initial_states(1)):
                role = "hc"[i] if i < 2 else f"state_{i}"
                states.append(State(len(states), layer, role, tuple(np.asarray(value, np.float32)[0].tolist())))
        both_ways, last_only = network.both_ways, network.of_sequences
        return cls(network.output_size, tuple(states), network.features, network.output, both_ways, last_only)

    @property
    def categorical(self) -> bool:
        """Whether the output are logits of one choice among many: their log-probabilities are then what counts."""
        return categorical(self.output)

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
                TensorSpec(self.output, "float32", (*outer, self.output_size)),
                *(TensorSpec(state.output, "float32", (BATCH, state.size)) for state in self.states),
            ),
        )
