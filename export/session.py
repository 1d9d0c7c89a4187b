"""A stream of text over an exported model: fed in pieces, continued, kept and taken up again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from export.runners import Runner
from seqapp.decoding import Sampling, sample
from seqapp.errors import UsageError
from seqapp.step import Array, Stepper, log_softmax
from seqapp.vocabulary import Vocabulary

CHUNK = 512  # tokens of a long text that the engine reads at once: its memory grows with them


class Session:
    """A stream of its own: the states so far, and the last token, which the model has yet to read.

    It starts as streams start in training and evaluation: in the first states, after the end of a line. The sessions of one
    model do not touch each other; one session belongs to one thread at a time.
    """

    def __init__(self, runner: Runner, vocabulary: Vocabulary, identity: bytes) -> None:
        self.runner, self.vocabulary, self.identity = runner, vocabulary, identity
        self.reset()

    def reset(self) -> None:
        """Back to the start of a stream."""
        self._states, self._last = self.runner.initial_states(1), self.vocabulary.end_number

    def feed(self, text: str) -> None:
        """Reads a text; its last line stays open until a newline closes it.

        A text may come in pieces that part before or after a space or a newline: they are read as the whole.
        """
        tokens = self.vocabulary.prompt(text, in_line=self._last != self.vocabulary.end_number)
        *read, last = self._last, *self.vocabulary.numbers(tokens)
        states = self._states
        for first in range(0, len(read), CHUNK):
            states = self._read(read[first : first + CHUNK], states)
        self._states, self._last = states, last

    def _read(self, numbers: list[int], states: list[Array]) -> list[Array]:
        """The states after some tokens; a single one is quicker by a step."""
        tokens = np.array([numbers], np.int32)
        if len(numbers) == 1:
            return self.runner.step(tokens[0], states)[1]
        return self.runner.prefill(tokens, states)[1]

    def predict(self, top: int = 3) -> list[tuple[str, float]]:
        """The most likely next tokens with their probabilities, the most likely first; the end of a line may be one.

        The unknown token is never among them, since nobody could write it, but it keeps its probability: what the model gives
        to words it does not know is not handed to those it knows.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1. Received: {top}")
        logits, _ = self.runner.step(np.array([self._last], np.int32), self._states)
        p = np.exp(log_softmax(logits[0].astype(np.float64)))
        order = np.argsort(-p, kind="stable")
        best = order[order != self.vocabulary.unknown_number][:top]
        return [(self.vocabulary.tokens[number], float(p[number])) for number in best]

    def generate(
        self,
        length: int,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Goes on by `length` tokens and returns their text, which begins with a space where one belongs before it.

        They are drawn as `seqapp.decoding.Sampling` says, never the unknown one; from the same seed the same in each engine.
        """
        if length < 0:
            raise ValueError(f"length must be at least 0. Received: {length}")
        sampling, rng = Sampling(temperature, top_k, top_p), np.random.default_rng(seed)
        onward = _Onward(self.runner, self._states)
        drawn = list(islice(sample(onward, [self._last], sampling, rng, [self.vocabulary.unknown_number]), length))
        before, *added = (self.vocabulary.tokens[number] for number in (self._last, *drawn))
        self._states, self._last = onward.states, [self._last, *drawn][-1]
        return self.vocabulary.join([before, *added]).removeprefix(self.vocabulary.join([before]))

    def save(self) -> bytes:
        """The stream so far, for a file: the SHA-256 of the model's file, the last token as int32, the states as float32.

        Numbers are little-endian; it is 36 bytes, and 4 for each unit of each state.
        """
        states = np.concatenate([state[0] for state in self._states])
        return self.identity + np.array(self._last, "<i4").tobytes() + states.astype("<f4").tobytes()

    def restore(self, saved: bytes) -> None:
        """Goes on where `save` was called.

        Raises:
            UsageError: it comes from another file, even one of the same bundle, or it is damaged.
        """
        sizes = [state.size for state in self.runner.spec.states]
        head = len(self.identity)
        if saved[:head] != self.identity:
            raise UsageError("The saved session is of another file: restore it with the bundle, engine and precision it had.")
        if len(saved) != (size := head + 4 + 4 * sum(sizes)):
            raise UsageError(f"The saved session is damaged: it should have {size} bytes. Received: {len(saved)}")
        last = int(np.frombuffer(saved, "<i4", 1, head)[0])
        states = np.frombuffer(saved, "<f4", offset=head + 4).astype(np.float32)
        if not (0 <= last < len(self.vocabulary) and np.isfinite(states).all()):
            raise UsageError("The saved session is damaged: it holds numbers that no stream comes to.")
        self._states, self._last = [part[None] for part in np.split(states, np.cumsum(sizes)[:-1])], last


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
