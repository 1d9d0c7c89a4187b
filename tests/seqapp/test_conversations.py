"""Conversations in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqapp.conversations import of, read, written
from tests.conftest import refused, talks


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A: hello\nB: hi  you\nB: well?\nA: fine\n", [[["hello"], ["hi you", "well?"], ["fine"]]]),
        ("A.1: Do you? \nB.2: Yes,\nwe do. -\n\nB.1: Hm.\n", [[["Do you?"], ["Yes, we do. -"]], [["Hm."]]]),
        ("hello\nhi\n\n \nnext\n", [[["hello"], ["hi"]], [["next"]]]),
        (
            "Ann Lee: one\nMr. Bo O'Hara:two\nMr. Bo O'Hara: and then I said: no\n",
            [[["one Mr. Bo O'Hara:two"], ["and then I said: no"]]],
        ),
        (
            "Ann: so\nand he said: go\n12:30 it was: late\nhttp://a.b\n",
            [[["so and he said: go 12:30 it was: late http://a.b"]]],
        ),
        ("é: oui\nÉva: non\n", [[["oui"], ["non"]]]),
        ("A:\nlate\nB: \n", [[["late"], [""]]]),
        ("12:30 we met\n", [[["12:30 we met"]]]),
        ("\n\n", []),
    ],
)
def test_conversations_by_hand(text: str, wanted: list[list[list[str]]]) -> None:
    assert of(text, "talk.txt") == wanted


def test_a_conversation_that_begins_without_a_speaker() -> None:
    for text, first, line in (("A: one\n\nand two\nB: three\n", 1, 3), ("Call 7\nAnn: one\n", 2, 1)):
        name = "A" if first == 1 else "Ann"
        refused(
            lambda text=text: of(text, "talk.txt"),
            f"talk.txt, line {line} begins a conversation without a speaker, and line {first} has one, {name!r}",
            "begin each turn with a name and a colon, or none. Received: 'and two'" if first == 1 else "Received: 'Call 7'",
        )


def test_files(tmp_path: Path) -> None:
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk/b.txt").write_text("A: one\n\nA: two\n")
    (tmp_path / "talk/a.txt").write_text("three\n")
    assert read(tmp_path / "talk") == [[["three"]], [["one"]], [["two"]]]
    assert len(read(tmp_path / "talk/b.txt")) == 2
    (tmp_path / "talk/c.txt").write_text("Call\nA: two\n")
    refused(lambda: read(tmp_path / "talk"), "talk/c.txt, line 1 ")
    refused(lambda: read(tmp_path / "none"), "There is no")


def test_what_is_written_is_read_again() -> None:
    found = of(talks(5), "talks")
    assert [len(talk) for talk in found] == [4] * 5
    for talk in (*found, [["one", "two"], ["three"], ["four", "five: six"]]):
        assert of(written(talk), "written") == [talk]
