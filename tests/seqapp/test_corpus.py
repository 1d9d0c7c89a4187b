"""Reading and splitting the text."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqapp import text_file
from seqapp.config import DataConfig
from seqapp.corpus import (
    Split,
    checked_text,
    conversations,
    load,
    read_files,
    read_text,
    split_by_hash,
    split_by_position,
)
from seqapp.errors import UsageError
from seqapp.text_file import TextFile


def parts(split: Split) -> list[list[str]]:
    return [["".join(text) for text in part] for part in (split.train, split.validation, split.test)]


@pytest.fixture
def cut(tmp_path: Path) -> Callable[..., Split]:
    """Splits a text by position, from a file."""

    def cut(text: str, *settings: Any, **more: Any) -> Split:
        (tmp_path / "cut.txt").write_bytes(text.encode())
        return Split(*parts(split_by_position(TextFile(tmp_path / "cut.txt"), *settings, **more)))

    return cut


@pytest.fixture(scope="module")
def default() -> Split:
    return load(DataConfig(), whole_lines=True)


def test_the_default_conversations(default: Split) -> None:
    texts = conversations()
    assert len(texts) == 7168
    assert sorted(texts) == sorted(text for part in parts(default) for text in part)
    messages = sum(text.count("\n") for text in texts)
    assert messages == 258145
    assert not any(line != " ".join(line.split()) for text in texts[:200] for line in text.split("\n"))


def test_the_default_split(default: Split) -> None:
    assert [len(part) for part in parts(default)] == [6553, 315, 300]
    assert not set(default.train) & set(default.validation)
    assert not set(default.train) & set(default.test)
    assert not set(default.validation) & set(default.test)


def documents(count: int) -> list[tuple[str, str]]:
    return [(f"name {i}", f"text {i}") for i in range(count)]


def test_the_hash_split_has_the_fractions_asked_for() -> None:
    split = split_by_hash(documents(4000), 0.1, 0.2)
    assert sum(map(len, parts(split))) == 4000
    assert [len(part) / 4000 for part in parts(split)] == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


def test_a_new_document_moves_no_other() -> None:
    fewer, more = split_by_hash(documents(100), 0.2, 0.2), split_by_hash(reversed(documents(150)), 0.2, 0.2)
    for few, many in zip(parts(fewer), parts(more), strict=True):
        assert few
        assert set(few) <= set(many)


def test_documents_of_one_key_land_in_one_part() -> None:
    split = split_by_hash([(f"key {i % 50}", f"key {i % 50}") for i in range(200)], 0.3, 0.3)
    for part in parts(split):
        assert part
        assert all(part.count(text) == 4 for text in part)


def test_the_sha_256_of_the_key_decides() -> None:
    """The first eight bytes as a fraction: a 0.791, b 0.243, c 0.182, d 0.096."""
    assert split_by_hash([(key, key) for key in "abcd"], 0.1, 0.1) == Split(["a", "b"], ["c"], ["d"])


@pytest.mark.parametrize("length", [10, 1000, 99_990, 1_000_000])
def test_the_position_split_is_exact(cut: Callable[..., Split], length: int) -> None:
    text = "".join(chr(97 + i % 26) for i in range(length))
    split = cut(text, 0.1, 0.0, whole_lines=False)
    assert split == Split([text[: length * 9 // 10]], [text[length * 9 // 10 :]], [])
    split = cut(text, 0.05, 0.05, whole_lines=False)
    assert "".join(part[0] for part in parts(split) if part) == text
    if length >= 1000:
        cuts = length * 18 // 20, length * 19 // 20
        assert split == Split([text[: cuts[0]]], [text[cuts[0] : cuts[1]]], [text[cuts[1] :]])


def test_whole_lines_are_kept(cut: Callable[..., Split]) -> None:
    text = "".join(f"line {i}\n" for i in range(50))
    split = cut(text, 0.2, 0.2, whole_lines=True)
    assert "".join(part[0] for part in parts(split)) == text
    assert all(part[0].endswith("\n") for part in parts(split))
    assert [part[0].count("\n") for part in parts(split)] == pytest.approx([30, 10, 10], abs=2)


def test_a_last_line_without_an_end_is_kept(cut: Callable[..., Split]) -> None:
    text = "a b c\n" * 8 + "the last of all lines"
    split = cut(text, 0.2, 0.2, whole_lines=True)
    assert "".join(part[0] for part in parts(split) if part) == text


def in_memory(text: str, validation: float, test: float, whole_lines: bool) -> Split:
    """The split by position of a text that is there as a whole."""
    cuts = [int(len(text) * (1 - validation - test) + 1e-6), int(len(text) * (1 - test) + 1e-6)]
    if whole_lines:
        cuts = [text.find("\n", cut) + 1 or len(text) for cut in cuts]
    parts = (text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :])
    return Split(*([part] if part.strip() else [] for part in parts))


@pytest.mark.parametrize("block", [1, 3, 16, 1000])
@pytest.mark.parametrize("whole_lines", [False, True])
def test_the_position_split_is_that_of_the_whole(
    cut: Callable[..., Split], block: int, whole_lines: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_file, "BLOCK", block)
    rng = random.Random(block)
    for _ in range(40):
        text = "a" + "".join(
            rng.choice(["a", "é", "\u0301", "😀", " ", " ", "\n", "\r\n", "\r"]) for _ in range(rng.randint(0, 60))
        )
        whole = text.replace("\r\n", "\n").replace("\r", "\n")
        settings = rng.choice([0.1, 0.3, 0.6]), rng.choice([0.0, 0.1, 0.3])
        assert cut("\ufeff" * rng.randint(0, 1) + text, *settings, whole_lines) == in_memory(whole, *settings, whole_lines)


def test_load_a_file(tmp_path: Path) -> None:
    text = "".join(f"line {i}\n" for i in range(100))
    (tmp_path / "text.txt").write_text(text, "utf-8")
    config = DataConfig(data=str(tmp_path / "text.txt"), validation_fraction=0.1, test_fraction=0.0)
    characters = load(config, whole_lines=False)
    cut = len(text) * 9 // 10
    assert parts(characters) == [[text[:cut]], [text[cut:]], []]
    (train,), (validation,), _ = parts(load(config, whole_lines=True))
    assert train.endswith("\n")
    assert train + validation == text


def test_load_a_folder_by_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for i in range(60):
        (tmp_path / ("deep" if i % 2 else ".") / f"{i}.txt").write_text(f"text {i}\n", "utf-8")
    config = DataConfig(data=str(tmp_path), validation_fraction=0.2, test_fraction=0.2)
    before = parts(load(config, whole_lines=True))
    assert sorted(text for part in before for text in part) == sorted(f"text {i}\n" for i in range(60))
    for i in range(60):
        (tmp_path / ("deep" if i % 2 else ".") / f"{i}.txt").write_text(f"changed {i}\n", "utf-8")
    changed = load(config, whole_lines=True)
    assert [[text.replace("changed", "text") for text in part] for part in parts(changed)] == before


def test_a_folder_of_one_file_is_split_by_position(tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("0123456789" * 10, "utf-8")
    split = load(DataConfig(data=str(tmp_path), validation_fraction=0.1, test_fraction=0.1), whole_lines=False)
    assert [len(part[0]) for part in parts(split)] == [80, 10, 10]


def test_what_is_not_read_from_disk_is_checked_too() -> None:
    assert checked_text(b"\xef\xbb\xbfone\r\n", "standard input") == "one\n"
    with pytest.raises(UsageError, match="standard input is empty"):
        checked_text(b"", "standard input")


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / ".data"
    (folder / ".git").mkdir(parents=True)
    for name in ("b.txt", "a.txt", ".hidden", ".git/config"):
        (folder / name).write_text(name, "utf-8")
    assert read_files(folder) == {"a.txt": "a.txt", "b.txt": "b.txt"}
    assert list(read_files(folder)) == ["a.txt", "b.txt"]


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "dos.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(tmp_path / "dos.txt") == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"text.txt is empty: give a UTF-8 text file"),
        (b" \n\t", r"text.txt is empty"),
        (b"\xef\xbb\xbf", r"text.txt is empty"),
        (b"a\0b", r"text.txt is a binary file: give a UTF-8 text file"),
        (b"caf\xe9", r"text.txt is not UTF-8 \(byte 3 is 0xe9\): convert it, .*iconv"),
    ],
)
def test_a_file_that_is_no_text(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    for path in (tmp_path, tmp_path / "text.txt"):
        with pytest.raises(UsageError, match=message):
            load(DataConfig(data=str(path)), whole_lines=True)
    with pytest.raises(UsageError, match=message):
        read_files(tmp_path)


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no .*none.txt: give a UTF-8 text file, or a folder of them"):
        load(DataConfig(data=str(tmp_path / "none.txt")), whole_lines=True)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\): change its permissions"):
        read_text(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("text", "utf-8")
    with pytest.raises(UsageError, match=r"The folder .* holds no file"):
        load(DataConfig(data=str(tmp_path)), whole_lines=True)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_nothing_left_for_a_part(part: str, tmp_path: Path) -> None:
    small = {"train": (0.5, 0.49), "validation": (0.001, 0.5), "test": (0.5, 0.001)}[part]
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("text\n", "utf-8")
    config = DataConfig(data=str(tmp_path), validation_fraction=small[0], test_fraction=small[1])
    with pytest.raises(UsageError, match=f"[Nn]othing is left for the {part} split.* more text"):
        load(config, whole_lines=True)


def test_no_test_split_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one\ntwo\nthree\nfour\n", "utf-8")
    split = load(DataConfig(data=str(tmp_path / "text.txt"), validation_fraction=0.3, test_fraction=0.0), whole_lines=True)
    assert split.test == []


def test_one_line_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a single line of text\n", "utf-8")
    with pytest.raises(UsageError, match=r"[Nn]othing is left for the validation split"):
        load(DataConfig(data=str(tmp_path / "text.txt")), whole_lines=True)
