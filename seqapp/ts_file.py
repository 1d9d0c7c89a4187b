"""Series with classes in the `.ts` format of the UEA and UCR archives (Bagnall et al. 2018, arXiv:1811.00075, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from seqapp.errors import UsageError

Row = tuple[np.ndarray, str | None, str]


@dataclass(frozen=True)
class Header:
    """What stands before the data; `classes` are None where the series have none, and empty where they are not listed."""

    classes: tuple[str, ...] | None
    first: int  # line of data, from 0


def rows(text: str, name: str, number: Callable[[str, str], float]) -> Iterator[Row]:
    """The series (T, F) of a file, their classes, and where they stand; `number` reads a cell at a place or refuses it.

    Dimensions stand between colons, values between commas, and the class behind the last colon.

    Raises:
        UsageError: a line is not as the format has it, or holds what a model here cannot take: which line, and why.
    """
    lines = text.split("\n")
    header = _header(lines, name)
    width: int | None = None
    for count, line in enumerate(lines[header.first :], header.first + 1):
        if not line.strip() or line.startswith("#"):
            continue
        place, (*dimensions, label) = f"{name}, line {count}", line.strip().split(":")
        if header.classes is None:
            dimensions.append(label)
        elif not label.strip() or (header.classes and label.strip() not in header.classes):
            listed = ", ".join(header.classes) or "any name"
            raise UsageError(f"{place} should end in a class behind a colon, {listed}. Received: {label.strip()!r}")
        cells = [dimension.split(",") for dimension in dimensions]
        lengths = {len(some) for some in cells}
        if len(lengths) != 1 or width not in (None, len(cells)):
            raise UsageError(
                f"{place} has {len(cells)} dimensions of {', '.join(map(str, sorted(lengths))) or 'no'} values: expected "
                f"{width or 'some'} of one length."
            )
        width = len(cells)
        values = [[number(cell, f"{place}, dimension {d}") for cell in some] for d, some in enumerate(cells, 1)]
        yield np.array(values, np.float32).T, None if header.classes is None else label.strip(), place


def _header(lines: list[str], name: str) -> Header:
    classes: tuple[str, ...] | None = None
    for count, line in enumerate(lines, 1):
        key, *words = line.strip().split() or [""]
        match key.lower():
            case "@data":
                return Header(classes, count)
            case "@classlabel":
                classes = tuple(words[1:]) if words[:1] and words[0].lower() == "true" else None
            case "@timestamps" if words and words[0].lower() == "true":
                raise UsageError(f"{name}, line {count}: times beside the values are not read: write the values alone.")
            case "@targetlabel" if words and words[0].lower() == "true":
                raise UsageError(f"{name}, line {count}: the series have numbers to tell and no classes: use --task forecast.")
    raise UsageError(f"{name} has no line @data: expected the .ts format of the UEA and UCR archives.")
