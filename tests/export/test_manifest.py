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
from keras import layers, ops

from export import flatbuffer, manifest, micro, reading
from export.artifact import ARTIFACTS, MICRO
from export.network import Network
from export.onnx_graph import write_onnx
from export.reference import Reference
from export.saved_model import write_saved_model
from export.source import Source
from export.spec import Spec
from export.validate import Loss, Parity, Verdict
from seqapp import __version__
from seqapp.cells import LSTMCell
from seqapp.run import write_json
from seqapp.vocabulary import Vocabulary
from tests.export.conftest import CLASSES, TAGS, UNITS, Exported, network_of, of_features, tflite_of
from tests.export.conftest import VOCABULARY as SIZE

pytestmark = pytest.mark.usefixtures("lengths_of_users")
MODEL = ("lstm", 2, "tied")
VOCABULARY = Vocabulary.learn(["To be, or not to be: that is the question."], "word", True)
PERPLEXITY = {"perplexity": {"value": 47.0, "unit": "per token", "count": 9695}}
LOSS = Loss("perplexity", 0.001, 0.0002, 0.005, "fraction")
FLOAT = ["saved_model", "model.tflite", "model.onnx", "model.micro.tflite", "model.trainable.tflite"]
ALL = ["step", "sequence", "prefill"]


def verdict(*signatures: str, losses: tuple[Loss, ...] = ()) -> Verdict:
    return Verdict([], [Parity(name, 3e-7, 2e-7) for name in signatures], PERPLEXITY, list(losses), {"step": 12.34})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundle")


@pytest.fixture(scope="module")
def content(folder: Path) -> dict[str, Any]:
    """The manifest of a model of two layers, with verdicts of our own; the quantized files are stand-ins."""
    network = network_of(*MODEL)
    reference = Reference(network, np.arange(SIZE))
    reference.__dict__["rounding"] = (5e-6, 1e-6)
    VOCABULARY.save(folder / "vocabulary.json")
    files = []
    for artifact in ARTIFACTS:
        path = folder / artifact.path
        if artifact.profile == MICRO:
            path.write_bytes(micro.micro(flatbuffer.only(tflite_of(*MODEL), "step"), Spec.of(network)))
        elif artifact.format == "tflite":
            path.write_bytes(tflite_of(*MODEL))
        else:
            {"saved_model": write_saved_model, "onnx": write_onnx}[artifact.format](network, Spec.of(network), path)
        losses = () if artifact.precision == "float32" else (LOSS,)
        files.append((artifact, path, verdict(*artifact.tested, losses=losses)))
    return manifest.content(Source("next-word", reference, np.zeros(3), VOCABULARY, 47.0, "What it is."), folder, files)


def entry(content: dict[str, Any], path: str) -> dict[str, Any]:
    (found,) = [file for file in content["files"] if file["path"] == path]
    return found


def test_has_the_parts_of_the_contract(content: dict[str, Any]) -> None:
    parts = ["task", "description", "signatures", "states", "token_count", "vocabulary", "files", "parity", "parameters"]
    assert list(content) == [*parts, "format", "versions"]
    assert (content["task"], content["description"]) == ("next-word", "What it is.")
    assert content["token_count"] == SIZE
    # Embedding, two LSTM layers, output bias.
    assert content["parameters"] == UNITS * SIZE + 2 * 4 * UNITS * (2 * UNITS + 1) + SIZE


def test_signatures(content: dict[str, Any]) -> None:
    def states(end: str) -> list[dict[str, Any]]:
        return [{"name": f"state_{i}_{end}", "dtype": "float32", "shape": ["batch", UNITS]} for i in range(4)]

    assert content["signatures"] == {
        name: {
            "inputs": [{"name": "tokens", "dtype": "int32", "shape": given}, *states("in")],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": [*made, SIZE]}, *states("out")],
        }
        for name, given, made in (
            ("step", ["batch"], ["batch"]),
            ("sequence", ["batch", "time"], ["batch", "time"]),
            ("prefill", ["batch", "time"], ["batch"]),
        )
    }


def test_states_in_the_order_of_their_number(content: dict[str, Any]) -> None:
    assert content["states"] == [
        {"input": f"state_{i}_in", "output": f"state_{i}_out", "layer": layer, "role": role, "initial": 0.0}
        for i, (layer, role) in enumerate([(0, "h"), (0, "c"), (1, "h"), (1, "c")])
    ]


