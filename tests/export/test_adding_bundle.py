"""From a run that adds, and from one that copies, to bundles: what their outputs are called, and that they are Keras's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import export.__main__
from export import reading
from export.runtime import ENGINES, load
from seqapp.adding import Adding, values
from seqapp.classify import classified_by
from seqapp.copy_memory import SYMBOLS
from seqapp.run import Run
from seqapp.sequences import load_part, padded
from seqapp.step import log_softmax

Trained = Callable[..., Run]


@pytest.fixture(scope="module")
def bundle(added: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adding") / "bundle"
    assert export.__main__.main([str(added().path), "--out", str(path)]) == 0
    return path


def test_the_files_of_all_formats_give_a_value(bundle: Path) -> None:
    content = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert content["task"] == "adding"
    assert {file["path"] for file in content["files"]} == {"saved_model", "model.tflite", "model.onnx"}
    assert set(content["signatures"]) == {"step", "sequence"}
    for signature in content["signatures"].values():
        assert signature["outputs"][0] == {"name": "value", "dtype": "float32", "shape": ["batch", 1]}
    assert not {"classes", "vocabulary", "token_count"} & set(content)
    assert all(entry["largest_difference"] <= entry["tolerance"] for entry in content["parity"])
    card = (bundle / "README.md").read_text("utf-8")
    assert "# adding\n" in card and "Tells a value of each sequence" in card and "trained on sequences drawn at random" in card


def test_the_values_are_those_of_keras(bundle: Path, added: Trained) -> None:
    x, y = Adding().draw(np.random.default_rng(5), 9, 10)
    wanted, lengths = values(classified_by(added().load_model()), list(x)), np.full(9, 10, np.int32)
    for engine in ENGINES:
        found = load(bundle, engine).sequences(x, lengths)
        assert (found.shape, found.dtype) == ((9, 1), np.float32)
        np.testing.assert_allclose(found[:, 0], wanted, atol=1e-5)
    saved = tf.saved_model.load(str(bundle / "saved_model")).signatures["sequence"]
    states = {s["input"]: tf.zeros((9, 12)) for s in reading.read(bundle)["states"]}
    np.testing.assert_allclose(saved(features=x, lengths=lengths, **states)["value"][:, 0], wanted, atol=1e-5)
    assert np.mean((wanted - y) ** 2) < 1 / 12


def test_a_run_that_copies(remembered: Trained, tmp_path: Path) -> None:
    run, path = remembered(), tmp_path / "bundle"
    assert export.__main__.main([str(run.path), "--out", str(path), "--format", "onnx"]) == 0
    content = reading.read(path)
    assert (content["task"], content["classes"]) == ("copy-memory", list(SYMBOLS))
    assert content["signatures"]["step"]["outputs"][0]["name"] == "class_logits"
    (file,) = content["files"]
    known = run.metrics["test"]["nats_per_label"]
    assert file["metrics"]["nats_per_label"] == {**known, "value": pytest.approx(known["value"], abs=1e-5)}
    x, lengths = padded(load_part(run.path, "test").inputs[:4])
    model = load(path)
    outputs, _ = model.sequence(x, model.initial_states(4))
    wanted = np.asarray(run.load_model()([x, lengths]), np.float64)
    np.testing.assert_allclose(log_softmax(outputs.astype(np.float64)), log_softmax(wanted), atol=1e-4)
