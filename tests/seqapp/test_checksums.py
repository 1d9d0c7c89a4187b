"""Checksums of files, by which damage is found."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from seqapp import checksums as module
from seqapp.checksums import checksum, checksums, damaged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"two")
    return tmp_path


def test_a_file_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    (tmp_path / "x").write_bytes(b"0123456789")
    assert checksum(tmp_path / "x") == hashlib.sha256(b"0123456789").hexdigest()


def test_those_of_a_folder_go_by_the_names_in_it(folder: Path) -> None:
    assert set(checksums(folder)) == {"a", "b/c"}
    assert checksums(folder, [folder / "a", folder / "none"]) == {"a": hashlib.sha256(b"one").hexdigest()}


def test_what_is_damaged_or_missing(folder: Path) -> None:
    known = checksums(folder)
    assert damaged(folder, known) == []
    (folder / "a").write_bytes(b"onf")
    (folder / "new").touch()
    assert damaged(folder, known) == ["a"]
    (folder / "b" / "c").unlink()
    assert damaged(folder, known) == ["a", "b/c"]
