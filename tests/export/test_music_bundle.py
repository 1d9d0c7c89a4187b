"""From a run of music to a bundle, and the bundle at work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import export.__main__
from export.runtime import ENGINES, load
from export.spec import KEY_LOGITS
from seqapp.chain import Stepwise
from seqapp.pieces import told_before
from seqapp.roll_form import continued, foretold, load_rolls
from seqapp.run import Run
from seqapp.scores import KEYS
from seqapp.step import KerasStepper, compiled
from tests.conftest import tune

FLAGS = ["--quantize", "dynamic", "int8", "float16", "--profile", "micro"]


@pytest.fixture(scope="module")
def run(composed: Callable[..., Run]) -> Run:
    return composed()


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("music") / "bundle"
    assert export.__main__.main([str(run.path), "--out", str(path), *FLAGS]) == 0
    return path


def test_the_manifest(bundle: Path) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    assert content["task"] == "next-note"
    step = content["signatures"]["step"]
    assert step["inputs"][0] == {"name": "features", "dtype": "float32", "shape": ["batch", KEYS]}
    assert step["outputs"][0] == {"name": KEY_LOGITS, "dtype": "float32", "shape": ["batch", KEYS]}
    assert {file["precision"] for file in content["files"]} == {"float32", "dynamic", "int8", "float16"}
    assert "88 keys, from MIDI's 21 on" in content["description"]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_key_is_that_of_keras(engine: str, bundle: Path, run: Run) -> None:
    rolls = load_rolls(run.path / "test_rolls.npz")[:3]
    model = load(bundle, engine)
    for roll, wanted in zip(rolls, foretold(compiled(run.load_model()), rolls), strict=True):
        found, _ = model.sequence(told_before(roll)[None], model.initial_states(1))
        np.testing.assert_allclose(found[0], wanted, atol=1e-4, equal_nan=False)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_it_plays_what_keras_plays(engine: str, temperature: float, bundle: Path, run: Run) -> None:
    steppers = (KerasStepper(Stepwise(run.load_model()), KEYS), load(bundle, engine))
    one, other = (continued(stepper, tune(4, 10), 64, temperature, np.random.default_rng(3)) for stepper in steppers)
    np.testing.assert_array_equal(one, other)
