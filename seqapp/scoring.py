"""How well a stream of tokens is predicted, each figure with its unit and its denominator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp.ngram import KneserNey, tuned
from seqapp.step import Stepper, log_softmax

Metrics = dict[str, dict[str, Any]]
Tokens = NDArray[np.integer[Any]]
CHUNK = 512


def score(model: Stepper, stream: Tokens, end: int, rows: int = 1) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Log-probability and rank (N,) of each token of a stream that follows the token `end`; rank 0 is the most likely.

    One row starts from the zero state and carries it through. More rows, each from the zero state, are faster and
    pessimistic: fit for choosing the best epoch, not for a result.
    """
    length = -(-len(stream) // rows)
    padded = np.r_[end, stream, np.zeros(rows * length - len(stream), np.int32)].astype(np.int32)
    inputs, targets = padded[:-1].reshape(rows, length), padded[1:].reshape(rows, length)
    logs, ranks = np.empty((rows, length)), np.empty((rows, length), np.int64)
    states = model.initial_states(rows)
    size = max(1, CHUNK // rows)
    for first in range(0, length, size):
        part = slice(first, first + size)
        logits, states = model.sequence(inputs[:, part], states)
        wanted = np.take_along_axis(logits, targets[:, part, None], axis=-1)
        logs[:, part] = np.take_along_axis(log_softmax(logits), targets[:, part, None], axis=-1)[..., 0]
        # "not <=" counts a logit that is not a number as one that ranks higher.
        ranks[:, part] = (~(logits <= wanted)).sum(axis=-1)
    return logs.reshape(-1)[: len(stream)], ranks.reshape(-1)[: len(stream)]


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


def baselines(train: Tokens, validation: Tokens, held_out: Tokens, size: int, end: int, unit: str) -> dict[str, Metrics]:
    """Unigram and interpolated Kneser-Ney on the same stream and vocabulary; of order 5 too where tokens are characters."""
    models = {"unigram": KneserNey.fit(train, size, order=1)}
    for order in (3,) if unit == "word" else (3, 5):
        models[f"kneser_ney_{order}"] = tuned(train, validation, size, order, end)
    result = {}
    for name, model in models.items():
        result[name] = metrics(*model.score(held_out, end), unit)
        result[name]["discount"] = {"value": model.discount, "unit": "counts", "count": len(train)}
    return result


def unknown_fraction(stream: Tokens, unknown: int) -> dict[str, Any]:
    return {"value": float((stream == unknown).mean()), "unit": "fraction", "count": len(stream)}
