"""What a classifier is shown beside: as good as they can be, and no better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seqapp.label_baselines import baselines
from seqapp.sequences import Sequences
from seqapp.vocabulary import Vocabulary

WORDS = ["red", "green", "blue", "a", "the", "is", "was"]
VOCABULARY = Vocabulary.learn([" ".join(WORDS)], "word", lower=True)
SIZES = {"train": 90, "validation": 30, "test": 60}


def of_texts(vocabulary: Vocabulary = VOCABULARY) -> dict[str, Sequences]:
    """The class of a text is the colour in it; one of three is as frequent as the two others."""
    rng, parts = np.random.default_rng(0), {}
    for name, count in SIZES.items():
        labels = rng.permutation(np.arange(count) % 4 % 3)
        texts = [" ".join(rng.permutation([WORDS[label], *rng.choice(WORDS[3:], 4)])) for label in labels]
        parts[name] = Sequences(
            [np.array(vocabulary.encode_whole(text), np.int32) for text in texts], list(map(np.int32, labels))
        )
    return parts


def of_series(longest: int = 6) -> dict[str, Sequences]:
    """Of the sign of its first number; the longest one in the test part alone."""
    rng, parts = np.random.default_rng(0), {}
    for name, count in SIZES.items():
        labels = rng.permutation(np.arange(count) % 3 % 2)
        x = [rng.normal(size=(n, 2)).astype(np.float32) for n in rng.integers(2, longest + (name == "test"), count)]
        for one, label in zip(x, labels, strict=True):
            one[0] = 3 * label - 1.5 + 0.1 * one[0]
        parts[name] = Sequences([1e3 + 50 * one for one in x], list(map(np.int32, labels)))
    return parts


def test_the_majority() -> None:
    parts = of_texts()
    found = baselines(parts, "test", 4, VOCABULARY)["majority"]
    labels = np.array(parts["test"].labels)
    assert found["accuracy"] == {"value": 0.5, "unit": "fraction", "count": 60}
    assert found["macro_f1"]["value"] == pytest.approx(2 * 0.5 / 1.5 / 3)
    counts = np.bincount(np.array(parts["train"].labels), minlength=4) + 0.5
    assert counts[3] == 0.5, "a class that training has not is not impossible"
    assert found["nats_per_label"]["value"] == pytest.approx(-np.log(counts / counts.sum())[labels].mean())


def test_a_bag_of_words_tells_what_words_alone_tell() -> None:
    found = baselines(of_texts(), "test", 3, VOCABULARY)
    assert list(found) == ["majority", "bag_of_words"]
    assert found["bag_of_words"]["accuracy"]["value"] > 0.95
    assert found["bag_of_words"]["nats_per_label"]["value"] < 0.5 * found["majority"]["nats_per_label"]["value"]


def test_characters_make_a_bag_of_n_grams() -> None:
    vocabulary = Vocabulary.learn([" ".join(WORDS)], "character", lower=True)
    found = baselines(of_texts(vocabulary), "test", 3, vocabulary)
    assert list(found) == ["majority", "bag_of_n_grams"]
    assert found["bag_of_n_grams"]["accuracy"]["value"] > 0.9


def test_a_linear_model_of_series() -> None:
    found = baselines(of_series(), "test", 2, None)
    assert list(found) == ["majority", "linear"]
    assert found["linear"]["accuracy"]["value"] > 0.95 > found["majority"]["accuracy"]["value"]


def test_the_strength_is_chosen_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    import seqapp.label_baselines as module

    seen: list[float] = []
    linear = module._linear

    def spy(vectors: Any, labels: Any, strength: float) -> Any:
        seen.append(strength)
        return linear(vectors, labels, strength)

    monkeypatch.setattr(module, "_linear", spy)
    parts = of_texts()
    best = baselines(parts, "validation", 3, VOCABULARY)["bag_of_words"]["nats_per_label"]["value"]
    assert seen == list(module.STRENGTHS)
    for strength in module.STRENGTHS:
        monkeypatch.setattr(module, "STRENGTHS", (strength,))
        assert best <= baselines(parts, "validation", 3, VOCABULARY)["bag_of_words"]["nats_per_label"]["value"] + 1e-12


def test_labels_of_each_timestep_have_the_majority_alone() -> None:
    parts = {
        name: Sequences([np.zeros((3, 1), np.float32)], [np.array([0, 0, 1], np.int32)]) for name in ("train", "validation")
    }
    found = baselines(parts, "validation", 2, None)
    assert list(found) == ["majority"]
    assert found["majority"]["accuracy"] == {"value": pytest.approx(2 / 3), "unit": "fraction", "count": 3}
