"""How well a stream of tokens is predicted, each figure with its unit and its denominator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.ngram import KneserNey, tuned
from seqapp.step import Array, Stepper

Metrics = dict[str, dict[str, Any]]
Tokens = NDArray[np.integer[Any]]
Scores = tuple[NDArray[np.float64], NDArray[np.int64]]
CHUNK = 512


def score(model: Stepper, stream: Tokens, end: int) -> Scores:
    """Log-probability and rank (N,) of each token of a stream that follows the token `end`; rank 0 is the most likely.

    The stream starts from the zero state and carries it through.
    """
    return score_all(model, [stream], end)[0]


def score_all(model: Stepper, streams: Sequence[Tokens], end: int) -> list[Scores]:
    """The scores of several streams, each as `score` has it, side by side in one batch."""
    length = max(map(len, streams))
    targets = np.zeros((len(streams), length), np.int32)
    for row, stream in zip(targets, streams, strict=True):
        row[: len(stream)] = stream
    inputs = np.c_[np.full(len(streams), end, np.int32), targets[:, :-1]]
    logs, ranks = score_targets(model, inputs, targets)
    return [(logs[i, : len(stream)], ranks[i, : len(stream)]) for i, stream in enumerate(streams)]


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
    logs, ranks = np.empty(targets.shape[:2]), np.empty(targets.shape[:2], np.int64)
    states, size = model.initial_states(len(targets)), max(1, CHUNK // len(targets))
    for first in range(0, targets.shape[1], size):
        part = slice(first, first + size)
        outputs, states = model.sequence(inputs[:, part], states)
        logs[:, part], ranks[:, part] = likelihood(outputs, targets[:, part])
    return logs, ranks


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

    `more` makes further figures of the log-probabilities (N,) of the held-out stream.
    """
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
