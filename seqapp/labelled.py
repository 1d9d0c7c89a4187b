"""Sequences with labels, from files: texts, or series of numbers; one label for each sequence, or one for each timestep."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqapp import ts_file
from seqapp.arrays import read_npz
from seqapp.corpus import read_text
from seqapp.errors import UsageError

PARTS = ("train", "validation", "test")
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Example:
    """A text or a series of numbers (T, F), and what is said of it: one label, or one for each timestep, or nothing."""

    sequence: str | NDArray[np.float32]
    label: str | tuple[str, ...] | None
    place: str  # where it stands, for messages


def read(path: Path) -> dict[str, list[Example]]:
    """The examples of a file, under the name "all"; of a folder, those of its files train, validation and test, by these names.

    A file is `.tsv` (label TAB text), `.csv` (label, then the numbers of a series of its own length), `.ts` (series of the UEA
    and UCR archives) or `.npz` (`x` (N, T) or (N, T, F), `y` (N,) or (N, T), and `lengths` (N,) where the series differ in
    length).

    Raises:
        UsageError: something cannot be read: which file, which line, and what is wrong with it.
    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.stem in PARTS and file.suffix in READERS]
        stems = [file.stem for file in files]
        if not {"train", "test"} <= set(stems) or len(set(stems)) < len(stems):
            wanted = f"one file train and one test, {', '.join(READERS)}"
            raise UsageError(f"The folder {path} must hold {wanted}. There is: {_listed(path)}")
        parts = {file.stem: read_file(file) for file in files}
        # Within a file all are of one kind.
        one, *others = (examples[0] for examples in parts.values())
        for other in others:
            if kind_of(one) != kind_of(other):
                raise UsageError(
                    f"{path} mixes kinds: {one.place} is {kind_of(one)}, and {other.place} is {kind_of(other)}: "
                    "give all parts in one kind."
                )
        return parts
    if not path.exists():
        raise UsageError(f"There is no {path}: give a file {', '.join(READERS)}, or a folder with train and test.")
    return {"all": read_file(path)}


