"""Files of sequences with labels: what is read of them, what is refused, and how they are split."""

from __future__ import annotations

import gc
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqapp import labelled
from seqapp.errors import UsageError
from seqapp.labelled import PARTS, Example, read, read_file, series_of, split, texts_of
from tests.conftest import refused

Write = Callable[[str, bytes], Path]
X, Y = np.arange(6.0).reshape(2, 3), np.array([0, 1])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def arrays(tmp_path: Path) -> Callable[..., Path]:
    def save(**arrays: Any) -> Path:
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return save


def rows(examples: list[Example]) -> list[tuple[Any, Any]]:
    """Labels and sequences, series of one feature as a list of numbers."""
    return [(e.label, e.sequence if isinstance(e.sequence, str) else e.sequence.squeeze(-1).tolist()) for e in examples]


@pytest.mark.parametrize("content", [b"yes\tA text.\n\nno\tAnother.", b"\xef\xbb\xbfyes\tA text.\r\n \r\n no \tAnother.\r\n"])
def test_texts(content: bytes, write: Write) -> None:
    """With a byte order mark, with the line ends of Windows, and with empty lines."""
    examples = read_file(write("data.tsv", content))
    assert rows(examples) == [("yes", "A text."), ("no", "Another.")]
    assert [example.place for example in examples] == ["data.tsv, line 1", "data.tsv, line 3"]


def test_a_text_keeps_its_spaces_and_quotes() -> None:
    assert rows(list(texts_of('a\t  "b, c \n', "x"))) == [("a", '  "b, c ')]


def test_a_text_without_a_tab_has_no_label() -> None:
    assert rows(list(texts_of("only a text\nyes\tboth", "x"))) == [(None, "only a text"), ("yes", "both")]


@pytest.mark.parametrize(
    "content",
    [b"a,1,2.5\n\nb,-3\n,4e2,5", b"\xef\xbb\xbflabel,v1,v2\r\na, 1 ,2.5\r\n b ,-3\r\n,4e2,5\r\n", b'"a","1",2.5\nb,-3\n,400,5'],
)
def test_series(content: bytes, write: Write) -> None:
    """Of their own lengths, under a header or none; one without a label."""
    examples = read_file(write("data.csv", content))
    assert rows(examples) == [("a", [1.0, 2.5]), ("b", [-3.0]), (None, [400.0, 5.0])]
    assert [example.sequence.shape for example in examples if not isinstance(example.sequence, str)] == [(2, 1), (1, 1), (2, 1)]
    assert {example.sequence.dtype.name for example in examples if not isinstance(example.sequence, str)} == {"float32"}


def test_a_header_is_in_the_first_row_alone() -> None:
    assert rows(list(series_of("Label,1\nlabel,2", "x"))) == [("label", [2.0])]


def test_rows_are_counted_as_an_editor_does(write: Write) -> None:
    refused(lambda: read_file(write("data.csv", b"label,v\n\na,1\nb,1,two\n")), "data.csv, row 4, column 3", "'two'")


def test_arrays(arrays: Callable[..., Path]) -> None:
    examples = read_file(arrays(x=X, y=np.array(["no", "yes"])))
    assert rows(examples) == [("no", [0.0, 1.0, 2.0]), ("yes", [3.0, 4.0, 5.0])]
    assert [example.place for example in examples] == ["data.npz, x[0]", "data.npz, x[1]"]


def test_arrays_of_several_features_with_their_lengths(arrays: Callable[..., Path]) -> None:
    x = np.arange(12, dtype=np.int16).reshape(2, 3, 2)
    one, other = read_file(arrays(x=x, y=np.array([True, False]), lengths=np.array([3, 1], np.uint8)))
    assert (one.label, other.label) == ("True", "False")
    np.testing.assert_array_equal(one.sequence, x[0])
    np.testing.assert_array_equal(other.sequence, x[1, :1])
    assert one.sequence.dtype == np.float32


def test_arrays_with_a_label_for_each_timestep(arrays: Callable[..., Path]) -> None:
    examples = read_file(arrays(x=X, y=np.array([[1, 0, 1], [2, 2, 9]]), lengths=np.array([3, 2])))
    assert rows(examples) == [(("1", "0", "1"), [0.0, 1.0, 2.0]), (("2", "2"), [3.0, 4.0])]


def test_arrays_without_labels(arrays: Callable[..., Path]) -> None:
    assert rows(read_file(arrays(x=X))) == [(None, [0.0, 1.0, 2.0]), (None, [3.0, 4.0, 5.0])]


