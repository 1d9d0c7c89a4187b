"""A stream of text over a model in any engine: fed in pieces, continued, and answered turn by turn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

import numpy as np

from seqapp.decoding import Sampling, sample
from seqapp.step import Array, Stepper
from seqapp.vocabulary import Vocabulary, plain

CHUNK = 512  # tokens of a long text that the engine reads at once: its memory grows with them


class Stream:
    """The states so far, and the last token, which the model has yet to read.

    It starts as streams start in training and evaluation: in the first states, after the end of a line.
    """

    def __init__(self, model: Stepper, vocabulary: Vocabulary) -> None:
        self.model, self.vocabulary = model, vocabulary
        self.reset()

    def reset(self) -> None:
        """Back to the start of a stream."""
        self._states, self._last = self.model.initial_states(1), self.vocabulary.end_number

    def feed(self, text: str) -> None:
        """Reads a text; its last line stays open until a newline closes it.

        A text may come in pieces that part before or after a space or a newline: they are read as the whole.
        """
        tokens = self.vocabulary.prompt(text, in_line=self._last != self.vocabulary.end_number)
        self._take(self.vocabulary.numbers(tokens))

    def next_logits(self) -> Array:
        """What the model says of the next token (V,); the stream stays where it is."""
        return self.model.step(np.array([self._last], np.int32), self._states)[0][0]

    def draw(
        self,
        length: int,
        sampling: Sampling,
        rng: np.random.Generator,
        banned: Collection[int] = (),
        until: Collection[int] = (),
    ) -> list[int]:
        """Goes on by `length` tokens, or up to and including the first that is among `until`."""
        onward, drawn = _Onward(self.model, self._states), list[int]()
        for token in islice(sample(onward, [self._last], sampling, rng, banned), length):
            drawn.append(token)
            if token in until:
                break
        self._states, self._last = onward.states, [self._last, *drawn][-1]
        return drawn

    def answered(self, text: str, length: int, sampling: Sampling, rng: np.random.Generator) -> str:
        """Reads a turn and returns the next one, which ends where a symbol comes, or after `length` tokens.

        Without symbols in the vocabulary, each line is a turn. An empty text is none: the model takes the first turn then, or
        one more. No turn is empty, nor has it an unknown token; its lines are parted by newlines. The stream goes on after it.
        """
        v = self.vocabulary
        said = v.numbers(v.prompt(turn_of(text, v.symbols)))
        if said:
            self._begin_turn()
            self._take(said)
        self._begin_turn()
        until = v.symbol_numbers or [v.end_number]
        drawn = self.draw(1, sampling, rng, {v.unknown_number, v.end_number, *until})
        drawn += self.draw(length - 1, sampling, rng, [v.unknown_number], until)
        if v.symbols and drawn[-1] in until:
            # Whoever begins the turn to come closes the line, where the model left it open, and says what begins.
            drawn.pop()
            self._last = v.end_number if drawn[-1] != v.end_number else v.symbol_numbers[-1]
        return v.join(v.tokens[number] for number in drawn).strip("\n")

    def _begin_turn(self) -> None:
        """Closes the line and writes the symbol of a turn, at the start of a stream that of a document before it."""
        v = self.vocabulary
        if v.symbols and self._last == v.symbol_numbers[-1]:
            return
        if self._last != v.end_number:
            self._take([v.end_number])
        elif v.symbols and all(map(np.array_equal, self._states, self.model.initial_states(1))):
            self._take(v.symbol_numbers[:1])
        self._take(v.symbol_numbers[-1:])

    def _take(self, numbers: Sequence[int]) -> None:
        """Reads some tokens, but for the last of them."""
        *read, last = self._last, *numbers
        states = self._states
        for first in range(0, len(read), CHUNK):
            states = self._read(read[first : first + CHUNK], states)
        self._states, self._last = states, last

    def _read(self, numbers: list[int], states: list[Array]) -> list[Array]:
        """The states after some tokens."""
        return self.model.sequence(np.array([numbers], np.int32), states)[1]


def turn_of(text: str, symbols: Sequence[str]) -> str:
    """A text of people as the lines of a turn: none of them empty, each closed, and without a symbol.

    Where there are symbols to keep apart from, spaces are made single, as in training.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    return "".join(f"{plain(' '.join(line.split()), symbols) if symbols else line}\n" for line in lines)


class _Onward:
    """A stepper that starts where a stream stands, and keeps the states it comes to."""

    def __init__(self, stepper: Stepper, states: list[Array]) -> None:
        self.stepper, self.states = stepper, states

    def initial_states(self, batch_size: int) -> list[Array]:
        return self.states

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        result, self.states = self.stepper.step(tokens, states)
        return result, self.states

    def sequence(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        result, self.states = self.stepper.sequence(tokens, states)
        return result, self.states