def read_file(path: Path) -> list[Example]:
    """The examples of one file.

    Raises:
        UsageError: as `read` does.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise UsageError(f"{path} should be {', '.join(READERS)}: label TAB text, label and numbers, or arrays x and y.")
    examples = list(reader(path))
    if not examples:
        raise UsageError(f"{path} holds no example.")
    return examples


def kind_of(example: Example) -> str:
    """What an example is, for messages."""
    labels = {type(None): "no label", str: "a label"}.get(type(example.label), "a label for each timestep")
    what = "a text" if isinstance(example.sequence, str) else f"a series of {example.sequence.shape[1]} numbers a timestep"
    return f"{what} with {labels}"


def _listed(path: Path) -> str:
    return ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"


def texts_of(text: str, name: str) -> Iterator[Example]:
    """The examples in the text of a `.tsv`; a line without a tab has no label."""
    for number, line in enumerate(text.split("\n"), 1):
        place, columns = f"{name}, line {number}", line.split("\t")
        if not line.strip():
            continue
        if len(columns) > 2:
            raise UsageError(f"{place} has {len(columns)} columns: expected a label, a tab and a text.")
        if not columns[-1].strip() or not columns[0].strip():
            raise UsageError(f"{place} has an empty {'text' if columns[0].strip() else 'label'}: fill it in, or leave it out.")
        yield Example(columns[-1], columns[0].strip() if len(columns) == 2 else None, place)


def series_of(text: str, name: str) -> Iterator[Example]:
    """The examples in the text of a `.csv`; a row whose first cell is empty has no label."""
    for number, row in enumerate(_rows(text, name), 1):
        place = f"{name}, row {number}"
        if not any(cell.strip() for cell in row) or (number == 1 and _is_header(row)):
            continue
        if len(row) < 2:
            raise UsageError(f"{place} has {len(row)} column: expected a label, then the numbers of a series.")
        values = [_number(cell, f"{place}, column {i}") for i, cell in enumerate(row[1:], 2)]
        yield Example(np.array(values, np.float32)[:, None], row[0].strip() or None, place)


def _rows(text: str, name: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(text.splitlines(keepends=True))
    except csv.Error as error:
        raise UsageError(f"{name} cannot be read as .csv ({error}): write each series in a row of its own.") from None


def _is_header(row: list[str]) -> bool:
    return row[0].strip().lower() == "label"


def _number(cell: str, place: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST or "_" in cell or "\n" in cell:  # Python reads more than a table should hold
        raise UsageError(f"{place} should be a finite number. Received: {cell.strip()!r}")
    return value


def _arrays(path: Path) -> Iterator[Example]:
    arrays = read_npz(path, "save it with numpy.savez(path, x=..., y=...).")
    x, y = _checked(path, arrays)
    lengths = arrays.get("lengths", np.full(len(x), x.shape[1]))
    if lengths.shape != (len(x),) or lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > x.shape[1]:
        raise UsageError(f"{path}: lengths must be {len(x)} whole numbers from 1 to {x.shape[1]}.")
    for number, (series, length) in enumerate(zip(x, lengths, strict=True)):
        place = f"{path.name}, x[{number}]"
        if not (np.abs(series[:length]) <= LARGEST).all():
            raise UsageError(f"{place} holds a number that is not finite in float32: leave the series out, or fill the gap.")
        label = None if y is None else _label(y[number], length)
        if label is not None and not all(_is_text(word) for word in np.atleast_1d(label)):
            raise UsageError(f"{place} has an empty label, or one that is no text: name it, or leave y out.")
        yield Example(series[:length].astype(np.float32), label, place)


def _checked(path: Path, arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    x, y = arrays.get("x"), arrays.get("y")
    if x is None or x.ndim not in (2, 3) or x.dtype.kind not in "fiu" or not x.size:
        raise UsageError(f"{path} must hold numbers x (N, T) or (N, T, F). Received: {_shapes(arrays)}")
    x = x if x.ndim == 3 else x[..., None]
    if y is not None and (y.shape not in (x.shape[:1], x.shape[:2]) or y.dtype.kind not in "iuUb"):
        raise UsageError(f"{path} must hold labels y (N,) or (N, T), whole numbers or words. Received: {_shapes(arrays)}")
    return x, y


def _shapes(arrays: dict[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items()) or "nothing"


def _label(value: Any, length: int) -> str | tuple[str, ...]:
    return str(value) if np.ndim(value) == 0 else tuple(map(str, value[:length]))


def _is_text(word: str) -> bool:
    try:
        return bool(word.encode())
    except UnicodeEncodeError:  # halves of characters, which no file can be written with
        return False


READERS: dict[str, Callable[[Path], Iterator[Example]]] = {
    ".tsv": lambda path: texts_of(read_text(path), path.name),
    ".csv": lambda path: series_of(read_text(path), path.name),
    ".ts": lambda path: (Example(*row) for row in ts_file.rows(read_text(path), path.name, _number)),
    ".npz": _arrays,
}


def split(parts: dict[str, list[Example]], validation: float, test: float, fold: int) -> dict[str, list[Example]]:
    """Train, validation and test: as given, or where the hash of each sequence puts it, so that equal ones stay together.

    `fold` turns the hash's circle by so many times the test's part of it: for cross-validation. Where a validation part is not
    given, it is taken from the training part.

    Raises:
        UsageError: a part would be empty.
    """
    if "all" in parts:
        found: dict[str, list[Example]] = {name: [] for name in PARTS}
        for example in parts["all"]:
            position = (_position(example) - fold * test) % 1.0
            found["test" if position < test else "validation" if position < test + validation else "train"].append(example)
    elif "validation" in parts:
        found = parts
    else:
        chosen = [_position(example) < validation for example in parts["train"]]
        found = {
            "train": [e for e, out in zip(parts["train"], chosen, strict=True) if not out],
            "validation": [e for e, out in zip(parts["train"], chosen, strict=True) if out],
            "test": parts["test"],
        }
    for name in PARTS:
        flags = "--validation-fraction and --test-fraction" if name == "train" else f"--{name}-fraction"
        if not found[name] and not (name == "test" and test == 0):
            raise UsageError(f"Nothing is left for the {name} part: give more examples, or change {flags}.")
    return {name: examples for name, examples in found.items() if examples}


def _position(example: Example) -> float:
    """Where the SHA-256 of a sequence puts it on a circle, from 0 to 1."""
    content = example.sequence.encode() if isinstance(example.sequence, str) else example.sequence.tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2**64