def test_padding_may_hold_anything(arrays: Callable[..., Path]) -> None:
    x = np.where([[False, False, False], [False, True, True]], np.nan, X)
    assert rows(read_file(arrays(x=x, y=Y, lengths=np.array([3, 1])))) == [("0", [0.0, 1.0, 2.0]), ("1", [3.0])]


def test_a_folder(write: Write, tmp_path: Path) -> None:
    for name in ("train", "test", "other"):
        write(f"data/{name}.tsv", f"a\tof {name}".encode())
    write("data/README.md", b"about")
    parts = read(tmp_path / "data")
    assert {name: rows(found) for name, found in parts.items()} == {"train": [("a", "of train")], "test": [("a", "of test")]}
    write("data/validation.tsv", b"b\tmore")
    assert set(read(tmp_path / "data")) == set(PARTS)


def test_a_file_is_all_of_it(write: Write) -> None:
    assert set(read(write("data.tsv", b"a\tb"))) == {"all"}


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("data.tsv", b"a\tb\na\tb\tc\n", ("data.tsv, line 2", "3 columns", "expected a label, a tab and a text")),
        ("data.tsv", b"a\tb\na\t \n", ("data.tsv, line 2", "empty text", "leave it out")),
        ("data.tsv", b"a\tb\n \tc\n", ("data.tsv, line 2", "empty label", "leave it out")),
        ("data.csv", b"a,1\nb\n", ("data.csv, row 2", "1 column", "the numbers of a series")),
        ("data.csv", b"a,1\nb,1,\n", ("data.csv, row 2, column 3", "a finite number", "Received: ''")),
        ("data.csv", b"a,1\nb,one,2\n", ("data.csv, row 2, column 2", "a finite number", "Received: 'one'")),
        ("data.csv", b"a,1,nan\n", ("data.csv, row 1, column 3", "Received: 'nan'")),
        ("data.csv", b"a,-inf\n", ("data.csv, row 1, column 2", "Received: '-inf'")),
        ("data.csv", b"label,v1\n", ("data.csv holds no example",)),
        ("data.tsv", b"", ("data.tsv is empty",)),
        ("data.csv", b" \n\n", ("data.csv is empty",)),
        ("data.tsv", b"a\tb\0c", ("data.tsv is a binary file",)),
        ("data.csv", b"\x89PNG\r\n\x1a\n\0\0", ("data.csv is a binary file",)),
        ("data.tsv", "a\tcafé".encode("latin-1"), ("data.tsv is not UTF-8", "iconv")),
        ("data.txt", b"a\tb", ("data.txt should be .tsv, .csv, .ts, .npz", "label TAB text")),
        ("data", b"a\tb", ("data should be .tsv, .csv, .ts, .npz",)),
    ],
)
def test_files_that_are_refused(name: str, content: bytes, parts: tuple[str, ...], write: Write) -> None:
    path = write(name, content)
    refused(lambda: read(path), *parts)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"y": Y}, "must hold numbers x (N, T) or (N, T, F). Received: y int64 (2,)"),
        ({"x": X[0], "y": Y}, "Received: x float64 (3,), y int64 (2,)"),
        ({"x": X[None, None], "y": Y}, "Received: x float64 (1, 1, 2, 3)"),
        ({"x": X[:, :0], "y": Y}, "Received: x float64 (2, 0)"),
        ({"x": X[:0], "y": Y[:0]}, "Received: x float64 (0, 3)"),
        ({"x": X.astype(str), "y": Y}, "must hold numbers x"),
        ({"x": X * 1j, "y": Y}, "must hold numbers x"),
        (
            {"x": X, "y": Y[:1]},
            "must hold labels y (N,) or (N, T), whole numbers or words. Received: x float64 (2, 3), y int64",
        ),
        ({"x": X, "y": X[:, :2].astype(int)}, "must hold labels y"),
        ({"x": X, "y": Y + 0.5}, "must hold labels y"),
        ({"x": X, "y": Y.astype(object)}, "cannot be read as .npz (Object arrays"),
        ({"x": X.astype(object), "y": Y}, "cannot be read as .npz (Object arrays"),
        ({"x": X, "y": np.array([97, 0x110000], "<u4").view("<U1")}, "cannot be read as .npz (it has words of what are no"),
        ({"x": X, "y": np.array([97, 0x110000], ">u4").view(">U1")}, "cannot be read as .npz (it has words of what are no"),
        ({"x": X, "y": np.array([97, 0xD800], "u4").view("U1")}, "x[1] has an empty label, or one that is no text"),
        ({"x": X, "y": Y, "lengths": np.array([3, 4])}, "lengths must be 2 whole numbers from 1 to 3"),
        ({"x": X, "y": Y, "lengths": np.array([0, 3])}, "lengths must be 2 whole numbers from 1 to 3"),
        ({"x": X, "y": Y, "lengths": np.array([3.0, 1.0])}, "lengths must be 2 whole numbers from 1 to 3"),
        ({"x": X, "y": Y, "lengths": np.array([3])}, "lengths must be 2 whole numbers from 1 to 3"),
        ({"x": np.where(X == 4, np.nan, X), "y": Y}, "x[1] holds a number that is not finite"),
        ({"x": np.where(X == 1, -np.inf, X), "y": Y}, "x[0] holds a number that is not finite"),
    ],
)
def test_arrays_that_are_refused(content: dict[str, Any], words: str, arrays: Callable[..., Path]) -> None:
    path = arrays(**content)
    refused(lambda: read(path), "data.npz", words)


