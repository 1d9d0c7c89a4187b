"""Text in pieces is the text."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqapp import text_file
from seqapp.text_file import TextFile
from tests.conftest import refused

TEXT = "Où\r\nest  le\rchat ?\n\r\nÇa\u0301 😀 va.\r\n\r\rBien"
WHOLE = TEXT.replace("\r\n", "\n").replace("\r", "\n")
BLOCKS = [1, 2, 3, 4, 5, 7, 11, 1000]


@pytest.fixture(params=BLOCKS)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(text_file, "BLOCK", request.param)
    return int(request.param)


def written(folder: Path, content: bytes) -> TextFile:
    (folder / "text.txt").write_bytes(content)
    return TextFile(folder / "text.txt")


@pytest.mark.usefixtures("block")
def test_the_pieces_are_the_text(tmp_path: Path) -> None:
    file = written(tmp_path, TEXT.encode())
    assert "".join(file) == WHOLE
    assert "".join(file) == WHOLE, "it can be read again"


def test_pieces_end_where_a_text_may_be_parted(tmp_path: Path, block: int) -> None:
    found = list(written(tmp_path, TEXT.encode()))
    assert all(piece[-1] in "\n " for piece in found[:-1])
    assert len(found) == 2 if block == 1000 else len(found) > 3


@pytest.mark.usefixtures("block")
def test_a_part_is_read_from_the_piece_that_it_begins_in(tmp_path: Path) -> None:
    file = written(tmp_path, TEXT.encode())
    before = 0
    for byte, piece in file.pieces():
        for skipped in range(len(piece) + 3):
            begin = before + skipped
            assert "".join(TextFile(file.path, byte, skipped)) == WHOLE[begin:]
            for length in (0, 1, 6):
                assert "".join(TextFile(file.path, byte, skipped, length)) == WHOLE[begin : begin + length]
        before += len(piece)


@pytest.mark.usefixtures("block")
def test_the_byte_order_mark_is_no_text_where_the_file_begins(tmp_path: Path) -> None:
    assert "".join(written(tmp_path, "\ufeff\ufeffa \ufeffb".encode())) == "\ufeffa \ufeffb"


def test_a_stretch_without_space_is_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "BLOCK", 10)
    assert list(written(tmp_path, b"a b" + b"c" * 100 + b" d\ne")) == ["a ", "b" + "c" * 100 + " d\n", "e"]


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["text.txt is empty: give a UTF-8 text file"]),
        (b" \n \r\n\t ", ["text.txt is empty"]),
        (b"\xef\xbb\xbf", ["text.txt is empty"]),
        (b"one two \n a\0b c", ["text.txt is a binary file"]),
        (b"caf\xe9 one two\n a\0b c", ["text.txt is a binary file"]),
        (b"one two caf\xe9 three", ["text.txt is not UTF-8 (byte 11 is 0xe9): convert it"]),
        (b"\xef\xbb\xbfone two caf\xe9 three", ["text.txt is not UTF-8 (byte 14 is 0xe9): convert it"]),
        (b"a b\r\nc\r\nd \xf0\x9f\x98", ["text.txt is not UTF-8 (byte 10 is 0xf0)"]),
        (b"a b \xc3\n", ["text.txt is not UTF-8 (byte 4 is 0xc3)"]),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    refused(written(tmp_path, content).check, *parts)


@pytest.mark.usefixtures("block")
def test_space_at_the_end_of_a_text_is_no_empty_file(tmp_path: Path) -> None:
    file = written(tmp_path, b"a" + b" \n" * 600)
    file.check()
    *_, (byte, _) = file.pieces()
    assert "".join(TextFile(file.path, byte)).isspace()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    refused(TextFile(tmp_path).check, "cannot be read (Is a directory): change its permissions, or leave it out")
