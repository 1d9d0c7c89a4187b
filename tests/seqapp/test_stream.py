"""Streams that answer turn by turn: what they have read is the document that was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from seqapp.decoding import Sampling
from seqapp.step import Array
from seqapp.stream import Stream, turn_of
from seqapp.vocabulary import Vocabulary

TURNS = ("<conversation>", "<turn>")
WORDS = Vocabulary.learn(["how are you ? well , and you"], "word", lower=True, symbols=TURNS)
LETTERS = Vocabulary.learn(["abc \n"], "character", lower=True, symbols=TURNS)
LINES = Vocabulary.learn(["how are you ? well , and you"], "word", lower=True)
END = 1  # the number of an end in each of them
WILD, GREEDY = Sampling(1.0), Sampling(0)


class Remembering:
    """Logits that another past makes quite other ones: the state is a hash of all tokens read. Some are made likelier.

    As in what people write, no line is empty.
    """

    def __init__(self, size: int, likelier: dict[int, float] | None = None, seed: int = 0) -> None:
        self.logits = np.random.default_rng(seed).normal(0, 1, (1009, size)).astype(np.float32)
        for number, more in (likelier or {}).items():
            self.logits[:, number] += more

    def initial_states(self, batch_size: int) -> list[Array]:
        return [np.ones((batch_size, 1))]

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        after = (states[0] * 31 + tokens[:, None] + 1) % 1009
        logits = self.logits[after[:, 0].astype(int)]
        logits[tokens == END, END] = -50
        return logits, [after]

    def sequence(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        logits, after = [], list(states)
        for column in tokens.T:
            one, after = self.step(column, after)
            logits.append(one)
        return np.stack(logits, axis=1), after


def stands(stream: Stream) -> tuple[Any, int]:
    return stream._states[0].item(), stream._last


def read(vocabulary: Vocabulary, text: str) -> tuple[Any, int]:
    """Where a stream stands that has read a text alone."""
    stream = Stream(Remembering(len(vocabulary)), vocabulary)
    stream.feed(text)
    return stands(stream)


@pytest.mark.parametrize("vocabulary", [WORDS, LETTERS], ids=["words", "letters"])
@pytest.mark.parametrize("ends", [-9.0, 0.0, 3.0])
def test_what_was_read_is_the_document(vocabulary: Vocabulary, ends: float) -> None:
    """Turns that end by a symbol after a line, within one, and where their length does."""
    rng, document = np.random.default_rng(3), "<conversation>"
    stream = Stream(Remembering(len(vocabulary), dict.fromkeys(vocabulary.symbol_numbers, ends)), vocabulary)
    for i in range(20):
        said = ["", "a b", "how are\nyou?", "c"][i % 4]
        answer = stream.answered(said, 6, WILD, rng)
        assert answer.strip("\n") == answer != ""
        assert not any(symbol in answer for symbol in (*TURNS, "<unk>"))
        document += "".join(f"<turn>{turn}\n" for turn in (said, answer) if turn)
        assert "\n\n" not in document
        # Only now is it known how the answer ends.
        twin = Stream(stream.model, vocabulary)
        twin._states, twin._last = stream._states, stream._last
        twin._begin_turn()
        assert stands(twin) == read(vocabulary, f"{document}<turn>"), document


def test_without_symbols_a_line_is_a_turn() -> None:
    stream, document = Stream(Remembering(len(LINES), {LINES.end_number: 2.0}), LINES), ""
    for said in ("how are", "", "you?\n\nwell", "\n"):
        answer = stream.answered(said, 5, WILD, np.random.default_rng(len(document)))
        assert answer and "\n" not in answer and "<unk>" not in answer
        document += "".join(f"{line}\n" for line in (*said.split("\n"), answer) if line)
        stream._begin_turn()
        assert stands(stream) == read(LINES, document)


def test_an_answer_is_never_empty_and_has_its_length() -> None:
    sure = Remembering(len(WORDS), dict.fromkeys((*WORDS.symbol_numbers, WORDS.end_number, WORDS.unknown_number), 50.0))
    assert len(Stream(sure, WORDS).answered("how", 9, GREEDY, np.random.default_rng()).split()) == 1
    endless = Remembering(len(WORDS), dict.fromkeys((*WORDS.symbol_numbers, WORDS.end_number), -50.0))
    stream = Stream(endless, WORDS)
    drawn = WORDS.prompt(stream.answered("how", 9, WILD, np.random.default_rng(0)))
    assert len(drawn) == 9
    assert len(WORDS.prompt(stream.answered("how", 1, WILD, np.random.default_rng(0)))) == 1


def test_an_answer_depends_on_the_turns_before() -> None:
    def after(*said: str) -> str:
        stream = Stream(Remembering(len(WORDS)), WORDS)
        return [stream.answered(text, 8, WILD, np.random.default_rng(1)) for text in said][-1]

    assert after("how", "well") == after("how", "well")
    assert len({after("how", "well"), after("you", "well"), after("well"), after("", "well")}) == 4
    assert after("<turn> well") == after("< TURN> well") == after("  < turn>   well\n\n")


def test_the_lines_of_a_turn() -> None:
    assert turn_of(" a  b \n\n c <turn>\n", TURNS) == "a b\nc < turn>\n"
    assert turn_of("  a <turn>\n\nb", ()) == "  a <turn>\nb\n"
    assert turn_of(" \n", TURNS) == ""
