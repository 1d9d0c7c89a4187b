"""What a keyboard offers, by logits that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seqapp.step import Array
from seqapp.stream import Stream
from seqapp.vocabulary import Vocabulary
from seqapp.words import Words, parted
from tests.conftest import refused

TEXT = "you your you're yet the then 3rd don't , . !"
WORDS = Vocabulary.learn([TEXT], "word", lower=True, symbols=("<turn>",))
V = len(WORDS)


def logits(**likely: float) -> Array:
    """Of the words named, and 0 of all others."""
    found = np.zeros(V, np.float32)
    for word, value in likely.items():
        found[WORDS.tokens.index(word)] = value
    return found


def test_only_words_are_offered() -> None:
    assert sorted(Words(WORDS).tokens) == ["3rd", "don't", "the", "then", "yet", "you", "you're", "your"]


@pytest.mark.parametrize(
    ("begun", "words"),
    [("you", ["you", "you're", "your"]), ("t", ["the", "then"]), ("don'", ["don't"]), ("x", []), ("your", ["your"])],
)
def test_beginning(begun: str, words: list[str]) -> None:
    assert [WORDS.tokens[number] for number in Words(WORDS).beginning(begun)] == words


def test_the_likeliest_come_first_with_their_share_of_what_begins_so() -> None:
    given = logits(yet=2, your=3, the=5, you=4)
    found = Words(WORDS).best(given, "y", 3)
    assert [word for word, _ in found] == ["you", "your", "yet"]
    total = np.exp([4, 3, 2, 0]).sum()
    np.testing.assert_allclose([share for _, share in found], np.exp([4, 3, 2]) / total, rtol=1e-6)
    assert [word for word, _ in Words(WORDS).best(given, "", 2)] == ["the", "you"]


def test_what_is_typed_whole_is_not_offered_but_counts() -> None:
    found = Words(WORDS).best(logits(you=4, your=3), "you", 5)
    assert [word for word, _ in found] == ["your", "you're"]
    assert found[0][1] == pytest.approx(np.exp(3) / np.exp([4, 3, 0]).sum())
    assert Words(WORDS).best(logits(), "then", 3) == Words(WORDS).best(logits(), "zebra", 3) == []
    with pytest.raises(ValueError, match="top must be at least 1"):
        Words(WORDS).best(logits(), "", 0)


def test_letters_that_have_to_be_typed() -> None:
    words, given = Words(WORDS), logits(the=5, you=4, your=3, yet=2)
    needed = {word: words.letters(given, WORDS.tokens.index(word), 2) for word in ("the", "you", "your", "yet", "you're")}
    # "your" comes second of those in "y", "yet" needs "ye", and once "you" is typed whole, "you're" is the second.
    assert needed == {"the": 0, "you": 0, "your": 1, "yet": 2, "you're": 3}
    for word, letters in needed.items():
        offered = [word in dict(words.best(given, word[:typed], 2)) for typed in range(len(word))]
        assert offered.index(True) == letters


def test_a_model_that_says_no_numbers_offers_nothing() -> None:
    assert Words(WORDS).letters(np.full(V, np.nan), WORDS.tokens.index("your"), 1) == 4


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("how are yo", ("how are ", "yo")),
        ("How are ", ("how are ", "")),
        ("", ("", "")),
        ("well,", ("well,", "")),
        ("well, do", ("well, ", "do")),
        ("I don'", ("i ", "don'")),
        ("I don\u2019t", ("i ", "don\u2019t")),
        ("one\ntw", ("one\n", "tw")),
        ("one\n", ("one\n", "")),
    ],
)  # fmt: skip
def test_a_text_is_parted_before_the_word_that_it_breaks_off_in(text: str, parts: tuple[str, str]) -> None:
    assert parted(WORDS, text) == parts


class Counting:
    """Says that the word comes next whose number is how many tokens there were, which its state counts."""

    def initial_states(self, batch_size: int) -> list[Array]:
        return [np.zeros((batch_size, 1), np.float32)]

    def step(self, tokens: Array, states: Any) -> tuple[Array, list[Array]]:
        count = states[0] + 1
        return np.eye(V, dtype=np.float32)[count[:, 0].astype(int)] * 9, [count]

    def sequence(self, tokens: Array, states: Any) -> tuple[Array, list[Array]]:
        found = []
        for t in range(tokens.shape[1]):
            y, states = self.step(tokens[:, t], states)
            found.append(y)
        return np.stack(found, 1), states


def test_a_text_is_read_from_the_beginning_each_time() -> None:
    stream, words = Stream(Counting(), WORDS), Words(WORDS)
    # The end of a line, the symbol twice, of a conversation and of a turn, and as many words as stand there whole.
    for text, read in (("", 3), ("you your ", 5), ("the then yet y", 6), ("", 3)):
        begun = text[-1:].strip()
        expected = WORDS.tokens[read]
        found = words.after(stream, text, 1)
        assert not begun or found[0][0].startswith(begun)
        assert begun or found[0][0] == expected or expected not in words.tokens


def test_other_models_suggest_no_words() -> None:
    refused(lambda: Words(Vocabulary.learn(["abc"], "character", lower=True)), "next-word", "characters")
