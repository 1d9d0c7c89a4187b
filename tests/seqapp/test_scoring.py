"""The figures, beside a direct computation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from seqapp import scoring
from seqapp.cells import LSTMCell
from seqapp.model import SequenceModel
from seqapp.ngram import KneserNey
from seqapp.scoring import baselines, metrics, score, score_all, unknown_fraction
from seqapp.step import Array, KerasStepper

V, END = 7, 1


def stream(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, V, count).astype(np.int32)


@pytest.fixture(scope="module")
def stepper() -> KerasStepper:
    model = SequenceModel(V, [LSTMCell(6)], 5)
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return KerasStepper(model)


def step_by_step(model: KerasStepper, tokens: Any) -> tuple[list[float], list[int]]:
    """Logarithms and ranks, one token at a time from the zero state."""
    states, before, logs, ranks = model.initial_states(1), END, [], []
    for token in tokens:
        logits, states = model.step(np.array([before], np.int32), states)
        row = logits[0].astype(np.float64)
        logs.append(float(row[token] - np.log(np.exp(row).sum())))
        ranks.append(int((row > row[token]).sum()))
        before = int(token)
    return logs, ranks


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_score_equals_the_steps(stepper: KerasStepper, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    tokens = stream(30)
    logs, ranks = score(stepper, tokens, END)
    wanted, wanted_ranks = step_by_step(stepper, tokens)
    np.testing.assert_allclose(logs, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(ranks, wanted_ranks)
    assert len(set(wanted_ranks)) > 3


@pytest.mark.parametrize("chunk", [5, 512])
def test_streams_side_by_side_are_scored_alone(stepper: KerasStepper, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    streams = [stream(count, seed) for seed, count in enumerate((9, 30, 1))]
    for tokens, (logs, ranks) in zip(streams, score_all(stepper, streams, END), strict=True):
        wanted, wanted_ranks = step_by_step(stepper, tokens)
        np.testing.assert_allclose(logs, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(ranks, wanted_ranks)


class Fixed:
    """A model of the given logits (T, V), whatever it reads."""

    def __init__(self, logits: Any) -> None:
        self.logits = np.asarray(logits, np.float32)

    def initial_states(self, batch_size: int) -> list[Array]:
        return [np.zeros((batch_size, 1), np.float32)]

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        raise NotImplementedError

    def sequence(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        first = int(states[0][0, 0])
        part = self.logits[first : first + tokens.shape[1]]
        return np.repeat(part[None], len(tokens), axis=0), [states[0] + tokens.shape[1]]


def test_scores_of_known_logits() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.25, 0.25, 0.5]])
    logs, ranks = score(Fixed(np.log(p)), np.array([1, 2, 2]), END)
    np.testing.assert_allclose(np.exp(logs), [0.3, 0.2, 0.5], rtol=1e-5)
    assert ranks.tolist() == [1, 1, 0]


@pytest.mark.parametrize(("token", "place"), [(0, 0), (0, 2), (2, 0)])
def test_a_logit_that_is_no_number_counts_against_the_model(token: int, place: int) -> None:
    logits = np.array([[9.0, 1.0, 8.0]])
    logits[0, place] = np.nan
    logs, ranks = score(Fixed(logits), np.array([token]), END)
    assert not np.isfinite(logs[0])
    assert ranks[0] >= 1
    figures = metrics(logs, ranks, "word")
    assert figures["top_1_recall"]["value"] == 0
    assert not math.isfinite(figures["nats_per_token"]["value"])
    assert not math.isfinite(figures["perplexity"]["value"])


def test_nothing_but_nan_is_all_wrong() -> None:
    logs, ranks = score(Fixed(np.full((4, 5), np.nan)), np.array([0, 1, 2, 3]), END)
    assert np.isnan(logs).all()
    assert metrics(logs, ranks, "word")["top_3_recall"]["value"] == 0


def test_metrics_equal_a_direct_computation() -> None:
    p = np.array([0.5, 0.25, 0.1, 0.04])
    figures = metrics(np.log(p), np.array([0, 1, 2, 3]), "character")
    nats = -(math.log(0.5) + math.log(0.25) + math.log(0.1) + math.log(0.04)) / 4
    assert figures == {
        "perplexity": {"value": pytest.approx(math.exp(nats)), "unit": "per token", "count": 4},
        "nats_per_token": {"value": pytest.approx(nats), "unit": "nats", "count": 4},
        "bits_per_character": {"value": pytest.approx(nats / math.log(2)), "unit": "bits", "count": 4},
        "top_1_recall": {"value": 0.25, "unit": "fraction", "count": 4},
        "top_3_recall": {"value": 0.75, "unit": "fraction", "count": 4},
    }


def test_words_have_no_bits() -> None:
    assert "bits_per_character" not in metrics(np.log([0.5]), np.array([0]), "word")


def test_a_uniform_model() -> None:
    logs, ranks = score(Fixed(np.zeros((8, 4))), np.array([0, 1, 2, 3] * 2), END)
    figures = metrics(logs, ranks, "character")
    assert figures["perplexity"]["value"] == pytest.approx(4)
    assert figures["bits_per_character"]["value"] == pytest.approx(2)


def test_a_hopeless_model_has_a_finite_perplexity() -> None:
    assert math.isfinite(metrics(np.array([-1e6]), np.array([5]), "word")["perplexity"]["value"])


@pytest.mark.parametrize(
    ("unit", "names"),
    [("word", ["unigram", "kneser_ney_3"]), ("character", ["unigram", "kneser_ney_3", "kneser_ney_5"])],
)
def test_baselines(unit: str, names: list[str]) -> None:
    train, validation, held_out = stream(300), stream(80, 1), stream(90, 2)
    result = baselines(train, validation, held_out, V, END, unit)
    assert list(result) == names
    for figures in result.values():
        assert {figure["count"] for name, figure in figures.items() if name != "discount"} == {90}
        assert figures["discount"]["count"] == 300
    direct = KneserNey.fit(train, V, 3, result["kneser_ney_3"]["discount"]["value"])
    wanted = -direct.score(held_out, END)[0].mean()
    assert result["kneser_ney_3"]["nats_per_token"]["value"] == pytest.approx(wanted, rel=1e-12)
    frequencies = np.bincount(train, minlength=V) / len(train)
    assert result["unigram"]["nats_per_token"]["value"] == pytest.approx(-np.log(frequencies[held_out]).mean())


def test_baselines_are_counted_on_the_last_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "COUNTED", 200)
    train, validation, held_out = stream(300), stream(80, 1), stream(90, 2)
    result = baselines(train, validation, held_out, V, END, "word")
    assert {figures["discount"]["count"] for figures in result.values()} == {200}
    assert result == baselines(train[100:], validation, held_out, V, END, "word")
    assert result != baselines(train[:200], validation, held_out, V, END, "word")


def test_unknown_fraction() -> None:
    assert unknown_fraction(np.array([0, 3, 0, 2]), 0) == {"value": 0.5, "unit": "fraction", "count": 4}
