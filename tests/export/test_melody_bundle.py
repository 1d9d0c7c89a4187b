"""From a run of melodies to a bundle whose files have two outputs, and the bundle at work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import export.__main__
from export import reading
from export.runners import declared
from export.runtime import ENGINES, load
from export.spec import DURATION_LOGITS, PITCH_LOGITS
from seqapp.chain import Stepwise
from seqapp.decoding import Sampling
from seqapp.melody import PITCHES, Durations, load_codes
from seqapp.melody_form import continued, durations_of, foretold
from seqapp.run import Run
from seqapp.step import KerasStepper, compiled
from tests.conftest import refused

FLAGS = ["--quantize", "int8", "--profile", "micro"]


@pytest.fixture(scope="module")
def run(sung: Callable[..., Run]) -> Run:
    return sung()


@pytest.fixture(scope="module")
def known(run: Run) -> Durations:
    return durations_of(run)


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("melodies") / "bundle"
    assert export.__main__.main([str(run.path), "--out", str(path), *FLAGS]) == 0
    return path


def manifest(bundle: Path) -> dict:
    return json.loads((bundle / "manifest.json").read_text())


def test_the_manifest(bundle: Path, run: Run, known: Durations) -> None:
    content = manifest(bundle)
    outputs = [
        {"name": PITCH_LOGITS, "dtype": "float32", "shape": ["batch", PITCHES]},
        {"name": DURATION_LOGITS, "dtype": "float32", "shape": ["batch", len(known)]},
    ]
    step = content["signatures"]["step"]
    assert step["inputs"][0] == {"name": "features", "dtype": "float32", "shape": ["batch", known.width]}
    assert step["outputs"][:2] == outputs
    assert content["melody"] == json.loads((run.path / "melody.json").read_text())
    assert {file["precision"] for file in content["files"]} == {"float32", "int8"}
    assert len(content["files"]) == 7
    for file in content["files"]:
        assert set(file.get("losses", {"perplexity": 0, "top_1": 0})) == {"perplexity", "top_1"}
        assert file["metrics"].keys() == {"nats_per_note", "notes_right"}


@pytest.mark.parametrize("format", ["saved_model", "tflite", "onnx"])
def test_every_file_declares_both_outputs(format: str, bundle: Path, known: Durations) -> None:
    path = bundle / {"saved_model": "saved_model", "tflite": "model.tflite", "onnx": "model.onnx"}[format]
    found = {t["name"]: t["shape"] for t in declared(format, path)["sequence"]["outputs"]}
    assert found[PITCH_LOGITS] == [-1, -1, PITCHES]
    assert found[DURATION_LOGITS] == [-1, -1, len(known)]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_note_is_that_of_keras(engine: str, bundle: Path, run: Run, known: Durations) -> None:
    melodies = load_codes(run.path / "test_melodies.npz", known)[:3]
    model = load(bundle, engine)
    for codes, wanted in zip(melodies, foretold(compiled(run.load_model()), melodies, known), strict=True):
        told = known.told(codes)
        whole, _ = model.sequence(told[None], model.initial_states(1))
        np.testing.assert_allclose(whole[0], wanted, atol=1e-4, equal_nan=False)
        states, rows = model.initial_states(1), []
        for now in told:
            row, states = model.step(now[None], states)
            rows.append(row[0])
        np.testing.assert_allclose(rows, wanted, atol=1e-4, equal_nan=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_it_sings_what_keras_sings(engine: str, bundle: Path, run: Run, known: Durations) -> None:
    begun = load_codes(run.path / "test_melodies.npz", known)[0][:6]
    steppers = (KerasStepper(Stepwise(run.load_model()), known.width), load(bundle, engine))
    one, other = (list(continued(s, known, begun, 40, Sampling(1.0), np.random.default_rng(3))) for s in steppers)
    assert one == other


def test_padding_changes_nothing(bundle: Path, run: Run, known: Durations) -> None:
    codes = load_codes(run.path / "test_melodies.npz", known)[:2]
    short, long = (known.told(one) for one in codes)
    both = np.zeros((2, 40, known.width), np.float32)
    both[0, :11], both[1, : len(long)] = short[:11], long
    model = load(bundle, "litert")
    together, _ = model.sequence(both, model.initial_states(2))
    alone, _ = model.sequence(short[None, :11], model.initial_states(1))
    np.testing.assert_allclose(together[0, :11], alone[0], atol=1e-5, equal_nan=False)


def test_the_readme_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its Python prints both outputs after three rows of zeros."""
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", (bundle / "README.md").read_text(), re.DOTALL))
    assert {"python", "kotlin", "swift", "cpp", "js"} <= blocks.keys()
    for block in blocks.values():
        assert (PITCH_LOGITS in block and DURATION_LOGITS in block) or "kOutputPitchLogits" in block
    monkeypatch.chdir(bundle)
    exec(blocks["python"], {})
    step = Interpreter("model.tflite").get_signature_runner("step")
    result: dict[str, np.ndarray] = {}
    for _ in range(3):
        states = {name.replace("_out", "_in"): value for name, value in result.items() if name.startswith("state")}
        width = step.get_input_details()["features"]["shape_signature"][-1]
        zeros = {n: np.zeros((1, t["shape_signature"][-1]), np.float32) for n, t in step.get_input_details().items()}
        result = step(**{**zeros, "features": np.zeros((1, width), np.float32), **states})
    printed = "".join(f"{result[name][0]}\n" for name in (PITCH_LOGITS, DURATION_LOGITS))
    assert capsys.readouterr().out == printed


def test_the_example_of_the_page_sings(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/music.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    capsys.readouterr()
    exec(example.replace("runs/tunes/bundle", str(bundle)), {})
    sung = [line.split() for line in capsys.readouterr().out.splitlines()]
    quarters = set(map(str, manifest(bundle)["melody"]["durations"]))
    assert len(sung) > 3
    for pitch, duration in sung:
        assert duration in quarters and (pitch == "rest" or 21 <= int(pitch) <= 108)


def test_a_manifest_that_names_another_output_is_refused(bundle: Path, tmp_path: Path) -> None:
    content = manifest(bundle)
    spec = reading.spec_of(bundle, content)
    assert [name for name, _ in spec.outputs] == [PITCH_LOGITS, DURATION_LOGITS]
    for signature in content["signatures"].values():
        signature["outputs"] = [t for t in signature["outputs"] if t["name"] != DURATION_LOGITS]
    less = reading.spec_of(bundle, content)
    assert [name for name, _ in less.outputs] == [PITCH_LOGITS]
    for signature in content["signatures"].values():
        signature["outputs"] = [t for t in signature["outputs"] if t["name"] != PITCH_LOGITS]
    refused(lambda: reading.spec_of(bundle, content), "manifest.json is damaged", "it has no output")
