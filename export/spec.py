"""What an exported model promises, declared before a file is made: converters, validation and manifest share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BATCH, TIME = "batch", "time"
STEP, SEQUENCE = "step", "sequence"


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor; a named axis is any size, a number a fixed one."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True)
class State:
    """One state of one layer, as the signatures name it."""

    number: int
    size: int
    layer: int
    role: str

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
    """A model of tokens to logits, with its states outside."""

    vocabulary_size: int
    states: tuple[State, ...]

    @classmethod
    def of(cls, model: Any) -> Spec:
        """The spec of a `SequenceModel`. States in the order of their layers; the first of each is `h`, a second one `c`."""
        states: list[State] = []
        for layer, recurrence in enumerate(model.recurrent):
            for i, size in enumerate(recurrence.state_size):
                role = "hc"[i] if i < 2 else f"state_{i}"
                states.append(State(len(states), size, layer, role))
        return cls(model.vocabulary_size, tuple(states))

    @property
    def signatures(self) -> dict[str, Signature]:
        return {STEP: self._signature((BATCH,)), SEQUENCE: self._signature((BATCH, TIME))}

    def _signature(self, axes: tuple[str | int, ...]) -> Signature:
        return Signature(
            inputs=(
                TensorSpec("tokens", "int32", axes),
                *(TensorSpec(state.input, "float32", (BATCH, state.size)) for state in self.states),
            ),
            outputs=(
                TensorSpec("logits", "float32", (*axes, self.vocabulary_size)),
                *(TensorSpec(state.output, "float32", (BATCH, state.size)) for state in self.states),
            ),
        )
