"""The manifest: the structure of the contract, filled with what is true of the files."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import manifest
from export.bundle import WRITERS
from export.spec import Spec
from export.validate import Parity, Reference, Verdict
from seqapp import __version__
from seqapp.config import ModelConfig
from seqapp.job import build_model
from seqapp.run import write_json
from seqapp.vocabulary import Vocabulary

VOCABULARY = Vocabulary.learn(["To be, or not to be: that is the question."], "word", True)
SIZE = len(VOCABULARY)
PERPLEXITY = {"perplexity": {"value": 47.0, "unit": "per token", "count": 9695}}
VERDICT = Verdict([], [Parity("step", 3e-7, 2e-7), Parity("sequence", 4e-7, 1e-7)], PERPLEXITY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundle")


@pytest.fixture(scope="module")
def content(folder: Path) -> dict[str, Any]:
    """The manifest of a model of two layers in all formats, with a verdict of our own."""
    model = build_model(ModelConfig(cell="lstm", layers=2, units=8, embedding=6), SIZE)
    reference = Reference(model, VOCABULARY, np.arange(SIZE, dtype=np.int32))
    reference.__dict__["rounding"] = (5e-6, 1e-6)
    files = {}
    for format, (name, write) in WRITERS.items():
        write(model, Spec.of(model), folder / name)
        files[format] = folder / name, VERDICT
    return manifest.content("next-word", reference, files)


def entry(content: dict[str, Any], path: str) -> dict[str, Any]:
    (found,) = [file for file in content["files"] if file["path"] == path]
    return found


def test_has_the_parts_of_the_contract(content: dict[str, Any]) -> None:
    assert list(content) == ["task", "signatures", "states", "vocabulary", "files", "parity", "parameters", "versions"]
    assert content["task"] == "next-word"
    # Embedding, two LSTM layers, projection, output bias.
    assert content["parameters"] == 6 * SIZE + 4 * 8 * (6 + 8 + 1) + 4 * 8 * (8 + 8 + 1) + 8 * 6 + SIZE


def test_signatures(content: dict[str, Any]) -> None:
    def states(end: str) -> list[dict[str, Any]]:
        return [{"name": f"state_{i}_{end}", "dtype": "float32", "shape": ["batch", 8]} for i in range(4)]

    assert content["signatures"] == {
        name: {
            "inputs": [{"name": "tokens", "dtype": "int32", "shape": axes}, *states("in")],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": [*axes, SIZE]}, *states("out")],
        }
        for name, axes in (("step", ["batch"]), ("sequence", ["batch", "time"]))
    }


def test_states_in_the_order_of_their_number(content: dict[str, Any]) -> None:
    assert content["states"] == [
        {"input": f"state_{i}_in", "output": f"state_{i}_out", "layer": layer, "role": role, "initial": 0.0}
        for i, (layer, role) in enumerate([(0, "h"), (0, "c"), (1, "h"), (1, "c")])
    ]


def test_vocabulary(content: dict[str, Any]) -> None:
    assert content["vocabulary"] == {
        "path": "vocabulary.json",
        "size": SIZE,
        "unit": "word",
        "unknown": "<unk>",
        "end": "<eos>",
        "token_pattern": VOCABULARY.token_pattern,
        "normalization": ["NFC", "lower"],
    }


@pytest.mark.parametrize(
    ("path", "format", "signatures"),
    [
        ("saved_model", "saved_model", ["step", "sequence"]),
        ("model.tflite", "tflite", ["step", "sequence"]),
        ("model.onnx", "onnx", ["sequence"]),
    ],
)
def test_files(path: str, format: str, signatures: list[str], content: dict[str, Any]) -> None:
    file = entry(content, path)
    assert {key: file[key] for key in ("format", "precision", "signatures", "metrics")} == {
        "format": format,
        "precision": "float32",
        "signatures": signatures,
        "metrics": PERPLEXITY,
    }


def test_bytes_and_digests(content: dict[str, Any], folder: Path) -> None:
    for path in ("model.tflite", "model.onnx"):
        data = (folder / path).read_bytes()
        assert (entry(content, path)["bytes"], entry(content, path)["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    files = [file for file in (folder / "saved_model").rglob("*") if file.is_file()]
    assert len(files) >= 3
    assert entry(content, "saved_model")["bytes"] == sum(file.stat().st_size for file in files)
    assert entry(content, "saved_model")["sha256"] == manifest.digest(folder / "saved_model")


def test_digest_of_a_directory_is_that_of_the_output_of_sha256sum(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "variables").mkdir(parents=True)
    for name, text in (("b.pb", "1"), ("a", "2"), ("variables/data", "3"), ("variables/index", "")):
        (folder / name).write_text(text)
    names = ["a", "b.pb", "variables/data", "variables/index"]
    lines = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    assert manifest.digest(folder) == hashlib.sha256(lines).hexdigest()
    shutil.copytree(folder, tmp_path / "copy")
    assert manifest.digest(tmp_path / "copy") == manifest.digest(folder)
    (folder / "a").rename(folder / "c")
    assert manifest.digest(tmp_path / "copy") != manifest.digest(folder)


def test_operators_and_what_a_runtime_must_be(content: dict[str, Any]) -> None:
    litert, onnx = entry(content, "model.tflite"), entry(content, "model.onnx")
    assert litert["operators"]["WHILE"] >= 1
    assert onnx["operators"]["LSTM"] == 2
    assert onnx["minimum_runtime"] == {"onnx_opset": "17", "onnx_ir": "8"}
    assert litert["minimum_runtime"].keys() == {"tflite", "litert"}
    assert entry(content, "saved_model")["minimum_runtime"] == {"tensorflow": metadata.version("tensorflow")}


def test_parity_of_each_signature_of_each_file(content: dict[str, Any]) -> None:
    assert [(found["file"], found["signature"]) for found in content["parity"]] == [
        (path, signature) for path in ("saved_model", "model.tflite", "model.onnx") for signature in ("step", "sequence")
    ]
    assert content["parity"][2] == {
        "file": "model.tflite",
        "signature": "step",
        "batches": [1, 3],
        "lengths": [1, 7, 100, 1000],
        "largest_difference": 3e-7,
        "tolerance": 2e-5,
        "keras_float32_error": 5e-6,
        "largest_state_difference": 2e-7,
        "state_tolerance": 1e-5,
        "keras_float32_state_error": 1e-6,
    }


def test_versions(content: dict[str, Any]) -> None:
    packages = ("tensorflow", "keras", "numpy", "onnx", "onnxruntime", "ai-edge-litert")
    assert content["versions"] == {"seqapp": __version__, **{name: metadata.version(name) for name in packages}}


def test_is_json_that_reads_back(content: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", content)
    assert manifest.read(tmp_path) == content
    assert json.loads((tmp_path / "manifest.json").read_text("utf-8")) == content
