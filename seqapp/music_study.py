"""What a model of music learns from: stretches of pieces, in another key in each epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

from seqapp import backend
from seqapp.config import Config
from seqapp.errors import UsageError
from seqapp.report import Report
from seqapp.run import Run
from seqapp.scores import Notes, split
from seqapp.sequences import Sequences, padded
from seqapp.step import Array, compiled

P = TypeVar("P", bound=Notes)


class MusicStudy(ABC):
    """See `seqapp.study.Study`; `parts` are the arrays (T, ...) of the pieces of each part."""

    loss: Any
    unit: str
    measure: str
    timestep: str  # what one is called, for people
    suffix: str  # of the files that a run keeps

    def __init__(self, model: Any, parts: dict[str, list[Array]], config: Config) -> None:
        self.model = self.learner = model
        self.parts, self.config = parts, config
        self.compiled = compiled(model)
        size = config.training.bptt
        cuts = [(i, first) for i, piece in enumerate(parts["train"]) for first in range(0, max(1, len(piece) - 1), size)]
        stretches = [parts["train"][i][first : first + size + 1] for i, first in cuts]
        self.stretches = Sequences(stretches, [np.zeros((), np.int32)] * len(cuts))
        # What a stretch within a piece begins with does not come out of nothing: the stretch before it has foretold that.
        self.begins = np.array([first == 0 for _, first in cuts])
        sizes = ", ".join(f"{name} {sum(map(len, some)):,} in {len(some):,}" for name, some in parts.items())
        self.summary = f"{self.timestep}, and pieces: {sizes}"

    @abstractmethod
    def transposed(self, piece: Array, steps: int) -> Array:
        """A piece so many semitones higher, as far as no note falls off the keyboard."""

    @abstractmethod
    def told(self, pieces: Array) -> Array:
        """What is known when each timestep of pieces (..., T, ·) is foretold: features (..., T, F) of the ones before."""

    @abstractmethod
    def nats(self, logits: list[Array], pieces: list[Array]) -> float:
        """Nats per timestep of logits (T, V) for all timesteps of each piece."""

    @abstractmethod
    def foretold(self, pieces: list[Array]) -> list[Array]:
        """The logits (T, V) of all timesteps of each piece, each from those before it."""

    @abstractmethod
    def keep(self, path: Path, pieces: Sequence[Array]) -> None:
        """Writes the arrays of a part."""

    @abstractmethod
    def kept(self, run: Run, part: str) -> list[Array]:
        """Reads what `keep` wrote."""

    @abstractmethod
    def report(self, model: Any, part: str) -> Report:
        """See `seqapp.study.Study`."""

    def measured(self, nats: float) -> float:
        return nats

    @property
    def per_epoch(self) -> int:
        return self.stretches.per_epoch(self.config.training.batch_size)

    def batches(self, epoch: int, start: int) -> Any:
        t, reach = self.config.training, self.config.next_note.transpose
        picks = self.stretches.batches(t.batch_size, [t.seed, epoch])
        steps = np.random.default_rng([t.seed, epoch, 1]).integers(-reach, reach + 1, len(self.stretches))

        def batches() -> Iterator[Any]:
            for pick in picks[start:]:
                pieces, lengths = padded([self.transposed(self.stretches.inputs[i], int(steps[i])) for i in pick])
                known = np.arange(pieces.shape[1]) < lengths[:, None]
                known[:, 0] = self.begins[pick]
                yield self.told(pieces), pieces.astype(np.float32), known.astype(np.float32)

        widths = self.model.input_shape[-1], self.parts["train"][0].shape[-1]
        signature = tuple(keras.KerasTensor([None, None, *rest], "float32") for rest in ([widths[0]], [widths[1]], []))
        return backend.batches(batches, signature, len(picks) - start)

    def begin_epoch(self) -> None:  # noqa: B027 - each stretch starts from the zero state
        pass

    def targets(self, batches: int) -> int:
        return round(batches * self.config.training.batch_size * float(self.stretches.lengths.mean()))

    def validate(self) -> float:
        return self.nats(self.foretold(self.parts["validation"]), self.parts["validation"])

    def save(self, run: Run) -> None:
        for name, pieces in self.parts.items():
            self.keep(run.path / f"{name}_{self.suffix}.npz", pieces)

    def check_same(self, run: Run) -> None:
        for name, pieces in self.parts.items():
            kept = self.kept(run, name)
            if len(kept) != len(pieces) or not all(np.array_equal(a, b) for a, b in zip(kept, pieces, strict=True)):
                raise UsageError(f"The {name} part is not the one {run.path} was begun with: restore the data, or start again.")


def divided(found: dict[str, list[P]], config: Config) -> dict[str, list[P]]:
    """The pieces of each part, as the configuration divides them."""
    return split(found, config.data.validation_fraction, config.data.test_fraction)
