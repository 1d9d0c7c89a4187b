"""Real text in, documents out, split into train, validation and test.

A document is what a split must not tear apart: a conversation, or a file of a folder.
"""

from __future__ import annotations

import hashlib
import io
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from seqapp.config import DataConfig
from seqapp.errors import UsageError, need
from seqapp.text_file import TextFile, decoded

Text = str | TextFile  # of either, "".join makes the whole


@dataclass(frozen=True)
class Split:
    """Documents, part by part: texts, or files that are read when their turn comes."""

    train: list[Text]
    validation: list[Text]
    test: list[Text]


def turns() -> list[list[list[str]]]:
    """The conversations of the chitchat-dataset package (MIT): the messages of each turn, which is of one speaker."""
    package = need("chitchat_dataset", "train")
    return [
        [[" ".join(message["text"].split()) for message in turn] for turn in conversation["messages"]]
        for conversation in package.Dataset().values()
    ]


def conversations() -> list[str]:
    """The same, one message a line."""
    return ["".join(f"{message}\n" for turn in conversation for message in turn) for conversation in turns()]


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, its line ends made newlines.

    Raises:
        UsageError: the file cannot be read, is empty, binary, or not UTF-8.
    """
    return "".join(TextFile(path))


def checked_text(content: bytes, path: str) -> str:
    """As `read_text`, of what was read from `path`.

    Raises:
        UsageError: it is empty, binary, or not UTF-8.
    """
    return "".join(text for _, text in decoded(io.BytesIO(content), path))


def read_files(path: Path) -> dict[str, str]:
    """The text of each of the `files`.

    Raises:
        UsageError: there is none, or one is not text.
    """
    return {name: "".join(file) for name, file in files(path).items()}


def files(path: Path) -> dict[str, TextFile]:
    """Every file under `path` by its name within it, or the one file `path` is. Hidden files are left out.

    Raises:
        UsageError: nothing there, or no file in it.
    """
    if path.is_file():
        return {path.name: TextFile(path)}
    if not path.exists():
        raise UsageError(f"There is no {path}: give a UTF-8 text file, or a folder of them.")
    names = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
    found = {name.as_posix(): TextFile(path / name) for name in names if not any(part.startswith(".") for part in name.parts)}
    if not found:
        raise UsageError(f"The folder {path} holds no file: give one with UTF-8 text files in it.")
    return found


def load(config: DataConfig, whole_lines: bool) -> Split:
    """The split corpus that `config` names.

    Conversations go where the hash of their text puts them, the files of a folder where the hash of their name does. A single
    file is cut by position, at an end of line where `whole_lines` asks for it: train first, then validation, then test.

    Raises:
        UsageError: the data cannot be read, or a part would be empty.
    """
    if config.data is None:
        split = split_by_hash(((text, text) for text in conversations()), config.validation_fraction, config.test_fraction)
    else:
        found = files(Path(config.data))
        if len(found) == 1:
            (file,) = found.values()
            split = split_by_position(file, config.validation_fraction, config.test_fraction, whole_lines)
        else:
            split = split_by_hash(found.items(), config.validation_fraction, config.test_fraction)
    return complete(split, config, "Give more text, or one file, which is split by position,")


def complete(split: Split, config: DataConfig, advice: str) -> Split:
    """Returns a split.

    Raises:
        UsageError: a part is empty.
    """
    for part, needed in (("train", True), ("validation", True), ("test", config.test_fraction > 0)):
        if needed and not getattr(split, part):
            raise UsageError(
                f"The text is too short: nothing is left for the {part} split. {advice} or change --validation-fraction or "
                f"--test-fraction. Received: {config.data}"
            )
    return split


def split_by_hash(documents: Iterable[tuple[str, Text]], validation: float, test: float) -> Split:
    """Puts each (key, text) where the SHA-256 of its key says, so that adding one moves no other."""
    parts = Split([], [], [])
    for key, text in documents:
        position = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64
        part = parts.test if position < test else parts.validation if position < test + validation else parts.train
        part.append(text)
    return parts


def split_by_position(file: TextFile, validation: float, test: float, whole_lines: bool) -> Split:
    """Cuts one text into its first part for training, the next for validation and the last for the test.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    begins, length = [(0, 0)], 0  # of each piece: characters before it, and its byte
    for byte, piece in file.pieces():
        begins.append((length, byte))
        length += len(piece)

    def rest(cut: int) -> TextFile:
        before, byte = begins[bisect_right(begins, cut, key=lambda begin: begin[0]) - 1]
        return TextFile(file.path, byte, cut - before)

    cuts = [int(length * (1 - validation - test) + 1e-6), int(length * (1 - test) + 1e-6)]
    if whole_lines:
        cuts = [cut + _first_line(rest(cut)) for cut in cuts]
    parts = [replace(rest(a), length=b - a) for a, b in pairwise([0, *cuts, length])]
    kept: list[list[Text]] = [[part] if any(piece.strip() for piece in part) else [] for part in parts]
    return Split(*kept)


def _first_line(text: Iterable[str]) -> int:
    """Characters in the first line of a text that comes in pieces, the newline included."""
    length = 0
    for piece in text:
        if end := piece.find("\n") + 1:
            return length + end
        length += len(piece)
    return length
