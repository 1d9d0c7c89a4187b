"""Real text in, documents out, split into train, validation and test.

A document is what a split must not tear apart: a conversation, or a file of a folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from seqapp.config import DataConfig
from seqapp.errors import UsageError, need


@dataclass(frozen=True)
class Split:
    """Documents, part by part."""

    train: list[str]
    validation: list[str]
    test: list[str]


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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): change its permissions, or leave it out.") from None
    return checked_text(content, str(path))


def checked_text(content: bytes, path: str) -> str:
    """As `read_text`, of what was read from `path`.

    Raises:
        UsageError: it is empty, binary, or not UTF-8.
    """
    if b"\0" in content:
        raise UsageError(f"{path} is a binary file: give a UTF-8 text file, or a folder of them.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 (byte {error.start} is 0x{content[error.start]:02x}): "
            "convert it, for instance with `iconv -f ISO-8859-1 -t UTF-8`."
        ) from None
    if not text.strip():
        raise UsageError(f"{path} is empty: give a UTF-8 text file, or a folder of them.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_files(path: Path) -> dict[str, str]:
    """The text of every file under `path` by its name within it, or of the one file `path` is. Hidden files are left out.

    Raises:
        UsageError: nothing there, no file in it, or a file that is not text.
    """
    if path.is_file():
        return {path.name: read_text(path)}
    if not path.exists():
        raise UsageError(f"There is no {path}: give a UTF-8 text file, or a folder of them.")
    names = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
    texts = {name.as_posix(): read_text(path / name) for name in names if not any(part.startswith(".") for part in name.parts)}
    if not texts:
        raise UsageError(f"The folder {path} holds no file: give one with UTF-8 text files in it.")
    return texts


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
        texts = read_files(Path(config.data))
        if len(texts) == 1:
            (text,) = texts.values()
            split = split_by_position(text, config.validation_fraction, config.test_fraction, whole_lines)
        else:
            split = split_by_hash(texts.items(), config.validation_fraction, config.test_fraction)
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


def split_by_hash(documents: Iterable[tuple[str, str]], validation: float, test: float) -> Split:
    """Puts each (key, text) where the SHA-256 of its key says, so that adding one moves no other."""
    parts = Split([], [], [])
    for key, text in documents:
        position = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64
        part = parts.test if position < test else parts.validation if position < test + validation else parts.train
        part.append(text)
    return parts


def split_by_position(text: str, validation: float, test: float, whole_lines: bool) -> Split:
    """Cuts one text into its first part for training, the next for validation and the last for the test."""
    cuts = [int(len(text) * (1 - validation - test) + 1e-6), int(len(text) * (1 - test) + 1e-6)]
    if whole_lines:
        cuts = [text.find("\n", cut) + 1 or len(text) for cut in cuts]
    parts = (text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :])
    return Split(*([part] if part.strip() else [] for part in parts))
