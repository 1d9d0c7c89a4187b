"""Checksums of files, by which damage is found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

CHUNK = 1 << 20  # bytes


def checksum(path: Path) -> str:
    """SHA-256 of a file, of which no more than a part is in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def checksums(folder: Path, paths: Iterable[Path] | None = None) -> dict[str, str]:
    """Those of some files in a folder, or of all, by their names in it."""
    found = sorted(path for path in (folder.rglob("*") if paths is None else paths) if path.is_file())
    return {path.relative_to(folder).as_posix(): checksum(path) for path in found}


def damaged(folder: Path, known: Mapping[str, str]) -> list[str]:
    """The names of files that are not there, or are not what they were."""
    return [name for name, value in known.items() if not (folder / name).is_file() or checksum(folder / name) != value]
