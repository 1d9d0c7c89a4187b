"""Contiguous windows of parallel streams, for truncated backpropagation through time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.errors import UsageError

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Windows:
    """A training split cut into batches of B rows and T timesteps, row b of each batch continuing row b of the one before.

    Each epoch strings the documents together in a new order (a single one: starts it at a new place), puts `end` in front and
    cuts the stream into B rows. What does not fill the last window is left out of that epoch. The order depends on the seed
    and the epoch alone, so that training can resume at any batch of any epoch. No more of the tokens is read than the batches
    that are asked for.

    Attributes:
        tokens: of one document after the other (N,).
        lengths: tokens of each document.
    """

    tokens: Tokens
    lengths: Sequence[int]
    end: int
    batch_size: int
    timesteps: int
    seed: int

    @classmethod
    def fit_to(cls, tokens: Tokens, lengths: Sequence[int], end: int, batch_size: int, timesteps: int, seed: int) -> Windows:
        """Windows of a corpus that may be too small to fill all the rows asked for.

        Raises:
            UsageError: it does not fill a single window.
        """
        if len(tokens) < timesteps:
            raise UsageError(
                f"The training split has {len(tokens)} tokens, fewer than one window of --bptt {timesteps}: "
                "give more text, or a smaller --bptt."
            )
        return cls(tokens, lengths, end, min(batch_size, len(tokens) // timesteps), timesteps, seed)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self.tokens) // (self.batch_size * self.timesteps)

    def reader(self, epoch: int) -> Callable[[int, int], tuple[Tokens, Tokens]]:
        """A function that reads the batches of an epoch from one up to another: inputs and targets, both (n, B, T)."""
        ends, shifts = self._order(epoch)
        rows = np.arange(self.batch_size)[:, None] * self.per_epoch * self.timesteps

        def batches(first: int, end: int) -> tuple[Tokens, Tokens]:
            # Of each row the targets, and the token before them.
            places = rows + np.arange(first * self.timesteps - 1, end * self.timesteps)
            read = self.tokens[places + shifts[np.searchsorted(ends, places, side="right")]]
            read[places < 0] = self.end
            shape = (self.batch_size, end - first, self.timesteps)
            return read[:, :-1].reshape(shape).swapaxes(0, 1), read[:, 1:].reshape(shape).swapaxes(0, 1)

        return batches

    def _order(self, epoch: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Where each document ends in the stream of an epoch, and how much farther on its tokens stand in `tokens`."""
        rng = np.random.default_rng([self.seed, epoch])
        lengths = np.array(self.lengths)
        begins = np.cumsum(lengths) - lengths
        if len(lengths) == 1:
            first = int(rng.integers(lengths[0]))
            begins, lengths = np.array([first, 0]), np.array([lengths[0] - first, first])
        else:
            order = rng.permutation(len(lengths))
            begins, lengths = begins[order], lengths[order]
        ends = np.cumsum(lengths)
        return ends, begins - (ends - lengths)
