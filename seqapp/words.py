"""What a keyboard offers: words by how they begin, the likeliest first."""

from __future__ import annotations

import sys
from bisect import bisect_left

import numpy as np

from seqapp.errors import UsageError
from seqapp.step import Array, log_softmax
from seqapp.stream import Stream
from seqapp.vocabulary import Vocabulary, plain

LAST = chr(sys.maxunicode)  # behind all that begins with a text


class Words:
    """The words of a vocabulary: no marks, no symbols, no end of a line, and nothing unknown."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises:
        UsageError: its tokens are no words.
        """
        if vocabulary.unit != "word":
            raise UsageError(
                f"Words are suggested by a model of words, of the task next-word. Received: one of {vocabulary.unit}s"
            )
        self.vocabulary = vocabulary
        special = {vocabulary.unknown, vocabulary.end, *vocabulary.symbols}
        known = sorted((token, i) for i, token in enumerate(vocabulary.tokens) if is_word(token) and token not in special)
        self.tokens, self.numbers = [token for token, _ in known], np.array([i for _, i in known], np.int64)

    def beginning(self, begun: str) -> Array:
        """The numbers of those that begin so, in the order of the alphabet: the word itself comes first, where it is one."""
        return self.numbers[bisect_left(self.tokens, begun) : bisect_left(self.tokens, begun + LAST)]

    def best(self, logits: Array, begun: str, top: int) -> list[tuple[str, float]]:
        """The likeliest by logits (V,) that begin so and go on, with their probabilities among all that begin so.

        Raises:
            ValueError: `top` is below 1.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1. Received: {top}")
        numbers = self.beginning(begun)
        p = np.exp(log_softmax(logits[numbers].astype(np.float64))) if len(numbers) else np.zeros(0)
        found = [(self.vocabulary.tokens[numbers[i]], float(p[i])) for i in np.argsort(-p, kind="stable")]
        return [(word, share) for word, share in found if word != begun][:top]

    def letters(self, logits: Array, number: int, top: int) -> int:
        """How many letters of a word are typed before it is among the `top` that are offered; all, where it never is."""
        word = self.vocabulary.tokens[number]
        for typed in range(len(word)):
            numbers = self.beginning(word[:typed])
            rivals = numbers[self.vocabulary.tokens[numbers[0]] == word[:typed] :]  # what is typed whole is not offered
            # "not <=" lets what is no number stand in the way, and the word is one of them itself.
            if (~(logits[rivals] <= logits[number])).sum() < top:
                return typed
        return len(word)

    def after(self, stream: Stream, text: str, top: int) -> list[tuple[str, float]]:
        """The likeliest next words of a text that is being typed, or ends of the word that it breaks off in.

        The stream begins anew with it, or with the first turn of a conversation.
        """
        v = self.vocabulary
        before, begun = parted(v, plain(text, v.symbols) if v.symbols else text)
        stream.reset()
        stream.feed("".join([*v.symbols[:1], *v.symbols[-1:], before]))
        return self.best(stream.next_logits(), begun, top)


def is_word(token: str) -> bool:
    return any(letter.isalnum() for letter in token)


def parted(vocabulary: Vocabulary, text: str) -> tuple[str, str]:
    """A text that is being typed, before the word that it breaks off in, and this word; both as the vocabulary has them.

    >>> parted(Vocabulary.learn(["how are you"], "word", lower=True), "How are yo")
    ('how are ', 'yo')
    """
    text = vocabulary.normalized(vocabulary.normalized(text))  # letters that were made small may compose
    begun = vocabulary.cut(text.split("\n")[-1] + "a")[-2][:-1]  # a letter more goes on with a word, where there is one
    return text[: len(text) - len(begun)], begun
