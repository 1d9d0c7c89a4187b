"""The likeliest translations, searched over any engine that encodes and decodes step by step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from seqapp import backend
from seqapp.sequences import padded
from seqapp.step import Array, log_softmax
from seqapp.task_config import LARGEST_PENALTY


class Transducer(Protocol):
    """A trained encoder-decoder in any engine. B batch, S timesteps of the source, M width of the memory, V vocabulary."""

    def encode(self, tokens: Array, lengths: Array) -> tuple[Array, list[Array]]:
        """tokens int32 (B, S), which end after lengths int32 (B,) -> memory float32 (B, S, M), the decoder's first states."""

    def decode_step(
        self, tokens: Array, states: Sequence[Array], memory: Array, lengths: Array
    ) -> tuple[Array, list[Array], Array]:
        """tokens int32 (B,), states, memory, lengths -> logits float32 (B, V), states, attention float32 (B, S)."""


class KerasTransducer:
    """A `seqapp.translator.Translator`, compiled once for all batches and lengths."""

    def __init__(self, model: Any) -> None:
        from keras import KerasTensor

        numbers, real = KerasTensor([None], "int32"), model.compute_dtype
        states = [KerasTensor([None, size], real) for size in model.state_sizes]
        memory = KerasTensor([None, None, model.memory_size], real)
        self._encode = backend.compiled(model, model.encode, KerasTensor([None, None], "int32"), numbers)
        self._step = backend.compiled(model, model.decode_step, numbers, states, memory, numbers)

    def encode(self, tokens: Array, lengths: Array) -> tuple[Array, list[Array]]:
        memory, states = self._encode(np.asarray(tokens, np.int32), np.asarray(lengths, np.int32))
        return np.asarray(memory), [np.asarray(state) for state in states]

    def decode_step(
        self, tokens: Array, states: Sequence[Array], memory: Array, lengths: Array
    ) -> tuple[Array, list[Array], Array]:
        found = self._step(np.asarray(tokens, np.int32), list(states), memory, np.asarray(lengths, np.int32))
        logits, after, attention = found
        return np.asarray(logits), [np.asarray(state) for state in after], np.asarray(attention)


