"""What a file declares is looked at before memory is taken for it."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seqapp import adding, labelled, melody, pieces, recipes
from seqapp.errors import UsageError
from seqapp.run import Run
from seqapp.untrusted import check_archive, check_npy, check_xml, inside, json_of
from seqapp.vocabulary import Vocabulary
from tests.conftest import refused
from tests.readers import CONTAINER, XML

MUCH = 64 << 20  # bytes: more than a reader needs for any of these files
HUGE = 10**12


def npy(shape: str, dtype: str = "<f4", content: bytes = b"") -> bytes:
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + content


def zipped(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(made := io.BytesIO(), "w", method) as archive:
        archive.writestr(name, content)
    return made.getvalue()


def lying(name: str, content: bytes) -> bytes:
    """An archive that says of its member that it unpacks to a gigabyte."""
    made = zipped(name, content)
    return made.replace(struct.pack("<I", len(content)), struct.pack("<I", 1 << 30))


def midi(*events: bytes, division: int = 480) -> bytes:
    track = b"".join(events) + b"\0\xff\x2f\0"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, division) + b"MTrk" + struct.pack(">I", len(track)) + track


def tokens(path: Path) -> object:
    return Run(path.parent).tokens("test")


def declaring(entities: str, name: str) -> str:
    """MusicXML with some entities, one of which it names."""
    return XML.replace("<score", f"<!DOCTYPE a [{entities}]><score", 1).replace("Air", f"&{name};")


NOTE = b"\0\x90\x40\x40"
LATE = b"\xff\xff\xff\x7f\x80\x40\0"  # the longest time that there is, 2**28 - 1 ticks
ENTITIES = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "ha"}">' for i in range(12))
NAMING = '<!ENTITY e SYSTEM "file:///etc/passwd">'
BOMBS: dict[str, tuple[str, bytes, Callable[[Path], object], str]] = {
    "an array of 10**12 numbers": ("a.npz", zipped("x.npy", npy(f"({HUGE}, 3)")), labelled.read, "the shape"),
    "an array of numbers of no size": ("a.npz", zipped("x.npy", npy(f"({HUGE}, 3)", "<U0")), labelled.read, "the shape"),
    "more sides than memory": ("a.npz", zipped("x.npy", npy(f"({2**40}, {2**40})")), adding.read, "the shape"),
    "a pickle": ("a.npz", zipped("x.npy", npy("(1,)", "|O", b"cos\nsystem\n(S'x'\ntR.")), labelled.read, "Python objects"),
    "a zip bomb": ("a.npz", zipped("x.npy", npy(f"({1 << 28},)", "|u1") + bytes(300 << 20)), pieces.read_file, "would unpack"),
    "a zip bomb in music": ("a.mxl", lying("a.xml", XML.encode()), melody.read, "would unpack"),
    "tokens without end": ("test_tokens.npy", npy(f"({HUGE},)", "<i4"), tokens, "the shape"),
    "laughs": ("a.xml", declaring(ENTITIES, "e11").encode(), melody.read, "entity"),
    "an entity that names a file": ("a.xml", declaring(NAMING, "e").replace("UTF-8", "UTF-16").encode("utf-16"),
                                    melody.read, "entity"),
    "deep elements": ("a.xml", b"<a>" * 100_000, melody.read, "nested"),
    "a note of years": ("a.mid", midi(NOTE, LATE, division=1), melody.read, "quarter notes"),
    "frames without end": ("a.mid", midi(NOTE, LATE, division=512), lambda path: pieces.read(path, 1 / 64), "frames"),
    "a message without end": ("a.mid", midi(b"\0\xff\1\xff\xff\xff\x7f"), melody.read, "cannot be read as MIDI"),
    "a matrix of MATLAB that unpacks": ("a.mat", b"", lambda path: pieces.read(path, 1.0), "cannot be read"),
    "deep brackets": ("vocabulary.json", b"[" * 200_000, Vocabulary.load, "nested"),
    "a pattern that takes years": ("vocabulary.json", b"", Vocabulary.load, "token_pattern"),
    "laughs in front matter": ("a.md", b"", recipes.read, "has no title"),
}  # fmt: skip


def content_of(name: str, content: bytes, folder: Path) -> bytes:
    if name.startswith("a matrix"):
        import zlib

        packed = zlib.compress(bytes(400 << 20), 9)
        return bytes(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed
    if name.startswith("a pattern"):
        Vocabulary.empty("word", True).save(folder / "a")
        return json.dumps(json.loads((folder / "a").read_text("utf-8")) | {"token_pattern": "(a+)+$"}).encode()
    if name.startswith("laughs in"):
        lines = ["a0: &a0 [ha, ha]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)), "title: *a11"]
        return ("---\n" + "\n".join(lines) + "\n---\n# Directions\n- a\n").encode()
    return content


@pytest.mark.parametrize("name", [name for name in BOMBS if not name.startswith("laughs in")])
def test_bombs_are_refused_before_memory_is_taken(name: str, tmp_path: Path) -> None:
    file, content, read, words = BOMBS[name]
    path = tmp_path / file
    path.write_bytes(content_of(name, content, tmp_path))
    if read is pieces.read_file:
        read = lambda path: pieces.read_file(path, 1.0)  # noqa: E731
    with pytest.raises(UsageError):  # once, so that what is imported does not count
        read(path)
    tracemalloc.start()
    try:
        refused(lambda: read(path), words, file)
        # What is unpacked up to the limit may be as large as the limit.
        assert tracemalloc.get_traced_memory()[1] < (MUCH * 6 if "unpacks" in name else MUCH)
    finally:
        tracemalloc.stop()


def test_a_title_is_a_word_and_no_list(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(content_of("laughs in front matter", b"", tmp_path))
    assert recipes.read(tmp_path / "a.md")[0]["a.md"].title == ""


def test_front_matter_with_a_day_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("---\ntitle: 2024-99-99\n---\n# Steps\n- a\n", "utf-8")
    refused(lambda: recipes.read(tmp_path / "a.md"), "a.md", "front matter", "quotes")


def test_what_is_as_large_as_it_says_is_taken(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((50_000, 88), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        check_archive(archive, (tmp_path / "a.npz").stat().st_size)
        check_npy(archive.open("x.npy"), archive.getinfo("x.npy").file_size)
    check_xml(XML.encode())
    check_xml(CONTAINER.encode("utf-16") if "encoding" not in CONTAINER else CONTAINER.encode())
    assert json_of("[[1]]") == [[1]]


def test_names_that_lead_out_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    (tmp_path / "in" / "own").symlink_to(tmp_path / "in" / "a")
    good, long = ["a", "b/c", "own", "é" * 127], "é" * 128
    found = {name: inside(tmp_path / "in", name) for name in (*good, "../a", "/a", "b/../../a", "link", "link/a", "\0", long)}
    assert [name for name, is_in in found.items() if is_in] == good
