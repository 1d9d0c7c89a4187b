"""How well a stream of tokens is predicted, each figure with its unit and its denominator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.ngram import KneserNey, tuned
from seqapp.step import Array, Stepper

Metrics = dict[str, dict[str, Any]]
Tokens = NDArray[np.integer[Any]]
Scores = tuple[NDArray[np.float64], NDArray[np.int64]]
CHUNK = 512
# Training tokens, at most, that baselines are counted on, which takes some 100 to 200 bytes for each: but for the text that is
# larger than memory, no corpus of BENCHMARKS.md has as many. The last ones are nearest to what is held out where a single file
# was cut, so they make the stronger baseline.
COUNTED = 20_000_000


def score(model: Stepper, stream: Tokens, end: int) -> Scores:
    """Log-probability and rank (N,) of each token of a stream that follows the token `end`; rank 0 is the most likely.

    The stream starts from the zero state and carries it through.
    """
    return score_all(model, [stream], end)[0]


def score_all(model: Stepper, streams: Sequence[Tokens], end: int) -> list[Scores]:
    """The scores of several streams, each as `score` has it, side by side in one batch."""
    logs, ranks = _joined(_scored(model, len(streams), _side_by_side(streams, end), of_token))
    return [(logs[i, : len(stream)], ranks[i, : len(stream)]) for i, stream in enumerate(streams)]


def _side_by_side(streams: Sequence[Tokens], end: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Inputs and targets (B, t) of several streams, part by part, with zeros behind those that are at their end."""
    before, size = np.full((len(streams), 1), end, np.int32), _timesteps(len(streams))
    for first in range(0, max(map(len, streams)), size):
        parts = [stream[first : first + size] for stream in streams]
        targets = np.zeros((len(streams), max(map(len, parts))), np.int32)
        for row, part in zip(targets, parts, strict=True):
            row[: len(part)] = part
        yield np.c_[before, targets[:, :-1]], targets
        before = targets[:, -1:]


def of_token(logits: Array, targets: Tokens) -> Scores:
    """Log-probability and rank (B, T) of targets (B, T) by logits (B, T, V)."""
    own = np.take_along_axis(logits, targets[..., None], axis=-1)
    top = logits.max(axis=-1, keepdims=True)
    # The rest of log_softmax's work over all logits would be thrown away.
    logs = own - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    # "not <=" ranks a logit that is not a number higher.
    return logs[..., 0], (~(logits <= own)).sum(axis=-1)


def score_targets(
    model: Stepper, inputs: Array, targets: Array, likelihood: Callable[[Array, Array], Scores] = of_token
) -> Scores:
    """Log-probability and rank (B, T) of each target (B, T, ...) after the inputs (B, T) or (B, T, F) so far."""
    size = _timesteps(len(targets))
    parts = (slice(first, first + size) for first in range(0, targets.shape[1], size))
    return _joined(_scored(model, len(targets), ((inputs[:, part], targets[:, part]) for part in parts), likelihood))


def _timesteps(rows: int) -> int:
    """Of a batch of so many rows, those that are scored at once."""
    return max(1, CHUNK // rows)


def _scored(
    model: Stepper, rows: int, parts: Iterable[tuple[Array, Array]], likelihood: Callable[[Array, Array], Scores]
) -> Iterator[Scores]:
    """The scores of inputs and targets that go on from part to part, of the first from the zero state."""
    states = model.initial_states(rows)
    for inputs, targets in parts:
        outputs, states = model.sequence(inputs, states)
        yield likelihood(outputs, targets)


def _joined(scores: Iterable[Scores]) -> Scores:
    logs, ranks = zip(*scores, strict=True)
    return np.concatenate(logs, axis=1, dtype=np.float64), np.concatenate(ranks, axis=1)


def metrics(logs: NDArray[np.float64], ranks: NDArray[np.int64], unit: str) -> Metrics:
    """Perplexity, recall and, for characters, bits: of the scores of one stream."""
    count = len(logs)
    nats = -float(logs.sum()) / count
    result = {
        "perplexity": {"value": math.exp(min(nats, 700.0)), "unit": "per token", "count": count},
        "nats_per_token": {"value": nats, "unit": "nats", "count": count},
    }
    if unit == "character":
        result["bits_per_character"] = {"value": nats / math.log(2), "unit": "bits", "count": count}
    for top in (1, 3):
        result[f"top_{top}_recall"] = {"value": float((ranks < top).mean()), "unit": "fraction", "count": count}
    return result


def baselines(
    train: Tokens,
    validation: Tokens,
    held_out: Tokens,
    size: int,
    end: int,
    unit: str,
    more: Callable[[NDArray[np.float64]], Metrics] = lambda logs: {},
) -> dict[str, Metrics]:
    """Unigram and interpolated Kneser-Ney on the same stream and vocabulary; of order 5 too where tokens are characters.

    They are counted on the last `COUNTED` tokens of training: the count of each one's discount tells on how many.
    `more` makes further figures of the log-probabilities (N,) of the held-out stream.
    """
    train = train[-COUNTED:]
    models = {"unigram": KneserNey.fit(train, size, order=1)}
    for order in (3, 5) if unit == "character" else (3,):
        models[f"kneser_ney_{order}"] = tuned(train, validation, size, order, end)
    result = {}
    for name, model in models.items():
        logs, ranks = model.score(held_out, end)
        result[name] = {**metrics(logs, ranks, unit), **more(logs)}
        result[name]["discount"] = {"value": model.discount, "unit": "counts", "count": len(train)}
    return result


def unknown_fraction(stream: Tokens, unknown: int) -> dict[str, Any]:
    return {"value": float((stream == unknown).mean()), "unit": "fraction", "count": len(stream)}
