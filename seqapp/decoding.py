"""Choosing the next tokens, over any engine that keeps the step contract: NumPy alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from seqapp.step import Array, Stepper, log_softmax

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How one token is drawn. The distribution is sharpened by `temperature` first, then cut to `top_k`, then to `top_p`.

    Attributes:
        temperature: divides the logits; 0 is greedy, the most likely token always.
        top_k: draw among the k most likely tokens.
        top_p: draw among the fewest tokens that hold this much probability (Holtzman et al. 2020, arXiv:1904.09751v2).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0 and finite. Received: {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1. Received: {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1. Received: {self.top_p}")

    def probabilities(self, logits: Array, banned: Collection[int] = ()) -> Floats:
        """What is drawn from, logits (V,) -> probabilities (V,); 0 for what is cut off or banned."""
        scores = logits.astype(np.float64)
        scores[list(banned)] = -np.inf
        # Stable, so that equal logits keep the order of their numbers in every engine.
        order = np.argsort(-scores, kind="stable")
        if self.temperature == 0:
            return np.eye(1, len(scores), order[0])[0]
        with np.errstate(over="ignore"):  # of the smallest temperatures
            p = np.exp(log_softmax((scores - scores.max()) / self.temperature))
        keep = len(p) if self.top_k is None else self.top_k
        if self.top_p is not None:
            ranked = p[order] / p[order[:keep]].sum()
            # Up to and including the token that reaches top_p.
            keep = min(keep, int(np.searchsorted(np.cumsum(ranked), self.top_p * (1 - 1e-12))) + 1)
        p[order[keep:]] = 0.0
        return p / p.sum()


def drawn(p: Floats, rng: np.random.Generator) -> int:
    """A number drawn by probabilities (V,)."""
    # One uniform number and the cumulative sum: the same draw from the same seed, whatever the engine.
    number = int(np.searchsorted(np.cumsum(p), rng.random(), side="right"))
    return min(number, int(np.flatnonzero(p)[-1]))


def sample(
    model: Stepper, prompt: Sequence[int], sampling: Sampling, rng: np.random.Generator, banned: Collection[int] = ()
) -> Iterator[int]:
    """Continues a prompt of at least one token, token by token, for as long as one asks."""
    logits, states = model.sequence(np.array([prompt], np.int32), model.initial_states(1))
    last = logits[0, -1]
    while True:
        token = drawn(sampling.probabilities(last, banned), rng)
        yield token
        logits, states = model.step(np.array([token], np.int32), states)
        last = logits[0]


def beam(
    model: Stepper,
    prompt: Sequence[int],
    length: int,
    width: int,
    banned: Collection[int] = (),
    until: Collection[int] = (),
    not_first: Collection[int] = (),
) -> list[int]:
    """The most likely continuation of `length` tokens that a beam of `width` finds; width 1 is greedy.

    It is shorter where one of `until` comes, which ends it and is not told. What is `not_first` is banned as the first token.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1. Received: {width}")
    logits, states = model.sequence(np.array([prompt], np.int32), model.initial_states(1))
    last, scores = logits[:, -1], np.zeros(1)
    found = np.zeros((1, 0), np.int32)
    for _ in range(length):
        steps = log_softmax(last.astype(np.float64))
        steps[:, [*banned, *(() if found.shape[1] else not_first)]] = -np.inf
        if found.shape[1]:
            ended = np.isin(found[:, -1], list(until))
            steps[ended] = -np.inf
            steps[ended, found[ended, -1]] = 0.0  # what is at its end stays there, at no cost
        total = (scores[:, None] + steps).reshape(-1)
        best = np.argsort(-total, kind="stable")[:width]
        best = best[np.isfinite(total[best])]
        rows, tokens = np.divmod(best, steps.shape[1])
        scores, found = total[best], np.c_[found[rows], tokens].astype(np.int32)
        last, states = model.step(tokens.astype(np.int32), [state[rows] for state in states])
    return [int(token) for token in takewhile(lambda token: token not in until, found[0])]
