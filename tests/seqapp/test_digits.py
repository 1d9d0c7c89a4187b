"""The task `digits`: images as sequences of rows or pixels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seqapp.evaluate
import seqapp.predict
import seqapp.train
from seqapp import labelled
from seqapp.config import build
from seqapp.digits import Digits, as_sequence, digits
from seqapp.labelled import Example
from seqapp.run import Run
from tests.conftest import one_line, refused

IMAGE = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_an_image_by_rows_and_by_pixels() -> None:
    example = Example(IMAGE, "7", "x[0]")
    assert as_sequence(example, "row") is example
    pixels = as_sequence(example, "pixel")
    np.testing.assert_array_equal(pixels.sequence, [[0], [1], [2], [3], [4], [5]])
    assert (pixels.label, pixels.place) == ("7", "x[0]")


@pytest.mark.parametrize(
    ("example", "kind"),
    [
        (Example("a text", "7", "a.tsv, line 3"), "a.tsv, line 3 is a text with a label"),
        (Example(IMAGE.reshape(6, 1), "7", "x[3]"), "x[3] is a series of 1 numbers a timestep with a label"),
        (Example(IMAGE[:1], "7", "x[3]"), "x[3] is a series of 3 numbers"),
        (Example(IMAGE, ("7", "8"), "x[3]"), "x[3] is a series of 3 numbers a timestep with a label for each timestep"),
    ],
)
def test_what_is_no_image(example: Example, kind: str) -> None:
    refused(lambda: as_sequence(example, "row"), kind, "give images, arrays x (N, H, W) and y (N,) in a .npz file")


def test_the_default_digits() -> None:
    """Their number, and how the rule divides them: all of it is fixed."""
    found = digits()
    assert len(found) == 1797
    assert Counter(example.label for example in found) == {
        "0": 178, "1": 182, "2": 177, "3": 183, "4": 181, "5": 182, "6": 181, "7": 179, "8": 174, "9": 180,
    }  # fmt: skip
    images = np.stack([np.asarray(example.sequence) for example in found])
    assert (images.shape, images.dtype, images.min(), images.max()) == ((1797, 8, 8), np.float32, 0, 16)
    places = {}
    for by, shape in (("row", (8, 8)), ("pixel", (64, 1))):
        config = build({"task": "digits", "by": by})
        parts = labelled.split(Digits().examples(config, None), 0.1, 0.1, 0)
        assert {np.shape(example.sequence) for some in parts.values() for example in some} == {shape}
        places[by] = {name: [example.place for example in some] for name, some in parts.items()}
    assert places["row"] == places["pixel"]
    assert {name: len(some) for name, some in places["row"].items()} == {
        "train": 1438, "validation": 181, "test": 178,
    }  # fmt: skip


def images(path: Path, count: int = 160) -> Path:
    """Images (4, 5) of one line each: is it a row, or a column?"""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 0.3, (count, 4, 5)), np.arange(count) % 2
    for image, upright in zip(x, y, strict=True):
        if upright:
            image[:, rng.integers(5)] += 1
        else:
            image[rng.integers(4)] += 1
    np.savez(path, x=x, y=np.where(y, "upright", "level"))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("images") / "lines.npz")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("digits") / "run"
    small = ["--units", "12", "--epochs", "8", "--batch-size", "8", "--learning-rate", "0.03", "--dropout", "0"]
    parts = ["--validation-fraction", "0.2", "--test-fraction", "0.2"]
    flags = ["--task", "digits", "--by", "pixel", "--data", str(data), "--run", str(path)]
    assert seqapp.train.main([*flags, *small, *parts]) == 0
    return Run.open(path)


def test_images_of_ones_own_are_told_apart_pixel_by_pixel(run: Run, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.load_model().mean and len(run.load_model().mean) == 1
    assert run.metrics["test"]["accuracy"]["value"] > 0.8
    assert set(run.metrics["baselines"]) == {"majority", "linear"}
    assert seqapp.predict.main([str(run.path), "--input", str(data)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()][1:]
    assert [row[0] for row in rows] == [f"lines.npz, x[{i}]" for i in range(160)]
    assert np.mean([row[1] == row[2] for row in rows]) > 0.8


def test_other_images_are_measured_alike(run: Run, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seqapp.evaluate.main([str(run.path), "--data", str(data)]) == 0
    assert capsys.readouterr().out.startswith("data, 160 labels of 2 classes")


def test_what_cannot_be_read(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    for module in (seqapp.predict, seqapp.evaluate):
        monkeypatch.setattr(module, "need_keras", lambda _: pytest.fail("TensorFlow is not needed for that"))
    assert seqapp.predict.main([str(run.path)]) == 2
    one_line(capsys, "Images come from a .npz file: name one with --input")
    np.savez(tmp_path / "flat.npz", x=np.zeros((3, 20)), y=[0, 1, 0])
    assert seqapp.predict.main([str(run.path), "--input", str(tmp_path / "flat.npz")]) == 2
    one_line(capsys, "flat.npz, x[0] is a series of 1 numbers a timestep", "give images")
    assert seqapp.evaluate.main([str(run.path), "--data", str(tmp_path / "flat.npz")]) == 2
    one_line(capsys, "flat.npz, x[0]", "give images")
    (tmp_path / "text.tsv").write_text("a\tb\n")
    config = build({"task": "digits", "data": str(tmp_path / "text.tsv")})
    refused(lambda: Digits().check_data(config), "text.tsv, line 1 is a text with a label", "give images")
