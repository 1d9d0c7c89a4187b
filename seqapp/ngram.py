"""Interpolated Kneser-Ney n-grams over one stream of tokens: the baseline every language model here is shown beside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
PART = 1 << 20  # tokens of a stream that are scored at once


@dataclass(frozen=True)
class _Level:
    """Counts of one order: for each context, the tokens that follow it and how often."""

    rows: dict[tuple[int, ...], slice]
    followers: Tokens
    counts: Floats


@dataclass(frozen=True)
class KneserNey:
    """Interpolated Kneser-Ney with one discount (Kneser and Ney 1995; as `nltk.lm.KneserNeyInterpolated`, NLTK 3.9).

    The highest order counts occurrences, the lower ones in how many different contexts an n-gram occurs. `order` 1 with
    `discount` 0 is the plain unigram. Where a token of the vocabulary never occurs in training, NLTK's lowest order would give
    it probability 0; here the discount is then taken from that order too and spread evenly over the vocabulary. Several
    discounts (D, 1) give as many distributions (D, V) of a context.
    """

    levels: tuple[_Level, ...]
    lowest: Floats
    discount: float | Floats

    @classmethod
    def fit(cls, stream: Tokens, vocabulary_size: int, order: int, discount: float = 0.75) -> Self:
        """Counts the n-grams of a stream of token numbers (N,)."""
        # Continuation counts of order n are made from the distinct n-grams of order n + 1, the highest order from the stream.
        grams, counts = np.lib.stride_tricks.sliding_window_view(np.asarray(stream), order), None
        levels: list[_Level] = []
        for n in range(order, 0, -1):
            grams, _, counts = _distinct(grams[:, -n:])
            starts = np.flatnonzero(np.r_[True, (grams[1:, :-1] != grams[:-1, :-1]).any(axis=1)])
            ends = np.r_[starts[1:], len(grams)]
            rows = {tuple(map(int, grams[a, :-1])): slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True)}
            levels.append(_Level(rows, grams[:, -1], counts.astype(np.float64)))
        last = levels.pop()
        lowest = np.zeros(vocabulary_size)
        lowest[last.followers] = last.counts
        return cls(tuple(reversed(levels)), lowest, discount)

    @cached_property
    def unigram(self) -> Floats:
        """Probabilities (V,) of the lowest order."""
        counts, total = self.lowest, self.lowest.sum()
        if not counts.all():
            spread = self.discount * np.count_nonzero(counts) / len(counts)
            counts = np.maximum(counts - self.discount, 0) + spread
        return counts / total

    def distribution(self, context: tuple[int, ...]) -> Floats:
        """Probabilities (V,) of the next token after the last `order` - 1 ones."""
        p = self.unigram
        for n, level in enumerate(self.levels, start=1):
            row = level.rows.get(context[len(context) - n :])
            if row is None:
                break
            counts = level.counts[row]
            total = counts.sum()
            p = p * (self.discount * len(counts) / total)
            p[..., level.followers[row]] += np.maximum(counts - self.discount, 0) / total
        return p

    def score(self, stream: Tokens, before: int, top: int = 3) -> tuple[Floats, NDArray[np.int64]]:
        """Scores every token of a stream that follows the token `before`.

        Returns the natural logarithm of each token's probability (N,) and its rank among all tokens, 0 for the most likely,
        counted up to `top` (N,).
        """
        logs, ranks = np.empty(len(stream)), np.full(len(stream), top)
        for context, where in self._contexts(stream, before):
            p = self.distribution(context)
            targets = stream[where]
            logs[where] = np.log(p[targets])
            best = _largest(p, min(top, len(p)))
            rows, columns = np.nonzero(targets[:, None] == best[None, :])
            ranks[where[rows]] = columns
        return logs, ranks

    def _contexts(self, stream: Tokens, before: int) -> Iterator[tuple[tuple[int, ...], NDArray[np.intp]]]:
        """Each context in a stream that follows the token `before`, and where the tokens stand that follow it.

        A long stream goes part by part, each with its own: to sort all contexts at once takes many times their memory.
        """
        width = len(self.levels)
        for first in range(0, len(stream), PART):
            padded = np.r_[np.full(max(0, width - first), before), stream[max(0, first - width) : first + PART]]
            contexts, group, counts = _distinct(np.lib.stride_tricks.sliding_window_view(padded, width + 1)[:, :width])
            places = np.split(np.argsort(group, kind="stable"), np.cumsum(counts)[:-1])
            for context, where in zip(contexts, places, strict=True):
                yield tuple(map(int, context)), first + where


def _distinct(grams: Tokens) -> tuple[Tokens, NDArray[np.intp], NDArray[np.intp]]:
    """The different rows, in their order, which of them each row is, and how often each occurs.

    As `np.unique` has them with `axis=0`, which compares rows, not numbers, and takes ten times as long.
    """
    size, number = int(grams.max(initial=0)) + 1, np.zeros(len(grams), np.int64)
    for column in grams.T:
        number = np.unique(number, return_inverse=True)[1] * size + column
    _, first, group, counts = np.unique(number, return_index=True, return_inverse=True, return_counts=True)
    return grams[first], group, counts


def _largest(p: Floats, count: int) -> NDArray[np.intp]:
    best = np.argpartition(-p, count - 1)[:count]
    return best[np.argsort(-p[best], kind="stable")]


def tuned(train: Tokens, validation: Tokens, vocabulary_size: int, order: int, before: int) -> KneserNey:
    """The Kneser-Ney model whose discount, of 0.50, 0.55 … 0.95, makes the validation stream most likely."""
    sample, discounts = validation[:20_000], np.arange(10, 20) / 20
    counted = KneserNey.fit(train, vocabulary_size, order)
    candidates, logs = replace(counted, discount=discounts[:, None]), np.empty((len(discounts), len(sample)))
    for context, where in candidates._contexts(sample, before):
        logs[:, where] = np.log(candidates.distribution(context)[..., sample[where]])
    return replace(counted, discount=float(discounts[logs.sum(axis=1).argmax()]))