@pytest.mark.parametrize("kept", [0, 1, 0.1, 0.5, 0.99])
def test_a_truncated_archive(kept: float, arrays: Callable[..., Path]) -> None:
    path = arrays(x=X, y=Y)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    refused(lambda: read_file(path), "data.npz cannot be read as .npz", "numpy.savez(path, x=..., y=...)")
    gc.collect()


def test_nothing_there(tmp_path: Path) -> None:
    refused(lambda: read(tmp_path / "none.tsv"), "There is no", "none.tsv", "a folder with train and test")
    refused(lambda: read(tmp_path), "must hold one file train and one test", ".tsv, .csv, .ts, .npz", "There is: nothing")


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_folder_with_one_part(name: str, write: Write, tmp_path: Path) -> None:
    write(f"data/{name}.csv", b"a,1")
    refused(lambda: read(tmp_path / "data"), "must hold one file train and one test", f"There is: {name}.csv")


def test_two_files_for_one_part(write: Write, tmp_path: Path) -> None:
    for name in ("train.csv", "train.tsv", "test.csv"):
        write(f"data/{name}", b"a,1" if name.endswith("csv") else b"a\tb")
    refused(
        lambda: read(tmp_path / "data"), "must hold one file train and one test", "There is: test.csv, train.csv, train.tsv"
    )


def test_parts_of_other_kinds(write: Write, tmp_path: Path) -> None:
    write("data/train.csv", b"a,1")
    write("data/test.tsv", b"a\tb")
    refused(
        lambda: read(tmp_path / "data"),
        "mixes kinds: test.tsv, line 1 is a text with a label, and train.csv, row 1 is a series of 1 numbers a timestep",
    )
    (tmp_path / "data" / "test.tsv").unlink()
    np.savez(tmp_path / "data" / "test.npz", x=X, y=np.zeros(X.shape[:2], int))
    refused(lambda: read(tmp_path / "data"), "mixes kinds: test.npz, x[0] is", "with a label for each timestep")


@pytest.mark.parametrize("value", [b"1e300", b"1_0", b'"1\n"', b"nan", b"-inf", b""])
def test_what_is_no_number(value: bytes, write: Write) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = write("data.csv", b"a,1," + value)
        refused(lambda: read_file(path), "data.csv, row 1, column 3 should be a finite number")


def test_a_cell_that_never_ends(write: Write) -> None:
    path = write("data.csv", b'a,"' + b"1" * 200_000)
    refused(lambda: read_file(path), "data.csv cannot be read as .csv (field larger")


