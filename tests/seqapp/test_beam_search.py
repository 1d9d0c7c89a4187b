"""The search for translations, against every translation there is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from seqapp.beam_search import Hypothesis, Search, translate
from seqapp.step import Array, log_softmax

END, SIZE = 0, 4
RNG = np.random.default_rng(0)
FIRST, TABLE = RNG.normal(0, 1.5, (9, SIZE)), RNG.normal(0, 1.5, (SIZE, SIZE, SIZE))


class Fake:
    """What follows depends on the source's sum, which the memory tells, and on the last two tokens, which the state carries."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(self, tokens: Array, lengths: Array) -> tuple[Array, list[Array]]:
        known = np.arange(tokens.shape[1]) < lengths[:, None]
        # Behind a source there is rubbish, as a trained encoder may leave it.
        memory = np.where(known, tokens, 99)[..., None].astype(np.float32)
        return memory, [np.full((len(tokens), 1), END, np.float32)]

    def decode_step(
        self, tokens: Array, states: Sequence[Array], memory: Array, lengths: Array
    ) -> tuple[Array, list[Array], Array]:
        self.calls.append(len(tokens))
        known = np.arange(memory.shape[1]) < lengths[:, None]
        source = np.where(known, memory[..., 0], 0).sum(1).astype(int) % len(FIRST)
        attention = known / lengths[:, None]
        logits = FIRST[source] + TABLE[states[0][:, 0].astype(int), tokens]
        return logits.astype(np.float32), [tokens[:, None].astype(np.float32)], attention.astype(np.float32)


def log_probability(source: Sequence[int], translation: Sequence[int]) -> float:
    """Of a translation, its end among them, computed by itself."""
    before, last, total = END, END, 0.0
    for token in translation:
        logits = (FIRST[sum(source) % len(FIRST)] + TABLE[before, last]).astype(np.float32)
        total += float(log_softmax(logits.astype(np.float64))[token])
        before, last = last, token
    return total


def all_translations(source: Sequence[int], search: Search, banned: Sequence[int] = ()) -> list[tuple[float, tuple[int, ...]]]:
    """Each with its rank, the best first; one that is cut at the longest ends there."""
    choices = [token for token in range(SIZE) if token not in (END, *banned)]
    told = [(*tokens, END) for n in range(search.longest) for tokens in product(choices, repeat=n)]
    return sorted(((search.rank(log_probability(source, t), len(t)), t) for t in told), reverse=True)


SOURCES = [np.array(some, np.int32) for some in ([1, 2, 3], [5], [2, 2, 2, 2, 1], [7, 1])]


def searched(search: Search, sources: Sequence[Array] = SOURCES, **more: Any) -> list[list[Hypothesis]]:
    return translate(Fake(), sources, search, END, **more)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 3.0])
def test_a_wide_beam_finds_the_best_of_all_translations(penalty: float) -> None:
    search = Search(beam=60, length_penalty=penalty, longest=4)
    for source, found in zip(SOURCES, searched(search), strict=True):
        wanted = all_translations(source.tolist(), search)
        assert [one.tokens for one in found] == [tokens for _, tokens in wanted][: len(found)]
        assert len(found) == min(60, len(wanted)) == 40
        np.testing.assert_allclose([one.rank for one in found], [rank for rank, _ in wanted], rtol=1e-9, equal_nan=False)
        np.testing.assert_allclose(
            [one.score for one in found],
            [log_probability(source.tolist(), one.tokens) for one in found],
            rtol=1e-9,
            equal_nan=False,
        )


def test_a_beam_of_one_takes_the_likeliest_token_each_time() -> None:
    for source, (found,) in zip(SOURCES, searched(Search(beam=1, longest=30)), strict=True):
        tokens: list[int] = []
        while len(tokens) < 30 and tokens[-1:] != [END]:
            tokens.append(max(range(SIZE), key=lambda token: log_probability(source.tolist(), [*tokens, token])))
        assert found.tokens[:-1] == tuple(tokens)[: len(found.tokens) - 1]
        assert found.tokens[-1] == END


def test_a_wider_beam_is_never_worse_here_and_sometimes_better() -> None:
    narrow, wide = (searched(Search(beam=beam, longest=6)) for beam in (1, 8))
    ranks = np.array([[a[0].rank, b[0].rank] for a, b in zip(narrow, wide, strict=True)])
    assert (ranks[:, 1] >= ranks[:, 0] - 1e-12).all()
    assert (ranks[:, 1] > ranks[:, 0] + 1e-6).any()


def test_the_length_penalty_is_that_of_the_paper() -> None:
    assert Search(length_penalty=0.6).rank(-3.0, 7) == pytest.approx(-3.0 / (12 / 6) ** 0.6)
    lengths = [np.mean([len(some[0].tokens) for some in searched(Search(40, penalty, 5))]) for penalty in (0.0, 1.0, 4.0)]
    assert lengths[0] <= lengths[1] <= lengths[2] > lengths[0]


def test_what_is_longest_ends_there() -> None:
    for found in searched(Search(beam=2, length_penalty=9.0, longest=3)):
        assert all(len(one.tokens) <= 3 and one.tokens[-1] == END for one in found)
    assert any(len(one.tokens) == 3 for found in searched(Search(beam=20, longest=3)) for one in found)
    for source, found in zip(SOURCES, searched(Search(beam=3, longest=1)), strict=True):
        assert [one.tokens for one in found] == [(END,)]
        assert found[0].score == pytest.approx(log_probability(source.tolist(), [END]))


def test_banned_tokens_are_never_in_it() -> None:
    search = Search(beam=30, longest=4)
    for source, found in zip(SOURCES, searched(search, banned=[2]), strict=True):
        wanted = [tokens for _, tokens in all_translations(source.tolist(), search, [2])]
        assert [one.tokens for one in found] == wanted
        assert not any(2 in one.tokens for one in found)


@pytest.mark.parametrize("size", [1, 2, 32])
def test_sources_in_one_batch_are_as_alone(size: int) -> None:
    search = Search(beam=4, longest=8)
    together = searched(search, size=size)
    for source, found in zip(SOURCES, together, strict=True):
        (alone,) = searched(search, [source])
        assert [one.tokens for one in found] == [one.tokens for one in alone]
        for one, other in zip(found, alone, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-12)
            np.testing.assert_array_equal(one.attention, other.attention)


def test_the_attention_is_a_row_for_each_token_and_a_column_for_each_of_the_source() -> None:
    for source, found in zip(SOURCES, searched(Search(beam=3, longest=7)), strict=True):
        for one in found:
            assert one.attention.shape == (len(one.tokens), len(source))
            np.testing.assert_allclose(one.attention.sum(1), 1.0, rtol=1e-6, equal_nan=False)


def test_a_source_that_is_done_costs_no_more() -> None:
    model = Fake()
    translate(model, SOURCES, Search(beam=2, longest=20), END)
    assert model.calls[0] == 2 * len(SOURCES)
    assert model.calls[-1] < model.calls[0]


@pytest.mark.parametrize("wrong", [{"beam": 0}, {"longest": 0}, {"length_penalty": -1.0}, {"length_penalty": float("nan")}])
def test_a_search_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Search(**wrong)


def test_no_source_has_no_translation() -> None:
    assert searched(Search(), []) == []
