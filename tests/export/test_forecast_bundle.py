"""From a forecaster's run to a bundle: its files, its manifest, and the bundle at work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import export.__main__
from export import benchmark
from export.runtime import ENGINES, load
from seqapp import forecast
from seqapp.forecast import forecasts, outlook
from seqapp.framing import LEVELS
from seqapp.run import Run
from seqapp.series import Series, read
from seqapp.step import compiled
from tests.conftest import refused

Forecasted = Callable[..., Run]
FLAGS = ["--quantize", "dynamic", "int8", "float16", "--profile", "micro"]


@pytest.fixture(scope="module")
def run(forecasted: Forecasted) -> Run:
    return forecasted("--target", "sold", "--epochs", "20")


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forecaster") / "bundle"
    assert export.__main__.main([str(run.path), "--out", str(path), *FLAGS]) == 0
    return path


@pytest.fixture(scope="module")
def sold(series_file: Path) -> Series:
    return read(series_file, "sold")[0]


def test_the_manifest(bundle: Path, run: Run) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    assert content["task"] == "forecast"
    assert content["signatures"]["step"]["outputs"][0] == {"name": "quantiles", "dtype": "float32", "shape": ["batch", 25]}
    framing = forecast.load_framing(run.path)
    assert content["signatures"]["sequence"]["inputs"][0]["shape"] == ["batch", "time", framing.width]
    assert content["forecast"]["levels"] == list(LEVELS)
    assert (content["forecast"]["horizon"], content["forecast"]["season"], content["forecast"]["names"]) == (5, 7, ["asked"])
    assert {file["precision"] for file in content["files"]} == {"float32", "dynamic", "int8", "float16"}
    text = (bundle / "README.md").read_text()
    assert ".forecast(values, dates, beside=columns)" in text
    assert "and the columns asked" in text


@pytest.mark.parametrize("engine", ENGINES)
def test_the_forecast_is_that_of_keras(engine: str, bundle: Path, run: Run, sold: Series) -> None:
    framing = forecast.load_framing(run.path)
    about = outlook(sold, framing, len(sold), np.array([len(sold)]))
    (wanted,) = forecasts(compiled(run.load_model()), framing, [about])
    found = load(bundle, engine).forecast(sold.values, sold.dates, sold.beside)
    assert found.shape == (5, len(LEVELS))
    np.testing.assert_allclose(found, wanted[0], rtol=1e-4, equal_nan=False)


@pytest.mark.parametrize(
    ("engine", "precision"), [("litert", "dynamic"), ("litert", "float16"), ("litert", "int8"), ("onnx", "int8")]
)
def test_quantized_files_say_nearly_the_same(engine: str, precision: str, bundle: Path, sold: Series) -> None:
    exact, near = (
        load(bundle, engine, which).forecast(sold.values, sold.dates, sold.beside) for which in ("float32", precision)
    )
    assert 0 < np.abs(near - exact).max() < 0.3 * sold.values.std()


def test_one_value_at_a_time_is_the_whole(bundle: Path, run: Run, sold: Series) -> None:
    model, framing = load(bundle), forecast.load_framing(run.path)
    inputs, scale = framing.inputs(sold.values, sold.dates, sold.beside)
    states = model.initial_states(1)
    for row in inputs:
        outputs, states = model.step(row[None], states)
    streamed = framing.forecast(outputs, sold.values, scale, np.array([len(sold) - 1]))
    np.testing.assert_allclose(streamed[0], model.forecast(sold.values, sold.dates, sold.beside), rtol=1e-4, equal_nan=False)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"values": np.ones(5)}, ("at least 9 numbers", "(5,)")),
        ({"values": np.full(400, np.nan)}, ("finite",)),
        ({"dates": None}, ("dates", "None")),
        ({"beside": None}, ("beside", "(400, 1)")),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], parts: tuple[str, ...], bundle: Path, sold: Series) -> None:
    given = {"values": sold.values, "dates": sold.dates, "beside": sold.beside, **changes}
    refused(lambda: load(bundle).forecast(**given), *parts)


@pytest.mark.parametrize(
    "change",
    [{"horizon": 4}, {"season": 0}, {"levels": [0.5]}, {"names": []}, {"dated": False}, {"more": 1}, {"horizon": None}],
)
def test_a_damaged_manifest_is_one_line(change: dict[str, Any], bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(bundle, path)
    content = json.loads((path / "manifest.json").read_text())
    content["forecast"].update(change)
    (path / "manifest.json").write_text(json.dumps(content))
    refused(lambda: load(path), "manifest.json is damaged")


def test_a_model_that_is_no_forecaster_says_so(bundle: Path, tmp_path: Path, sold: Series) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(bundle, path)
    content = json.loads((path / "manifest.json").read_text())
    del content["forecast"]
    (path / "manifest.json").write_text(json.dumps(content))
    refused(lambda: load(path).forecast(sold.values), "no forecaster")
    refused(lambda: load(bundle).session(), "no vocabulary", "features")


def test_the_benchmark(bundle: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "_memory", lambda *_: 1.0)
    monkeypatch.setattr(benchmark, "LONG", 150)
    for name in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
        monkeypatch.setattr(tf.config.threading, name, lambda count: None)  # TensorFlow has begun, and would refuse
    assert benchmark.main([str(bundle), "--repeats", "1", "--run", str(run.path)]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("model.dynamic.tflite", "model.int8.onnx", benchmark.KERAS))
