"""Texts with their translations, from files: lines of both with a tab between, or two files with lines that belong together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from seqapp.corpus import read_text
from seqapp.errors import UsageError
from seqapp.labelled import PARTS, Example

Suffixes = tuple[str | None, str | None]  # of aligned files: the language of the source and of the target


def read(path: Path, languages: Suffixes = (None, None)) -> dict[str, list[Example]]:
    """The pairs of a file, under the name "all"; of a folder, those of its parts train, validation and test, by these names.

    A part is one file `.tsv`, source TAB target, or with `languages` two aligned files whose suffixes these are; outside of a
    folder `path` is then what both names begin with: `talk` for `talk.de` and `talk.en`.

    Raises:
        UsageError: something cannot be read: which file, which line, and what is wrong with it.
    """
    if path.is_dir():
        found = {part: pairs for part in PARTS if (pairs := _part(path / part, languages)) is not None}
        if not {"train", "test"} <= found.keys():
            there = ", ".join(sorted(file.name for file in path.iterdir())[:6]) or "nothing"
            raise UsageError(f"The folder {path} must hold {_wanted(languages)} for train and for test. There is: {there}")
        return found
    if path.is_file():
        return {"all": list(pairs_of(read_text(path), path.name))}
    pairs = _part(path, languages)
    if pairs is None:
        raise UsageError(f"There is no {path}: give {_wanted(languages)}, or a folder with train and test.")
    return {"all": pairs}


def _part(path: Path, languages: Suffixes) -> list[Example] | None:
    """The pairs of the files whose names begin with `path`, if they are there."""
    if None not in languages:
        files = [Path(f"{path}.{language}") for language in languages]
        there = [file for file in files if file.is_file()]
        if there:
            if len(there) < 2:
                (missing,) = set(files) - set(there)
                raise UsageError(f"There is {there[0]} and no {missing}: give both, each line the translation of the other's.")
            return _aligned(*files)
    table = Path(f"{path}.tsv")
    return list(pairs_of(read_text(table), table.name)) if table.is_file() else None


def _wanted(languages: Suffixes) -> str:
    if None in languages:
        return "a .tsv of source TAB target (or two aligned files, named by --source-language and --target-language)"
    return f"two aligned files .{languages[0]} and .{languages[1]}, or a .tsv of source TAB target,"


def _aligned(*files: Path) -> list[Example]:
    sources, targets = ([line.strip() for line in read_text(file).rstrip("\n").split("\n")] for file in files)
    if len(sources) != len(targets):
        counts = ", ".join(f"{file.name} {len(lines):,}" for file, lines in zip(files, (sources, targets), strict=True))
        raise UsageError(
            "Aligned files must have as many lines as each other, each the translation of the other's: find where they part. "
            f"Received: {counts}"
        )
    pairs = []
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        for file, text in zip(files, (source, target), strict=True):
            if not text:
                raise UsageError(f"{file.name}, line {number} is empty: fill it in, or leave the line out of both files.")
        pairs.append(Example(source, target, f"{files[0].name}, line {number}"))
    return pairs


def pairs_of(text: str, name: str, targets: bool = True) -> Iterator[Example]:
    """The pairs in the text of a `.tsv`; a line without a tab has no target, where it need not have one.

    Raises:
        UsageError: a line has other columns, or an empty one.
    """
    for number, line in enumerate(text.split("\n"), 1):
        place, columns = f"{name}, line {number}", [column.strip() for column in line.split("\t")]
        if not line.strip():
            continue
        if len(columns) > 2:
            raise UsageError(f"{place} has {len(columns)} columns: expected a source, a tab and a target.")
        if targets and len(columns) < 2:
            raise UsageError(
                f"{place} has no tab: expected a source, a tab and a target; of two aligned files, give what both names begin "
                "with, and --source-language and --target-language."
            )
        if not all(columns):
            raise UsageError(f"{place} has an empty {'target' if columns[0] else 'source'}: fill it in, or leave the line out.")
        yield Example(columns[0], columns[1] if len(columns) == 2 else None, place)
