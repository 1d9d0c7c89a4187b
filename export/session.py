"""A stream of text over an exported model: fed in pieces, continued, kept and taken up again."""

from __future__ import annotations

import numpy as np

from export.runners import Runner
from seqapp.decoding import Sampling
from seqapp.errors import UsageError
from seqapp.step import Array, log_softmax
from seqapp.stream import Stream
from seqapp.vocabulary import Vocabulary


class Session(Stream):
    """A stream of its own, as `seqapp.stream.Stream` has it.

    The sessions of one model do not touch each other; one session belongs to one thread at a time.
    """

    def __init__(self, runner: Runner, vocabulary: Vocabulary, identity: bytes) -> None:
        self.runner, self.identity = runner, identity
        super().__init__(runner, vocabulary)

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
        p = np.exp(log_softmax(self.next_logits().astype(np.float64)))
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
        sampling, rng, last = Sampling(temperature, top_k, top_p), np.random.default_rng(seed), self._last
        drawn = self.draw(length, sampling, rng, [self.vocabulary.unknown_number])
        before, *added = (self.vocabulary.tokens[number] for number in (last, *drawn))
        return self.vocabulary.join([before, *added]).removeprefix(self.vocabulary.join([before]))

    def answer(
        self,
        text: str,
        length: int = 40,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Reads a turn of a conversation, or a step of a recipe, and returns the next one, of at most `length` tokens.

        Of a model of running text, a turn is a line. An empty text is no turn, and the model takes one all the same. The
        text is as people write it, without symbols. The answer is drawn as in `generate`, and its lines are parted by newlines.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1. Received: {length}")
        return self.answered(text, length, Sampling(temperature, top_k, top_p), np.random.default_rng(seed))

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