class Learned(LSTMCell):
    """Its h starts from numbers of its own, its c from ones."""

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        first = ops.reshape(ops.arange(self.units, dtype="float32") / 4, (1, -1))
        return [ops.tile(first, (batch_size or 1, 1)), ops.ones((batch_size or 1, self.units))]


def test_first_states_that_are_no_one_number_are_a_file(tmp_path: Path) -> None:
    network = Network.of(of_features(layers.RNN(Learned(3), return_sequences=True), layers.GRU(2)))
    source = Source("levels", Reference(network, np.zeros((9, 8))), np.zeros((3, 8)))
    content = manifest.content(source, tmp_path, [])
    stored = tmp_path / "state_0_initial.npy"
    assert [state["initial"] for state in content["states"]] == ["state_0_initial.npy", 1.0, 0.0]
    assert content["states"][0]["sha256"] == hashlib.sha256(stored.read_bytes()).hexdigest()
    np.testing.assert_array_equal(np.load(stored), np.array([0, 0.25, 0.5], np.float32))
    assert "vocabulary" not in content
    write_json(tmp_path / "manifest.json", content)
    assert reading.spec_of(tmp_path, reading.read(tmp_path)) == Spec.of(network)


def test_vocabulary(content: dict[str, Any], folder: Path) -> None:
    data = (folder / "vocabulary.json").read_bytes()
    assert content["vocabulary"] == {
        "path": "vocabulary.json",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(VOCABULARY),
        "unit": "word",
        "unknown": "<unk>",
        "end": "<eos>",
        "token_pattern": VOCABULARY.token_pattern,
        "normalization": ["NFC", "lower"],
    }


@pytest.mark.parametrize(
    ("path", "format", "precision", "signatures"),
    [
        ("saved_model", "saved_model", "float32", ALL),
        ("model.tflite", "tflite", "float32", ALL),
        ("model.dynamic.tflite", "tflite", "dynamic", ALL),
        ("model.float16.tflite", "tflite", "float16", ALL),
        ("model.int8.tflite", "tflite", "int8", ["step"]),
        ("model.onnx", "onnx", "float32", ["sequence"]),
        ("model.int8.onnx", "onnx", "int8", ["sequence"]),
        ("model.micro.tflite", "tflite", "float32", ["step"]),
        ("model.micro.int8.tflite", "tflite", "int8", ["step"]),
        ("model.trainable.tflite", "tflite", "float32", ["step", "train", "save", "restore"]),
    ],
)
def test_files(path: str, format: str, precision: str, signatures: list[str], content: dict[str, Any]) -> None:
    file = entry(content, path)
    assert {key: file[key] for key in ("format", "precision", "signatures", "metrics", "latency")} == {
        "format": format,
        "precision": precision,
        "signatures": signatures,
        "metrics": PERPLEXITY,
        "latency": {"step": {"value": 12.3, "unit": "µs a timestep"}},
    }


def test_losses_are_those_of_quantized_files(content: dict[str, Any]) -> None:
    for file in content["files"]:
        assert file.get("losses") == (
            None
            if file["path"] in FLOAT
            else {"perplexity": {"value": 0.001, "two_standard_errors": 0.0002, "limit": 0.005, "unit": "fraction"}}
        )


def test_a_file_of_another_profile_has_signatures_of_its_own(content: dict[str, Any]) -> None:
    assert {file["path"]: file["profile"] for file in content["files"] if "profile" in file} == {
        "model.micro.tflite": "micro",
        "model.micro.int8.tflite": "micro",
        "model.trainable.tflite": "trainable",
    }
    assert set(entry(content, "model.trainable.tflite")["own_signatures"]) == {"step", "train", "save", "restore"}
    assert "own_signatures" not in entry(content, "model.tflite")


