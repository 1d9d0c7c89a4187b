"""The checkpoints of a training: the last one, and the one before it until the next is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from seqapp.checksums import checksums
from seqapp.config import read_json
from seqapp.errors import UsageError, say
from seqapp.run import remove, replacing, write_json

SUMS = "checksums.json"


@dataclass(frozen=True)
class Checkpoints:
    """Folders with numbers that rise, in a folder: each is there with all its files and their checksums, or not at all."""

    folder: Path

    @property
    def numbers(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdigit())

    @contextmanager
    def next(self) -> Iterator[Path]:
        """An empty folder to write a checkpoint into; once that is whole, all but the one before it are removed."""
        before = self.numbers
        with replacing(self._path((before or [0])[-1] + 1)) as temporary:
            temporary.mkdir()
            yield temporary
            write_json(temporary / SUMS, checksums(temporary))
        for number in before[:-1]:
            remove(self._path(number))

    def last(self) -> Path:
        """The last one that is whole; looks at all, and says which are damaged.

        Raises:
            UsageError: there is none.
        """
        whole = []
        for path in map(self._path, self.numbers):
            if _is_whole(path):
                whole.append(path)
            else:
                say(f"{path} is damaged, it is not what its {SUMS} says: left out")
        if not whole:
            raise UsageError(f"{self.folder} holds no checkpoint that is whole: start again with --overwrite.")
        return whole[-1]

    def remove(self) -> None:
        """At once, for whoever looks whether there is anything to resume; and what such a removal left that was killed."""
        old = self.folder.with_name(f".old-{self.folder.name}")
        remove(old)
        if self.folder.exists():
            self.folder.rename(old)
            remove(old)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"


def _is_whole(path: Path) -> bool:
    with suppress(UsageError, OSError):
        return checksums(path, [file for file in path.rglob("*") if file.name != SUMS]) == read_json(path / SUMS)
    return False
