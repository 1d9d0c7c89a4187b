"""Conversations in files of text: a line for each message, with its speaker in front, and a blank line between two of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from seqapp.corpus import read_files
from seqapp.errors import UsageError

Talk = list[list[str]]  # the messages of each turn

# `A.1: `, `Ann: ` or `Ann Lee: `. Of several words each begins with a capital: "and then I said: " is no speaker.
SPEAKER = re.compile(r"((?:[^\W\d_a-z][\w'’-]*\.? ){1,2}[^\W\d_a-z][\w'’-]*|[^\W\d_][\w'’-]*)(?:\.\d+)?:(?:\s+|$)")


def read(path: Path) -> list[Talk]:
    """The conversations of a file, or of all files of a folder.

    Raises:
        UsageError: a file cannot be read, or is no conversation.
    """
    texts = read_files(path)
    return [talk for name, text in texts.items() for talk in of(text, str(path / name) if path.is_dir() else str(path))]


def of(text: str, name: str) -> list[Talk]:
    """The conversations of a text, which is called `name` in messages.

    A blank line ends a conversation. Lines of one speaker in succession are a turn; a line without a speaker goes on with the
    message before it. Where no line has a speaker, each is a turn.

    Raises:
        UsageError: a conversation begins without a speaker, though others in the text have them.
    """
    lines = text.split("\n")
    speakers = {number: found for number, line in enumerate(lines, 1) if (found := SPEAKER.match(line))}
    talks: list[Talk] = [[]]
    speaker = ""
    for number, line in enumerate(lines, 1):
        words, found, talk = " ".join(line.split()), speakers.get(number), talks[-1]
        if not words:
            talks.append([])
        elif not speakers:
            talk.append([words])
        elif found:
            said = " ".join(line[found.end() :].split())
            if talk and found[1] == speaker:
                talk[-1].append(said)
            else:
                talk.append([said])
            speaker = found[1]
        elif talk:
            talk[-1][-1] = f"{talk[-1][-1]} {words}".strip()
        else:
            first = min(speakers)
            raise UsageError(
                f"{name}, line {number} begins a conversation without a speaker, and line {first} has one, "
                f"{speakers[first][1]!r}: begin each turn with a name and a colon, or none. Received: {words[:40]!r}"
            )
    return [talk for talk in talks if talk]


def written(talk: Sequence[Sequence[str]]) -> str:
    """A conversation of A and B, as `of` reads it."""
    return "\n".join(f"{'AB'[i % 2]}: {message}" for i, turn in enumerate(talk) for message in turn)
