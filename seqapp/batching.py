"""Contiguous windows of parallel streams, for truncated backpropagation through time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqapp.errors import UsageError

Tokens = NDArray[np.int32]


def stream_of(documents: Sequence[Tokens]) -> Tokens:
    """One document after the other: (N,)."""
    return np.concatenate(documents).astype(np.int32)


@dataclass(frozen=True)
class Windows:
    """A training split cut into batches of B rows and T timesteps, row b of each batch continuing row b of the one before.

    Each epoch strings the documents together in a new order (a single one: starts it at a new place), puts `end` in front and
    cuts the stream into B rows. What does not fill the last window is left out of that epoch. The order depends on the seed
    and the epoch alone, so that training can resume at any batch of any epoch.
    """

    documents: Sequence[Tokens]
    end: int
    batch_size: int
    timesteps: int
    seed: int

    @classmethod
    def fit_to(cls, documents: Sequence[Tokens], end: int, batch_size: int, timesteps: int, seed: int) -> Windows:
        """Windows of a corpus that may be too small to fill all the rows asked for.

        Raises:
            UsageError: it does not fill a single window.
        """
        count = sum(map(len, documents))
        if count < timesteps:
            raise UsageError(
                f"The training split has {count} tokens, fewer than one window of --bptt {timesteps}: "
                "give more text, or a smaller --bptt."
            )
        return cls(documents, end, min(batch_size, count // timesteps), timesteps, seed)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return sum(map(len, self.documents)) // (self.batch_size * self.timesteps)

    def batches(self, epoch: int, start: int = 0) -> tuple[Tokens, Tokens]:
        """Inputs and targets of an epoch from batch `start` on, both (batches, B, T)."""
        rng = np.random.default_rng([self.seed, epoch])
        if len(self.documents) == 1:
            stream = np.roll(self.documents[0], -int(rng.integers(len(self.documents[0]))))
        else:
            stream = stream_of([self.documents[i] for i in rng.permutation(len(self.documents))])
        inputs = np.r_[np.int32(self.end), stream[:-1]]
        return self._cut(inputs)[start:], self._cut(stream)[start:]

    def _cut(self, stream: Tokens) -> Tokens:
        shape = (self.batch_size, self.per_epoch, self.timesteps)
        return stream[: math.prod(shape)].reshape(shape).swapaxes(0, 1)