def test_a_file_for_microcontrollers(content: dict[str, Any]) -> None:
    """What a firmware must know of it."""
    file, whole = entry(content, "model.micro.tflite"), content["signatures"]["step"]
    assert file["own_signatures"] == {
        "step": {
            side: [{**tensor, "shape": [1, *tensor["shape"][1:]]} for tensor in whole[side]] for side in ("inputs", "outputs")
        }
    }
    assert file["sources"] == ["model.micro.h", "model.micro.cc"]
    assert file["arena"]["bytes"] % file["arena"]["alignment"] == 0
    assert len(file["resolver"]) == len(file["operators"])
    assert {"AddFullyConnected", "AddGather", "AddLogistic", "AddTanh"} < set(file["resolver"])
    assert file["minimum_runtime"] == {"tflite-micro": metadata.version("tflite-micro")}


def test_names_in_the_graph_are_those_of_the_saved_model(content: dict[str, Any]) -> None:
    names = entry(content, "saved_model")["graph_names"]
    assert set(names) == set(ALL)
    assert set(names["step"]["inputs"]) == {"tokens", *(f"state_{i}_in" for i in range(4))}
    assert all(":" in name for name in names["step"]["outputs"].values())


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
        *(("saved_model", signature) for signature in ALL),
        *((f"model.{name}tflite", signature) for name in ("", "dynamic.", "float16.") for signature in ALL),
        ("model.int8.tflite", "step"),
        *((f"model.{name}onnx", signature) for name in ("", "int8.") for signature in ("step", "sequence")),
        *((f"model.{name}tflite", "step") for name in ("micro.", "micro.int8.", "trainable.")),
    ]
    assert [found["batches"] for found in content["parity"] if "micro" in found["file"]] == [[1], [1]]
    assert content["parity"][3] == {
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


def test_quantized_files_have_no_tolerance(content: dict[str, Any]) -> None:
    for found in content["parity"]:
        exact = found["file"] in FLOAT
        assert (found["tolerance"] is not None, found["state_tolerance"] is not None) == (exact, exact)


def test_versions(content: dict[str, Any]) -> None:
    packages = ("tensorflow", "keras", "numpy", "onnx", "onnxruntime", "ai-edge-litert")
    assert content["versions"] == {"seqapp": __version__, **{name: metadata.version(name) for name in packages}}


def test_is_json_that_reads_back(content: dict[str, Any], folder: Path) -> None:
    write_json(folder / "manifest.json", content)
    assert json.loads((folder / "manifest.json").read_text("utf-8")) == reading.read(folder) == content
    assert reading.spec_of(folder, content) == Spec.of(network_of(*MODEL))
    for file in reading.files_of(folder, content):
        if file.format != "saved_model":  # a directory
            assert reading.checked(folder, file) == folder / file.path


def test_what_is_said_of_a_model_that_reads_both_ways(tagger_bundle: Exported, classifier_bundle: Exported) -> None:
    lengths = {"name": "lengths", "dtype": "int32", "shape": ["batch"]}
    for it, given, made in (
        (tagger_bundle, {"name": "tokens", "dtype": "int32", "shape": ["batch", "time"]}, ["batch", "time", TAGS]),
        (classifier_bundle, {"name": "features", "dtype": "float32", "shape": ["batch", "time", 8]}, ["batch", CLASSES]),
    ):
        content, network = it.content, Network.of(it.model)
        output = {"name": "logits", "dtype": "float32", "shape": made}
        assert content["signatures"] == {"sequence": {"inputs": [given, lengths], "outputs": [output]}}
        assert (content["states"], content["parameters"]) == ([], it.model.count_params())
        assert reading.spec_of(it.folder, content) == Spec.of(network)
        for file in content["files"]:
            assert (file["signatures"], set(file["latency"]), file["metrics"]) == (["sequence"], {"sequence"}, {})
            (parity,) = [entry for entry in content["parity"] if entry["file"] == file["path"]]
            # The longest is left out by tests of other modules, which may have made the bundle.
            assert (parity["signature"], parity["batches"], parity["lengths"][:3]) == ("sequence", [1, 3], [1, 7, 100])
            exact = file["precision"] == "float32"
            assert ("losses" in file, parity["tolerance"] is None) == (not exact, not exact)
            assert not exact or 0 < parity["largest_difference"] <= parity["tolerance"]
        names = entry(content, "saved_model")["graph_names"]["sequence"]
        assert set(names["inputs"]) == {given["name"], "lengths"}
        assert set(names["outputs"]) == {"logits"}
