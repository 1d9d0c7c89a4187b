"""Token numbers on disk: written piece by piece, read through a memory map."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from seqapp.corpus import Split, Text
from seqapp.errors import UsageError
from seqapp.vocabulary import Vocabulary

CHUNK = 1 << 22  # tokens that are counted or numbered anew at once


class TokenFile:
    """The tokens of some documents, one document after the other.

    The file is in the system's folder for temporary files, which TMPDIR may name, and has no name there: it is gone with the
    last who reads it, however the process ends.

    Attributes:
        lengths: tokens of each document.
    """

    def __init__(self, texts: Iterable[Text], rule: Vocabulary, numbers: Callable[[list[str]], Iterable[int]]) -> None:
        """Cuts texts by the rule of a vocabulary and writes what `numbers` makes of the tokens of each piece.

        Raises:
            UsageError: a text cannot be read, or the tokens cannot be written.
        """
        self.lengths: list[int] = []
        try:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115 - it is read for as long as there is an object
            weakref.finalize(self, self.file.close)
            for text in texts:
                self.lengths.append(0)
                for tokens in rule.cut_pieces([text] if isinstance(text, str) else text):
                    self.file.write(np.fromiter(numbers(tokens), np.int32, len(tokens)).data)
                    self.lengths[-1] += len(tokens)
            self.file.flush()
        except OSError as error:
            raise UsageError(
                f"The tokens cannot be written to {tempfile.gettempdir()} ({error.strerror}): make room there, or name another "
                "folder in the environment, as TMPDIR."
            ) from None

    def __len__(self) -> int:
        return sum(self.lengths)

    @property
    def tokens(self) -> NDArray[np.int32]:
        """All of them (N,), to be read alone; N must not be 0."""
        return np.frombuffer(mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ), np.int32)

    def counts(self, size: int) -> NDArray[np.int64]:
        """How often each of the numbers below `size` occurs."""
        counts = np.zeros(size, np.int64)
        for _, chunk in self._chunks():
            counts += np.bincount(chunk, minlength=size)
        return counts

    def renumber(self, table: NDArray[np.int32]) -> None:
        """Puts table[number] in the place of each number."""
        for place, chunk in self._chunks():
            self.file.seek(place)
            self.file.write(table[chunk].data)
        self.file.flush()

    def _chunks(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """The numbers, so many at a time, and the byte of the file where they stand.

        Not by the map: a disk that is full would end the process there, not raise an error.
        """
        for place in range(0, 4 * len(self), 4 * CHUNK):
            self.file.seek(place)
            yield place, np.frombuffer(self.file.read(4 * CHUNK), np.int32)


class _Found(dict[str, int]):
    """Tokens, numbered as they are found."""

    def __missing__(self, token: str) -> int:
        self[token] = number = len(self)
        return number

    def numbers(self, tokens: list[str]) -> Iterable[int]:
        return map(self.__getitem__, tokens)


def learned(split: Split, rule: Vocabulary, min_count: int) -> tuple[Vocabulary, dict[str, TokenFile]]:
    """A vocabulary of the tokens that occur at least `min_count` times in the training part, and the tokens of each part that
    has documents, as `Vocabulary.learn` and `encode` have them.

    Text is cut once, which takes most of the time: the numbers are at first those in which tokens are found. In memory is each
    different token, not all of them.

    Raises:
        UsageError: a text cannot be read, or the tokens cannot be written.
    """
    found = _Found()
    files = {name: TokenFile(texts, rule, found.numbers) for name, texts in vars(split).items() if texts}
    counts = files["train"].counts(len(found))
    vocabulary = rule.of_counts(dict(zip(found, counts.tolist(), strict=True)), min_count)
    table = np.array(vocabulary.numbers(found), np.int32)
    for file in files.values():
        file.renumber(table)
    return vocabulary, files