@dataclass(frozen=True)
class Search:
    """How translations are searched.

    Attributes:
        beam: hypotheses kept at each step; 1 is greedy.
        length_penalty: α in ((5 + length) / 6)^α, which a log-probability is divided by before hypotheses are compared
            (Wu et al. 2016, arXiv:1609.08144v2); 0 prefers short ones.
        longest: tokens at most, the end among them.
    """

    beam: int = 5
    length_penalty: float = 1.0
    longest: int = 100

    def __post_init__(self) -> None:
        for name, least in (("beam", 1), ("longest", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}. Received: {getattr(self, name)}")
        if not 0 <= self.length_penalty <= LARGEST_PENALTY:
            raise ValueError(f"length_penalty must be from 0 to {LARGEST_PENALTY}. Received: {self.length_penalty}")

    def rank(self, score: Any, length: Any) -> Any:
        """What hypotheses are compared by, of their log-probability and their length."""
        return score / ((5 + length) / 6) ** self.length_penalty


@dataclass(frozen=True)
class Hypothesis:
    """A translation: its tokens, the end among them, its log-probability, what it is ranked by, and where it looked (T, S)."""

    tokens: tuple[int, ...]
    score: float
    rank: float
    attention: Array


Found = list[list[Hypothesis]]


def translate(
    model: Transducer, sources: Sequence[Array], search: Search, end: int, banned: Collection[int] = (), size: int = 32
) -> Found:
    """The best few translations of each source, as many as the beam is wide, the best first; `size` sources at once.

    `end` begins and ends a translation, and `banned` tokens are never in it.
    """
    found: Found = [[] for _ in sources]
    order = np.argsort([len(source) for source in sources], kind="stable")
    for first in range(0, len(order), size):
        picks = order[first : first + size]
        for pick, hypotheses in zip(picks, _batch(model, [sources[i] for i in picks], search, end, banned), strict=True):
            found[pick] = hypotheses
    return found


@dataclass
class _Beams:
    """The hypotheses of the sources that are still searched: `rows` numbers these, B of them, and each has K hypotheses.

    Arrays of the model's are (B·K, ...): `states`, `memory`, `lengths`, and `looked`, the attention of each step so far.
    """

    rows: Array
    scores: Array  # (B, K)
    tokens: Array  # (B·K, T)
    states: list[Array]
    memory: Array
    lengths: Array
    looked: Array  # (B·K, T, S)

    def picked(self, sources: Array) -> _Beams:
        """Those of some of the sources (N,), by their places."""
        width = self.scores.shape[1]
        flat = (sources[:, None] * width + np.arange(width)).reshape(-1)
        rows, scores, memory, lengths = self.rows[sources], self.scores[sources], self.memory[flat], self.lengths[flat]
        return replace(self.ordered(flat), rows=rows, scores=scores, memory=memory, lengths=lengths)

    def ordered(self, flat: Array) -> _Beams:
        """The same sources' hypotheses in another order (B·K,), some of them more than once."""
        return replace(self, tokens=self.tokens[flat], states=[s[flat] for s in self.states], looked=self.looked[flat])


def _batch(model: Transducer, sources: Sequence[Array], search: Search, end: int, banned: Collection[int]) -> Found:
    tokens, lengths = padded(sources)
    memory, states = model.encode(tokens, lengths)
    width, count = search.beam, len(sources)
    flat = np.repeat(np.arange(count), width)
    scores = np.full((count, width), -np.inf)
    scores[:, 0] = 0.0  # at first, all hypotheses of a source are the same one
    beams = _Beams(
        np.arange(count),
        scores,
        np.zeros((count * width, 0), np.int32),
        [state[flat] for state in states],
        memory[flat],
        lengths[flat],
        np.zeros((count * width, 0, memory.shape[1]), np.float32),
    )
    last: Array = np.full(count * width, end, np.int32)
    found: Found = [[] for _ in sources]
    for length in range(1, search.longest + 1):
        logits, states, attention = model.decode_step(last, beams.states, beams.memory, beams.lengths)
        beams = replace(beams, states=states, looked=np.concatenate([beams.looked, attention[:, None]], 1))
        logs = log_softmax(logits.astype(np.float64))
        logs[:, list(banned)] = -np.inf
        if length == search.longest:
            logs[:, np.arange(logs.shape[1]) != end] = -np.inf
        beams, last = _advanced(beams, logs.reshape(len(beams.rows), width, -1), search, end, found)
        going = np.flatnonzero([len(found[row]) < width for row in beams.rows] & np.isfinite(beams.scores[:, 0]))
        if not len(going):
            break
        last = last.reshape(-1, width)[going].reshape(-1)
        beams = beams.picked(going) if len(going) < len(beams.rows) else beams
    return [sorted(some, key=lambda one: -one.rank)[:width] for some in found]


def _advanced(beams: _Beams, logs: Array, search: Search, end: int, found: Found) -> tuple[_Beams, Array]:
    """The beams a token further, log-probabilities (B, K, V) of it; those that end are put into `found`."""
    count, width, size = logs.shape
    total = (beams.scores[:, :, None] + logs).reshape(count, -1)
    # Twice as many as the beam is wide: where all of these end, as many go on.
    best = np.argpartition(-total, min(2 * width, total.shape[1] - 1), axis=1)[:, : 2 * width]
    best = np.take_along_axis(best, np.lexsort((best, -np.take_along_axis(total, best, 1)), axis=1), 1)
    flat = np.zeros((count, width), np.int64)
    last: Array = np.full((count, width), end, np.int32)
    scores = np.full((count, width), -np.inf)
    for i, row in enumerate(beams.rows):
        kept = 0
        for rank, choice in enumerate(best[i]):
            parent, token, score = i * width + choice // size, int(choice % size), float(total[i, choice])
            if not np.isfinite(score) or kept == width:
                break
            if token != end:
                flat[i, kept], last[i, kept], scores[i, kept], kept = parent, token, score, kept + 1
            elif rank < width and len(found[row]) < width:
                told = (*map(int, beams.tokens[parent]), end)
                looked = beams.looked[parent, :, : beams.lengths[parent]]
                found[row].append(Hypothesis(told, score, float(search.rank(score, len(told))), looked))
        flat[i, kept:] = i * width
    moved = replace(beams.ordered(flat.reshape(-1)), scores=scores)
    last = last.reshape(-1)
    return replace(moved, tokens=np.c_[moved.tokens, last]), last