def test_numbers_beyond_float32_and_empty_labels(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.savez(tmp_path / "x.npz", x=np.array([[1.0], [1e300]]), y=np.array(["a", "b"]))
        refused(lambda: read_file(tmp_path / "x.npz"), "x.npz, x[1] holds a number that is not finite in float32")
        np.savez(tmp_path / "x.npz", x=np.array([[1.0], [2.0]]), y=np.array(["a", ""]))
        refused(lambda: read_file(tmp_path / "x.npz"), "x.npz, x[1] has an empty label")


def test_a_damaged_part_of_a_folder_is_named(write: Write, tmp_path: Path) -> None:
    write("data/train.csv", b"a,1")
    write("data/test.csv", b"a,1\nb,x")
    refused(lambda: read(tmp_path / "data"), "test.csv, row 2, column 2")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\t\n\r,"\ufeff\0 1.-'), max_size=60)


@given(TEXTS, st.sampled_from([".tsv", ".csv"]))
@settings(max_examples=300)
def test_any_text_is_read_or_refused(text: str, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{suffix}"
        path.write_bytes(text.encode())
        try:
            examples = read_file(path)
        except UsageError as error:
            assert "data." in str(error)
            return
    assert examples
    for example in examples:
        assert example.label is None or (isinstance(example.label, str) and example.label.strip())
        if suffix == ".tsv":
            assert isinstance(example.sequence, str) and example.sequence.strip()
        else:
            assert isinstance(example.sequence, np.ndarray) and len(example.sequence) and np.isfinite(example.sequence).all()


@given(st.binary(max_size=60), st.sampled_from(list(labelled.READERS)))
@settings(max_examples=100)
def test_any_bytes_are_read_or_refused(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{suffix}"
        path.write_bytes(content)
        try:
            assert read_file(path)
        except UsageError as error:
            assert "data." in str(error)


def many(count: int = 400) -> list[Example]:
    """Each text twice, with different labels."""
    return [Example(f"text {i // 2}", "ab"[i % 2], f"line {i}") for i in range(count)]


def contents(examples: list[Example]) -> set[Any]:
    return {e.sequence if isinstance(e.sequence, str) else e.sequence.tobytes() for e in examples}


def test_every_example_is_in_one_part() -> None:
    examples = many()
    parts = split({"all": examples}, 0.1, 0.2, 0)
    assert list(parts) == list(PARTS)
    assert sorted(e.place for found in parts.values() for e in found) == sorted(e.place for e in examples)
    assert 20 < len(parts["validation"]) < 60 < len(parts["test"]) < 100
    for found in parts.values():
        assert [e.place for e in found] == [e.place for e in examples if e in found], "in their order"


@pytest.mark.parametrize("kind", ["texts", "series"])
def test_equal_sequences_stay_together(kind: str) -> None:
    examples = many()
    if kind == "series":
        examples = [Example(np.full((3, 1), i // 2, np.float32), "ab"[i % 2], str(i)) for i in range(400)]
    found = [contents(part) for part in split({"all": examples}, 0.1, 0.2, 0).values()]
    assert sum(map(len, found)) == 200 == len(set.union(*found))


def test_the_split_depends_on_nothing_but_the_sequence() -> None:
    """Another order, other labels and more examples move none."""
    before = split({"all": many(200)}, 0.1, 0.1, 0)
    more = [Example(e.sequence, "z", "elsewhere") for e in many(400)][::-1]
    after = split({"all": more}, 0.1, 0.1, 0)
    for name in PARTS:
        assert contents(before[name]) == contents(after[name]) & contents(many(200))


# Whose first eight bytes of SHA-256 begin a number below 0.2, and below 0.4, of 2**64.
BY_HAND = {"validation": ["0", "3", "4", "10", "11", "13", "17", "18"], "test": ["8", "9"]}


def test_the_split_stays_the_same_in_later_versions() -> None:
    parts = split({"all": [Example(str(i), "a", "") for i in range(20)]}, 0.2, 0.2, 0)
    assert {name: [e.sequence for e in found] for name, found in parts.items() if name != "train"} == BY_HAND


def test_the_folds_take_turns_as_the_test_part() -> None:
    tests = [split({"all": many()}, 0.1, 0.1, fold) for fold in range(10)]
    found = [place for parts in tests for place in (e.place for e in parts["test"])]
    assert sorted(found) == sorted(e.place for e in many())
    for parts in tests:
        assert sum(map(len, parts.values())) == 400
    # What follows the test part around the circle is the validation: the next fold's test.
    for one, following in zip(tests, [*tests[1:], tests[0]], strict=True):
        assert contents(one["validation"]) == contents(following["test"])
    assert contents(split({"all": many()}, 0.1, 0.1, 10)["test"]) == contents(tests[0]["test"])


def test_given_parts_are_kept() -> None:
    parts = {"train": many()[:5], "validation": many()[5:7], "test": many()[7:9]}
    assert split(parts, 0.5, 0.4, 3) == parts


def test_validation_is_taken_from_the_training_part() -> None:
    given = {"train": many(), "test": many()[:3]}
    parts = split(given, 0.25, 0.5, 0)
    assert parts["test"] == given["test"]
    assert sorted(e.place for name in ("train", "validation") for e in parts[name]) == sorted(e.place for e in many())
    assert 60 < len(parts["validation"]) < 140
    assert not contents(parts["train"]) & contents(parts["validation"])


def test_no_test_part_is_wanted() -> None:
    assert set(split({"all": many()}, 0.1, 0.0, 0)) == {"train", "validation"}


@pytest.mark.parametrize(("validation", "test", "name"), [(1e-9, 0.1, "validation"), (0.5, 1e-9, "test")])
def test_an_empty_part_is_refused(validation: float, test: float, name: str) -> None:
    refused(
        lambda: split({"all": many(20)}, validation, test, 0),
        f"Nothing is left for the {name} part",
        f"give more examples, or change --{name}-fraction",
    )
