"""Decoding, over models whose next token is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from itertools import islice
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest

from seqapp.cells import GRUCell
from seqapp.decoding import Sampling, beam, sample
from seqapp.model import SequenceModel
from seqapp.step import Array, KerasStepper, log_softmax


class Chain:
    """The next token depends on the last one alone, by a table (V, V); the state counts the tokens read."""

    def __init__(self, table: Any) -> None:
        with np.errstate(divide="ignore"):
            self.logits = np.log(np.asarray(table, np.float64)).astype(np.float32)

    def initial_states(self, batch_size: int) -> list[Array]:
        return [np.zeros((batch_size, 1), np.float32)]

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        assert tokens.dtype == np.int32
        return self.logits[tokens], [states[0] + 1]

    def sequence(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        return self.logits[tokens], [states[0] + tokens.shape[1]]


class Alphabet(Chain):
    """Knows the alphabet: after each letter the next one, and after z an a."""

    def __init__(self, certainty: float = 0.9) -> None:
        rest = (1 - certainty) / 25
        super().__init__(np.roll(np.full((26, 26), rest) + np.eye(26) * (certainty - rest), 1, axis=1))


def letters(text: str) -> list[int]:
    return [ascii_lowercase.index(letter) for letter in text]


def text(tokens: Sequence[int]) -> str:
    return "".join(ascii_lowercase[token] for token in tokens)


def drawn(model: Any, prompt: str, length: int, sampling: Sampling, seed: int = 0, banned: str = "") -> str:
    stream = sample(model, letters(prompt), sampling, np.random.default_rng(seed), letters(banned))
    return text(list(islice(stream, length)))


GREEDY = Sampling(temperature=0)
LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.05, 0.25]))


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(temperature=1e-3), Sampling(top_k=1), Sampling(top_p=1e-9), Sampling(top_p=0.9)]
)
def test_the_alphabet(sampling: Sampling) -> None:
    assert drawn(Alphabet(), "vw", 8, sampling) == "xyzabcde"


def test_a_prompt_is_read_to_its_end() -> None:
    assert drawn(Alphabet(), "azc", 3, GREEDY) == "def"


def test_the_state_is_carried() -> None:
    """Every fourth token read makes the model repeat the last one."""

    class Counting(Alphabet):
        def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
            logits, after = super().step(tokens, states)
            return (np.roll(logits, -1, axis=1) if after[0][0, 0] % 4 == 0 else logits), after

    assert drawn(Counting(), "ab", 6, GREEDY) == "cddefg"
    assert text(beam(Counting(), letters("ab"), 6, 1)) == "cddefg"
    assert text(beam(Counting(), letters("ab"), 6, 3)) == "cddefg"


def test_probabilities_are_those_of_the_model() -> None:
    np.testing.assert_allclose(Sampling().probabilities(LOGITS), np.exp(LOGITS), rtol=1e-12)
    np.testing.assert_allclose(Sampling().probabilities(LOGITS + 1000), np.exp(LOGITS), rtol=1e-9)


def test_temperature() -> None:
    p = np.exp(LOGITS)
    np.testing.assert_allclose(Sampling(temperature=0.5).probabilities(LOGITS), p**2 / (p**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(Sampling(temperature=1e9).probabilities(LOGITS), np.full(5, 0.2), rtol=1e-6)
    np.testing.assert_allclose(Sampling(temperature=1e-6).probabilities(LOGITS), np.eye(5)[1], atol=1e-12)
    np.testing.assert_array_equal(GREEDY.probabilities(LOGITS), np.eye(5)[1])


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-20])
def test_the_smallest_temperatures_are_greedy(temperature: float) -> None:
    np.testing.assert_array_equal(Sampling(temperature).probabilities(LOGITS, banned=[1]), np.eye(5)[4])


def test_top_k() -> None:
    np.testing.assert_allclose(Sampling(top_k=2).probabilities(LOGITS), np.array([0, 0.4, 0, 0, 0.25]) / 0.65)
    np.testing.assert_allclose(Sampling(top_k=9).probabilities(LOGITS), np.exp(LOGITS))


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.3, [1]), (0.4, [1]), (0.41, [1, 4]), (0.65, [1, 4]), (0.66, [1, 2, 4]), (1.0, range(5))]
)
def test_top_p_keeps_the_fewest_tokens(top_p: float, kept: Sequence[int]) -> None:
    p = Sampling(top_p=top_p).probabilities(LOGITS)
    assert np.flatnonzero(p).tolist() == list(kept)
    np.testing.assert_allclose(p[list(kept)], np.exp(LOGITS)[list(kept)] / np.exp(LOGITS)[list(kept)].sum())


def test_top_k_comes_before_top_p() -> None:
    """Of the 0.65 that two tokens hold, the first has 0.615: it alone reaches 0.6."""
    assert np.flatnonzero(Sampling(top_k=2, top_p=0.6).probabilities(LOGITS)).tolist() == [1]
    assert np.flatnonzero(Sampling(top_p=0.6).probabilities(LOGITS)).tolist() == [1, 4]


def test_temperature_comes_first() -> None:
    """Sharpened to 0.565, the first token alone holds half."""
    assert np.flatnonzero(Sampling(temperature=0.5, top_p=0.5).probabilities(LOGITS)).tolist() == [1]


def test_equal_logits_keep_the_order_of_their_numbers() -> None:
    equal = np.zeros(6)
    assert np.flatnonzero(Sampling(top_k=2).probabilities(equal)).tolist() == [0, 1]
    assert np.flatnonzero(GREEDY.probabilities(equal)).tolist() == [0]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_k=2), Sampling(top_p=0.5)])
def test_banned_tokens_are_never_drawn(sampling: Sampling) -> None:
    p = sampling.probabilities(LOGITS, banned=[1])
    assert p[1] == 0
    assert p.sum() == pytest.approx(1)
    assert p.argmax() == 4


def test_banned_letters_are_left_out() -> None:
    assert "d" not in drawn(Alphabet(0.5), "a", 200, Sampling(), banned="d")
    assert "d" in drawn(Alphabet(0.5), "a", 200, Sampling())
    assert text(beam(Alphabet(), letters("ab"), 5, 3, letters("e")))[:2] == "cd"
    assert "e" not in text(beam(Alphabet(), letters("ab"), 8, 3, letters("e")))


def test_banning_leaves_the_logits_alone() -> None:
    logits = LOGITS.copy()
    Sampling().probabilities(logits, banned=[0])
    np.testing.assert_array_equal(logits, LOGITS)


def test_a_seed_gives_the_same_text() -> None:
    model = Alphabet(0.3)
    assert drawn(model, "a", 50, Sampling(), seed=5) == drawn(model, "a", 50, Sampling(), seed=5)
    assert drawn(model, "a", 50, Sampling(), seed=5) != drawn(model, "a", 50, Sampling(), seed=6)


def test_draws_follow_the_probabilities() -> None:
    p = np.array([0.1, 0.4, 0.2, 0.05, 0.25])
    stream = sample(Chain(np.tile(p, (5, 1))), [0], Sampling(), np.random.default_rng(0))
    counts = np.bincount(list(islice(stream, 20_000)), minlength=5)
    np.testing.assert_allclose(counts / 20_000, p, atol=0.015)


def test_beam_finds_the_better_total() -> None:
    """The likeliest first token, 1, leads to a fork; token 2 leads to a certain one."""
    table = np.array([[0, 0.6, 0.4, 0, 0], [0, 0, 0, 0.5, 0.5], [0, 0, 0, 0, 1], [0, 0, 0, 0.5, 0.5], [0, 0, 0, 0.5, 0.5]])
    model = Chain(table)
    assert beam(model, [0], 2, 1) == [1, 3]
    assert beam(model, [0], 2, 2) == [2, 4]


def total(model: Any, prompt: list[int], tokens: Sequence[int]) -> float:
    logits, _ = model.sequence(np.array([[*prompt, *tokens]], np.int32), model.initial_states(1))
    steps = log_softmax(logits[0, len(prompt) - 1 : -1].astype(np.float64))
    return float(steps[np.arange(len(tokens)), list(tokens)].sum())


@pytest.fixture(scope="module")
def tiny() -> KerasStepper:
    model = SequenceModel(4, [GRUCell(5)], 3)
    rng = np.random.default_rng(7)
    model.set_weights([rng.normal(0, 1.2, weight.shape) for weight in model.get_weights()])
    return KerasStepper(model)


def test_a_wide_beam_is_an_exhaustive_search(tiny: KerasStepper) -> None:
    for prompt in ([0], [1, 2], [3, 3, 0]):
        every = {tokens: total(tiny, prompt, tokens) for tokens in itertools.product(range(4), repeat=4)}
        best = max(every, key=lambda tokens: every[tokens])
        assert beam(tiny, prompt, 4, width=64) == list(best)


def test_a_banned_token_is_left_out_of_the_search(tiny: KerasStepper) -> None:
    every = {tokens: total(tiny, [0], tokens) for tokens in itertools.product((0, 2, 3), repeat=4)}
    assert beam(tiny, [0], 4, 64, banned=[1]) == list(max(every, key=lambda tokens: every[tokens]))


def test_a_beam_ends_where_a_token_comes(tiny: KerasStepper) -> None:
    """Of all texts of 1 to 4 tokens that end before a certain one, the best; what has none goes on to its full length."""
    lengths = set()
    for end in range(4):
        every = {}
        for tokens in itertools.product(range(4), repeat=4):
            said = tokens[: tokens.index(end)] if end in tokens else tokens
            if said and said not in every:
                every[said] = total(tiny, [0], tokens[: len(said) + 1])
        best = max(every, key=lambda said: every[said])
        assert beam(tiny, [0], 4, width=64, until=[end], not_first=[end]) == list(best)
        lengths.add(len(best))
    assert len(lengths) > 1


class Remembering:
    """Logits that another past makes quite other ones: the state is a hash of all tokens read."""

    logits = np.random.default_rng(0).normal(0, 2, (1009, 4)).astype(np.float32)

    def initial_states(self, batch_size: int) -> list[Array]:
        return [np.ones((batch_size, 1))]

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        after = (states[0] * 31 + tokens[:, None]) % 1009
        return self.logits[after[:, 0].astype(int)], [after]

    def sequence(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        logits, after = [], list(states)
        for column in tokens.T:
            one, after = self.step(column, after)
            logits.append(one)
        return np.stack(logits, axis=1), after


@pytest.mark.parametrize("width", [2, 3, 5])
def test_each_hypothesis_keeps_its_own_states(width: int) -> None:
    """A beam that reads every hypothesis again from its start finds the same."""
    model = Remembering()
    for prompt in ([0], [1, 2], [3], [2, 1]):
        kept: list[list[int]] = [[]]
        for _ in range(7):
            longer = [[*tokens, token] for tokens in kept for token in range(4)]
            kept = sorted(longer, key=lambda tokens: -total(model, prompt, tokens))[:width]
        assert beam(model, prompt, 7, width) == kept[0]


def test_a_beam_of_one_is_greedy(tiny: KerasStepper) -> None:
    for prompt in ([0], [1, 2], [2, 3, 1]):
        stream = sample(tiny, prompt, GREEDY, np.random.default_rng(0))
        assert beam(tiny, prompt, 12, 1) == list(islice(stream, 12))


def test_a_wider_beam_is_never_worse_here(tiny: KerasStepper) -> None:
    totals = [total(tiny, [2], beam(tiny, [2], 6, width)) for width in (1, 2, 4, 16, 256)]
    assert totals == sorted(totals)


def test_greedy_follows_the_logits_of_each_step(tiny: KerasStepper) -> None:
    tokens = [1, 3]
    for token in islice(sample(tiny, tokens, GREEDY, np.random.default_rng(0)), 6):
        logits, _ = tiny.sequence(np.array([tokens], np.int32), tiny.initial_states(1))
        assert token == int(logits[0, -1].argmax())
        tokens = [*tokens, token]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0.* Received: -0.1"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"temperature": float("inf")}, "temperature must be at least 0"),
        ({"top_k": 0}, "top_k must be at least 1. Received: 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1. Received: 0.0"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1"),
        ({"top_p": float("nan")}, "top_p must be above 0 and at most 1"),
    ],
)
def test_invalid_choices(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**values)
