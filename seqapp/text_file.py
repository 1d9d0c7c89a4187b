"""UTF-8 text, read from disk in pieces: no more of it than one piece is in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from seqapp.errors import UsageError

BLOCK = 1 << 20  # bytes that are read at once


@dataclass(frozen=True)
class TextFile:
    """The text of a file, or a part of it: read anew, in pieces, each time one iterates over it. Line ends are newlines.

    A piece ends behind a newline or a space, where a text may be parted (see `Vocabulary.prompt`). A stretch without either is
    in one piece however long it is: elsewhere a word would be torn, or a letter from its marks.

    Attributes:
        begin: the byte at which the part's first piece begins; 0, or one that `pieces` gave.
        skipped: characters from there on that are not of the part.
        length: characters of the part.
    """

    path: Path
    begin: int = 0
    skipped: int = 0
    length: int = sys.maxsize

    def __iter__(self) -> Iterator[str]:
        """The pieces, which may be empty.

        Raises:
            UsageError: the file cannot be read, is binary or not UTF-8, or has nothing but space in all of it.
        """
        position = -self.skipped
        for _, text in self.pieces():
            if position >= self.length:
                return
            yield text[max(0, -position) : self.length - position]
            position += len(text)

    def pieces(self) -> Iterator[tuple[int, str]]:
        """The pieces from `begin` to the end of the file, each with the byte that it begins at; errors as above."""
        try:
            with self.path.open("rb") as file:
                yield from decoded(file, str(self.path), self.begin)
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be read ({error.strerror}): change its permissions, or leave it out."
            ) from None

    def check(self) -> None:
        """Reads it to its end; errors as above."""
        for _ in self:
            pass


def decoded(file: BinaryIO, name: str, begin: int = 0) -> Iterator[tuple[int, str]]:
    """The pieces of an open file from a byte on, each with the byte that it begins at; `name` is what people know it by.

    Raises:
        UsageError: it is binary or not UTF-8, or, read from its first byte on, empty.
    """
    file.seek(begin)
    place, empty, contents = begin, begin == 0, _parted(file)
    binary = UsageError(f"{name} is a binary file: give a UTF-8 text file, or a folder of them.")
    for content in contents:
        if b"\0" in content:
            raise binary
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            if any(b"\0" in more for more in contents):
                raise binary from None
            raise UsageError(
                f"{name} is not UTF-8 (byte {place + error.start} is 0x{content[error.start]:02x}): "
                "convert it, for instance with `iconv -f ISO-8859-1 -t UTF-8`."
            ) from None
        text = (text if place else text.removeprefix("\ufeff")).replace("\r\n", "\n").replace("\r", "\n")
        empty = empty and not text.strip()
        yield place, text
        place += len(content)
    if empty:
        raise UsageError(f"{name} is empty: give a UTF-8 text file, or a folder of them.")


def _parted(file: BinaryIO) -> Iterator[bytes]:
    """What is left in a file, each piece up to the last newline or space of a block: UTF-8 has these bytes in no other
    character, and no line end of Windows is torn there.
    """
    held: list[bytes] = []
    while block := file.read(BLOCK):
        cut = max(block.rfind(b"\n"), block.rfind(b" ")) + 1
        if cut:
            yield b"".join([*held, block[:cut]])
            held = []
        held.append(block[cut:])
    if rest := b"".join(held):
        yield rest
