"""Sequences of their own lengths, as a model takes them: numbered, padded, in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.arrays import read_npz
from seqapp.errors import UsageError

Array = NDArray[Any]
TOGETHER = 32  # sequences at once, where nothing is learnt
POOL = 20  # batches at most whose sequences are sorted by length together: little padding, and still another mix in each epoch


@dataclass(frozen=True)
class Sequences:
    """Tokens (T,) or features (T, F) of each sequence, and its labels: one (), or one a timestep (T,).

    A label is the number of a class, or a value.
    """

    inputs: list[Array]
    labels: list[Array]

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def lengths(self) -> Array:
        return np.array([len(x) for x in self.inputs], np.int32)

    @property
    def label_count(self) -> int:
        return sum(label.size for label in self.labels)

    def batches(self, size: int, seed: Sequence[int]) -> list[Array]:
        """The numbers of the sequences in each batch of one epoch, in an order that depends on the seed alone.

        Batches are of one size, so that the mean of their losses is the mean over all; what is left over differs each time.
        """
        rng = np.random.default_rng(seed)
        count = self.per_epoch(size)
        order, lengths = rng.permutation(len(self))[: count * size], self.lengths
        step = size * min(POOL, -(-count // 4))
        pools = [order[i : i + step] for i in range(0, len(order), step)]
        ranked = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
        batches = [ranked[i : i + size] for i in range(0, len(ranked), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def per_epoch(self, size: int) -> int:
        """How many batches an epoch has."""
        return max(1, len(self) // size)

    def in_order_of_length(self, size: int) -> Iterator[Array]:
        """The numbers of the sequences in batches for an evaluation."""
        order = np.argsort(self.lengths, kind="stable")
        return (order[i : i + size] for i in range(0, len(order), size))

    def first(self, timesteps: int) -> Sequences:
        """The first sequences, as many as begin within so many timesteps."""
        count = int(np.searchsorted(np.cumsum(self.lengths), timesteps)) + 1
        return Sequences(self.inputs[:count], self.labels[:count])

    def save(self, path: Path) -> None:
        labels = np.concatenate([np.atleast_1d(label) for label in self.labels])
        each = np.array(bool(self.labels[0].ndim))
        np.savez(path, inputs=np.concatenate(self.inputs), lengths=self.lengths, labels=labels, each_timestep=each)

    @classmethod
    def load(cls, path: Path) -> Sequences:
        """Reads what `save` wrote.

        Raises:
            UsageError: the file is missing or damaged.
        """
        arrays = read_npz(path, "restore it, or train again.")
        try:
            inputs, lengths, labels, each = (arrays[name] for name in ("inputs", "lengths", "labels", "each_timestep"))
            cuts = np.cumsum(lengths)[:-1]
            if lengths.sum() != len(inputs) or len(labels) != (len(inputs) if each else len(lengths)):
                raise ValueError("its parts do not fit together")
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path} is damaged ({error}): restore it, or train again.") from None
        return cls(np.split(inputs, cuts), np.split(labels, cuts) if each else list(labels))


def save_parts(folder: Path, parts: dict[str, Sequences]) -> None:
    """Writes the parts of some data into a run."""
    for name, part in parts.items():
        part.save(_file(folder, name))


def load_part(folder: Path, name: str) -> Sequences:
    """Reads one of what `save_parts` wrote.

    Raises:
        UsageError: the file is missing or damaged.
    """
    return Sequences.load(_file(folder, name))


def check_parts(folder: Path, parts: dict[str, Sequences]) -> None:
    """Refuses parts that are not those of a run.

    Raises:
        UsageError: they are not, or a file is missing or damaged.
    """
    for name, part in parts.items():
        kept = load_part(folder, name)
        pairs = [*zip(kept.inputs, part.inputs, strict=False), *zip(kept.labels, part.labels, strict=False)]
        if len(kept) != len(part) or not all(np.array_equal(a, b) for a, b in pairs):
            raise UsageError(f"The {name} part is not the one {folder} was begun with: restore the data, or start again.")


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}_examples.npz"


def padded(sequences: Sequence[Array]) -> tuple[Array, Array]:
    """Sequences (T,) or (T, F) as one array (B, longest, ...), zeros behind the shorter ones, and their lengths (B,)."""
    lengths = np.array([len(x) for x in sequences], np.int32)
    result = np.zeros((len(sequences), lengths.max(), *sequences[0].shape[1:]), sequences[0].dtype)
    for row, x in zip(result, sequences, strict=True):
        row[: len(x)] = x
    return result, lengths


def outputs_of(model: Callable[[Array], Array], inputs: Sequence[Array]) -> list[Array]:
    """What a model of padded features (B, T, F) gives for each of some sequences (T, F), from its start on: (T, V), float64."""
    some = Sequences(list(inputs), [np.zeros((), np.int32)] * len(inputs))
    found: dict[int, Array] = {}
    for picks in some.in_order_of_length(TOGETHER):
        x, lengths = padded([inputs[i] for i in picks])
        for i, length, outputs in zip(picks, lengths, model(x), strict=True):
            found[int(i)] = outputs[:length].astype(np.float64)
    return [found[i] for i in range(len(inputs))]
