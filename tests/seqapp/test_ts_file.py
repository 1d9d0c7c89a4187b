"""The `.ts` format: what is read of it, and what is refused, with the line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqapp.labelled import Example, read
from tests.conftest import refused

HEAD = "# about it\n@problemName Steps\n@timeStamps false\n@univariate false\n@classLabel true up down\n@data\n"


def examples(path: Path, text: str) -> list[Example]:
    (path / "a.ts").write_text(text)
    return read(path / "a.ts")["all"]


def test_dimensions_values_and_classes(tmp_path: Path) -> None:
    one, two = examples(tmp_path, HEAD + "1,2,3.5:4,5,-6e-1:up\n\n# between\n7,8:9,10:down\n")
    np.testing.assert_array_equal(one.sequence, np.array([[1, 4], [2, 5], [3.5, -0.6]], np.float32))
    np.testing.assert_array_equal(two.sequence, [[7, 9], [8, 10]])
    assert (one.label, two.label) == ("up", "down")
    assert (one.place, two.place) == ("a.ts, line 7", "a.ts, line 10")
    assert one.sequence.dtype == np.float32


def test_one_dimension_and_classes_that_are_not_listed(tmp_path: Path) -> None:
    (found,) = examples(tmp_path, "@classLabel true\r\n@DATA\r\n1,2:7\r\n")
    np.testing.assert_array_equal(found.sequence, [[1], [2]])
    assert found.label == "7"


@pytest.mark.parametrize("head", ["@classLabel false\n@data\n", "@data\n"])
def test_series_without_classes(head: str, tmp_path: Path) -> None:
    (found,) = examples(tmp_path, head + "1,2:3,4\n")
    np.testing.assert_array_equal(found.sequence, [[1, 3], [2, 4]])
    assert found.label is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1,2:up\n", ("a.ts has no line @data",)),
        (HEAD + "1,2:3:up\n", ("line 7", "2 dimensions of 1, 2 values")),
        (HEAD + "1,2:up\n1,2:3,4:up\n", ("line 8", "2 dimensions of 2 values", "expected 1")),
        (HEAD + "1,?:up\n", ("line 7, dimension 1", "'?'")),
        (HEAD + "1,2:3,NaN:up\n", ("line 7, dimension 2", "NaN")),
        (HEAD + "1,2:left\n", ("line 7", "up, down", "left")),
        (HEAD + "1,2:\n", ("line 7", "a class behind a colon")),
        (HEAD + "up\n", ("line 7", "0 dimensions of no values")),
        (HEAD.replace("Stamps false", "Stamps true") + "(1,2):up\n", ("line 3", "write the values alone")),
        ("@targetLabel true\n@data\n1,2:0.5\n", ("line 1", "--task forecast")),
        (HEAD, ("holds no example",)),
    ],
)
def test_refused(text: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    refused(lambda: examples(tmp_path, text), "a.ts", *parts)
