"""Kneser-Ney beside NLTK's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from nltk.lm import KneserNeyInterpolated
from nltk.util import ngrams

from seqapp import ngram
from seqapp.ngram import KneserNey, tuned

V = 9


def stream(count: int = 250, seed: int = 0, size: int = V) -> Any:
    """Tokens of which each makes some followers likely."""
    rng = np.random.default_rng(seed)
    follow = rng.dirichlet(np.full(size, 0.3), size)
    tokens = [0]
    for _ in range(count - 1):
        tokens.append(int(rng.choice(size, p=follow[tokens[-1]])))
    return np.array(tokens, np.int32)


def every_context(order: int) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in place) for n in range(order) for place in np.ndindex((V,) * n)]


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("discount", [0.1, 0.75])
def test_equals_nltk(order: int, discount: float) -> None:
    words = stream()
    assert len(set(words.tolist())) == V, "NLTK gives a token that never occurs no probability"
    theirs = KneserNeyInterpolated(order, discount=discount)
    names = [str(word) for word in words]
    theirs.fit([[gram for n in range(1, order + 1) for gram in ngrams(names, n)]], names)
    ours = KneserNey.fit(words, V, order, discount)
    for context in every_context(order):
        if order == 3 and len(context) == 2 and sum(context) % 3:
            continue
        wanted = [theirs.score(str(word), [str(token) for token in context]) for word in range(V)]
        np.testing.assert_allclose(ours.distribution(context), wanted, rtol=1e-12, err_msg=str(context))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_every_distribution_sums_to_one(order: int) -> None:
    model = KneserNey.fit(stream(size=6), V, order)
    for context in [
        (),
        (0,),
        (8,),
        (0, 1),
        (8, 8),
        (3, 2, 1),
        (1, 2, 3, 4, 5),
        *(tuple(stream(9, s, 6)[:4]) for s in range(9)),
    ]:
        p = model.distribution(context)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        assert (p > 0).all()


def test_a_token_never_seen_has_a_probability() -> None:
    words = stream(size=6)
    for order in (1, 2, 3):
        p = KneserNey.fit(words, V, order).distribution((int(words[0]), int(words[1])))
        assert (p[6:] > 0).all()
        np.testing.assert_allclose(p[6:], p[6])
        assert p[6] <= p[:6].min() + 1e-12


def test_the_unigram_is_the_relative_frequency() -> None:
    words = stream()
    p = KneserNey.fit(words, V, order=1, discount=0.0).distribution(())
    np.testing.assert_allclose(p, np.bincount(words, minlength=V) / len(words), rtol=1e-12)
    np.testing.assert_allclose(KneserNey.fit(words, V, order=1).distribution((3, 4)), p, rtol=1e-12)


def test_only_the_last_tokens_of_a_context_count() -> None:
    model = KneserNey.fit(stream(), V, order=3)
    np.testing.assert_array_equal(model.distribution((7, 1, 2)), model.distribution((1, 2)))


def test_a_context_never_seen_falls_back() -> None:
    model = KneserNey.fit(np.array([0, 1, 2, 0, 1, 2, 0, 2]), 4, order=3)
    np.testing.assert_array_equal(model.distribution((2, 2)), model.distribution((2,)))
    np.testing.assert_array_equal(model.distribution((3, 3)), model.distribution(()))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_score_equals_the_distributions(order: int) -> None:
    model, held_out = KneserNey.fit(stream(size=7), V, order), stream(60, seed=1)
    logs, ranks = model.score(held_out, before=4)
    read = [4, 4, 4, *(int(word) for word in held_out)]
    for i, word in enumerate(held_out):
        p = model.distribution(tuple(read[: i + 3]))
        assert logs[i] == pytest.approx(np.log(p[word]), rel=1e-12)
        higher, as_high = int((p > p[word]).sum()), int((p >= p[word]).sum())
        assert min(higher, 3) <= ranks[i] <= min(as_high - 1, 3)


def test_a_long_stream_is_scored_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    model, held_out = KneserNey.fit(stream(size=7), V, 3), stream(60, seed=1)
    whole = model.score(held_out, before=4)
    for part in (1, 2, 7, 59, 60):
        monkeypatch.setattr(ngram, "PART", part)
        for some, wanted in zip(model.score(held_out, before=4), whole, strict=True):
            np.testing.assert_array_equal(some, wanted)


def test_ranks() -> None:
    model = KneserNey.fit(np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3]), 4, order=1, discount=0.0)
    assert model.score(np.array([3, 2, 1, 0]), before=0, top=4)[1].tolist() == [3, 2, 1, 0]
    assert model.score(np.array([3, 2, 1, 0]), before=0, top=2)[1].tolist() == [2, 2, 1, 0]


def test_tuned_takes_the_best_discount() -> None:
    train, validation = stream(400), stream(200, seed=0)[::-1]
    best = tuned(train, validation, V, 3, before=0)
    nats = {d: -replace(best, discount=d).score(validation, 0)[0].sum() for d in np.arange(10, 20) / 20}
    assert best.discount == pytest.approx(min(nats, key=lambda d: nats[d]))
    assert len({round(n, 9) for n in nats.values()}) == 10


def test_tuned_discounts_less_where_the_future_is_like_the_past() -> None:
    train = stream(400)
    assert tuned(train, train, V, 3, before=0).discount == 0.5
    noise = np.random.default_rng(5).integers(0, V, 400)
    assert tuned(train, noise, V, 3, before=0).discount > 0.5
