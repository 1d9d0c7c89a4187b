"""Pairs from tables and from aligned files, and each fault with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqapp.labelled import Example
from seqapp.pairs import pairs_of, read
from tests.conftest import refused


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    return folder


def told(some: list[Example]) -> list[tuple[str, str]]:
    return [(str(pair.sequence), str(pair.label)) for pair in some]


PAIRS = [("ein Haus", "a house"), ("Æsir ñ", "gods")]


def test_a_table(tmp_path: Path) -> None:
    path = write(tmp_path, {"talk.tsv": "ein Haus\t a house \r\n\r\nÆsir ñ\tgods\n"}) / "talk.tsv"
    found = read(path)
    assert told(found["all"]) == PAIRS
    assert found["all"][1].place == "talk.tsv, line 3"


def test_aligned_files(tmp_path: Path) -> None:
    write(tmp_path, {"talk.de": "ein Haus\nÆsir ñ\n", "talk.en": "a house\ngods\n"})
    assert told(read(tmp_path / "talk", ("de", "en"))["all"]) == PAIRS
    # The other way round it is the other translation.
    assert told(read(tmp_path / "talk", ("en", "de"))["all"]) == [(b, a) for a, b in PAIRS]


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("kind", ["tables", "aligned"])
def test_a_folder_of_parts(kind: str, validation: bool, tmp_path: Path) -> None:
    for part in ("train", "test", *["validation"] * validation):
        if kind == "tables":
            write(tmp_path, {f"{part}.tsv": f"{part}\teins\n"})
        else:
            write(tmp_path, {f"{part}.de": f"{part}\n", f"{part}.en": "eins\n"})
    found = read(tmp_path, ("de", "en") if kind == "aligned" else (None, None))
    assert list(found) == ["train", *["validation"] * validation, "test"]
    assert {part: told(some) for part, some in found.items()} == {part: [(part, "eins")] for part in found}


def test_lines_to_translate_need_no_target() -> None:
    found = list(pairs_of("ein Haus\nein Hund\ta dog\n", "standard input", targets=False))
    assert [(pair.sequence, pair.label) for pair in found] == [("ein Haus", None), ("ein Hund", "a dog")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a\tb\nc\n", ("talk.tsv, line 2 has no tab", "a source, a tab and a target", "--source-language")),
        ("a\tb\n\nc\td\te\n", ("talk.tsv, line 3 has 3 columns",)),
        ("a\t \n", ("line 1 has an empty target", "fill it in")),
        ("\tb\n", ("line 1 has an empty source",)),
        ("", ("talk.tsv is empty",)),
    ],
)
def test_a_faulty_table_names_the_line(text: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    path = write(tmp_path, {"talk.tsv": text}) / "talk.tsv"
    refused(lambda: read(path), *parts)


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"talk.de": "a\nb\n", "talk.en": "a\n"}, ("as many lines", "talk.de 2, talk.en 1")),
        ({"talk.de": "a\nb\n", "talk.en": "a\n\n"}, ("talk.de 2, talk.en 1",)),
        ({"talk.de": "a\nb\nc\n", "talk.en": "a\n \nc\n"}, ("talk.en, line 2 is empty", "leave the line out of both")),
        ({"talk.de": "a\n\nc\n", "talk.en": "a\nb\nc\n"}, ("talk.de, line 2 is empty",)),
        ({"talk.de": "a\n"}, ("no", "talk.en", "give both")),
        ({}, ("There is no", "two aligned files .de and .en")),
    ],
)
def test_faulty_aligned_files_name_the_line(files: dict[str, str], parts: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, files)
    refused(lambda: read(tmp_path / "talk", ("de", "en")), *parts)


def test_without_languages_there_are_tables_alone(tmp_path: Path) -> None:
    write(tmp_path, {"train.de": "a\n", "train.en": "b\n", "test.de": "a\n", "test.en": "b\n"})
    refused(lambda: read(tmp_path), "a .tsv", "--source-language", "test.de, test.en")
    refused(lambda: read(tmp_path / "train"), "There is no", "--source-language")


def test_a_folder_without_a_test_is_refused(tmp_path: Path) -> None:
    refused(lambda: read(write(tmp_path, {"train.tsv": "a\tb\n"})), "for train and for test", "train.tsv")
    refused(lambda: read(tmp_path / "none"), "There is no")
