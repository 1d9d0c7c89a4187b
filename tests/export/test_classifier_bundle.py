"""From a classifier's run to a bundle: its files, its manifest, and the bundle at work."""

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
from export import benchmark, reading
from export.runtime import ENGINES, Model, load
from seqapp.cells import PlainCell
from seqapp.classifier import Classifier
from seqapp.classify import Coder, classified_by
from seqapp.run import Run
from seqapp.sequences import Sequences, padded
from seqapp.step import log_softmax
from tests.conftest import refused

Classified = Callable[..., Run]
RUNS = {"texts": ("talk",), "series": ("trend",), "both ways": ("trend", "--both-ways"), "timesteps": ("sums",)}
FLAGS = {
    "texts": ["--quantize", "dynamic", "int8", "--profile", "micro"],
    "series": ["--format", "onnx", "tflite"],
    "both ways": [],
    "timesteps": ["--format", "onnx"],
}
FILES = {
    "texts": {
        "saved_model", "model.tflite", "model.dynamic.tflite", "model.int8.tflite", "model.onnx", "model.int8.onnx",
        "model.micro.tflite", "model.micro.int8.tflite",
    },
    "series": {"model.tflite", "model.onnx"},
    "both ways": {"saved_model", "model.tflite", "model.onnx"},
    "timesteps": {"model.onnx"},
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle_of(classified: Classified, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def bundle(kind: str) -> Path:
        if kind not in made:
            path = tmp_path_factory.mktemp("classifier") / "bundle"
            assert export.__main__.main([str(classified(*RUNS[kind]).path), "--out", str(path), *FLAGS[kind]]) == 0
            made[kind] = path
        return made[kind]

    return bundle


@pytest.fixture
def copied(bundle_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(bundle_of("series"), tmp_path / "copy"))


def examples_of(run: Run) -> Sequences:
    return Sequences.load(run.path / "test_examples.npz")


def by_keras(run: Run, examples: Sequences) -> list[Any]:
    """The probabilities (C,), or (T, C), of each sequence alone."""
    classified = classified_by(run.load_model())
    logits = [classified(x[None], np.array([len(x)], np.int32))[0] for x in examples.inputs]
    return [np.exp(log_softmax(row.astype(np.float64))) for row in logits]


def loaded(bundle: Path) -> dict[str, Model]:
    """In every engine that the bundle has a file for."""
    there = {file.format for file in reading.files_of(bundle, reading.read(bundle))}
    return {engine: load(bundle, engine) for engine, (format, _) in ENGINES.items() if format in there}


@pytest.mark.parametrize("kind", list(RUNS))
def test_the_bundle_of_a_run(kind: str, bundle_of: Callable[[str], Path], classified: Classified) -> None:
    run, bundle = classified(*RUNS[kind]), bundle_of(kind)
    content = reading.read(bundle)
    assert {file["path"] for file in content["files"]} == FILES[kind]
    assert content["task"] == "classify"
    assert content["classes"] == list(Coder.load(run.path).classes)
    assert ("vocabulary" in content) == (kind == "texts") == (bundle / "vocabulary.json").exists()
    for name in content["classes"]:
        assert name in (bundle / "README.md").read_text("utf-8")
    by_name = {name: set(signature) for name, signature in content["signatures"].items()}
    wanted = {"texts": {"step", "sequence"}, "series": {"step", "sequence"}, "both ways": {"sequence"}}
    assert set(by_name) == wanted.get(kind, {"step", "sequence", "prefill"})
    for file in content["files"]:
        if "micro" not in file["path"]:
            lost = 1e-9 if file["precision"] == "float32" else 0.06
            assert file["metrics"]["accuracy"]["value"] == pytest.approx(run.metrics["test"]["accuracy"]["value"], abs=lost)
            assert file["metrics"]["accuracy"]["count"] == run.metrics["test"]["accuracy"]["count"]
        if file["precision"] == "float32":
            nats = file["metrics"]["nats_per_label"]["value"]
            assert nats == pytest.approx(run.metrics["test"]["nats_per_label"]["value"], abs=1e-5)
    assert all(entry["largest_difference"] <= (entry["tolerance"] or 1) for entry in content["parity"])


@pytest.mark.parametrize("kind", list(RUNS))
def test_the_card_of_a_run(kind: str, bundle_of: Callable[[str], Path], classified: Classified) -> None:
    card = (bundle_of(kind) / "README.md").read_text("utf-8")
    labels = classified(*RUNS[kind]).metrics["test"]["accuracy"]["count"]
    assert f"Figures are over {labels:,} held-out labels. " in card
    assert ("`prefill`" in card) == (kind == "timesteps")
    assert ("takes `lengths` int32 [batch] too" in card) == (kind in ("texts", "series"))


@pytest.mark.parametrize("kind", ["texts", "timesteps"])
def test_the_benchmark_of_a_run(
    kind: str, bundle_of: Callable[[str], Path], classified: Classified, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    bundle, run = bundle_of(kind), classified(*RUNS[kind])
    monkeypatch.setattr(benchmark, "_memory", lambda *_: 1.0)
    monkeypatch.setattr(benchmark, "LONG", 150)
    for name in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
        monkeypatch.setattr(tf.config.threading, name, lambda count: None)  # TensorFlow has begun, and would refuse
    assert benchmark.main([str(bundle), "--repeats", "1", "--run", str(run.path)]) == 0
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines() if "|" in line
    ]
    assert {row[0] for row in rows[2:]} == {name for name in FILES[kind] if "micro" not in name} | {benchmark.KERAS}
    for row in rows[2:]:
        assert all(float(cell.split(" ")[0]) > 0 for cell in row[-3:] if cell)


def test_a_classifier_is_given_by_its_model_alone(tmp_path: Path) -> None:
    """Its classes are no tokens, even where there are as many: nothing is scored unless it is said what is right."""
    model, tokens = Classifier(9, [PlainCell(5)], vocabulary_size=9, embedding=4), np.arange(300) % 9
    content = export.convert(model, tmp_path / "bundle", formats=["onnx"], inputs=tokens)
    assert content["files"][0]["metrics"] == {}
    refused(
        lambda: export.convert(model, tmp_path / "other", formats=["onnx"], inputs=tokens, targets=tokens),
        "targets are one for each timestep, and the model gives one output for each sequence: leave them out",
    )


@pytest.mark.parametrize("kind", ["texts", "series", "both ways"])
def test_classes_and_probabilities_are_those_of_keras(
    kind: str, bundle_of: Callable[[str], Path], classified: Classified
) -> None:
    run = classified(*RUNS[kind])
    examples, wanted = examples_of(run), by_keras(run, examples_of(run))
    x, lengths = padded(examples.inputs)
    for model in loaded(bundle_of(kind)).values():
        assert model.classes == Coder.load(run.path).classes
        found = model.classify(x, lengths, top=len(model.classes))
        assert len(found) == len(wanted)
        for row, p in zip(found, wanted, strict=True):
            assert [name for name, _ in row] == [model.classes[i] for i in np.argsort(-p, kind="stable")]
            assert dict(row) == pytest.approx(dict(zip(model.classes, p, strict=True)), abs=1e-5)
        assert [len(row) for row in model.classify(x[:2], lengths[:2], top=1)] == [1, 1]
        with pytest.raises(ValueError, match="top must be at least 1"):
            model.classify(x, lengths, top=0)


def test_a_text_is_classified(bundle_of: Callable[[str], Path], classified: Classified) -> None:
    run, texts = classified(*RUNS["texts"]), ["Are they late tonight?", "No, they are not late now.", "zebra", ""]
    coder = Coder.load(run.path)
    assert coder.vocabulary is not None
    x = [np.array(coder.vocabulary.encode_whole(text), np.int32) for text in texts]
    wanted = by_keras(run, Sequences(x, [np.int32(0)] * len(x)))
    assert coder.classes[wanted[0].argmax()] == "question" != coder.classes[wanted[1].argmax()]
    for model in loaded(bundle_of("texts")).values():
        for text, p in zip(texts, wanted, strict=True):
            found = model.predict(text)
            assert found[0][0] == coder.classes[p.argmax()]
            assert dict(found) == pytest.approx(dict(zip(coder.classes, p, strict=True)), abs=1e-5)
            assert model.predict(text, top=1) == found[:1]


def test_a_saved_model_classifies_texts(bundle_of: Callable[[str], Path]) -> None:
    texts = ["Are they late tonight?", "No, they are not late now.\n", "", " \n\n", "late\n\nnow", "ARE", "zebra"]
    serve = tf.saved_model.load(str(bundle_of("texts") / "saved_model")).signatures["serve"]
    model = load(bundle_of("texts"), "onnx")
    for given in (texts, texts[:1], texts[2:3]):  # together and alone: padding changes nothing
        found = {key: value.numpy() for key, value in serve(text=tf.constant(given)).items()}
        for text, names, p in zip(given, found["classes"], found["probabilities"], strict=True):
            row = [(name.decode(), value) for name, value in zip(names, p, strict=True)]
            assert [name for name, _ in row] == [name for name, _ in model.predict(text)]
            assert dict(row) == pytest.approx(dict(model.predict(text)), abs=1e-5)


def test_a_stream_is_classified_step_by_step(bundle_of: Callable[[str], Path], classified: Classified) -> None:
    run = classified(*RUNS["series"])
    x = examples_of(run).inputs[0]
    firsts = Sequences([x[: t + 1] for t in range(len(x))], [np.int32(0)] * len(x))
    for model in loaded(bundle_of("series")).values():
        states = model.initial_states(1)
        for now, p in zip(x, by_keras(run, firsts), strict=True):
            logits, states = model.step(now[None], states)
            np.testing.assert_allclose(np.exp(log_softmax(logits[0].astype(np.float64))), p, atol=1e-5)


def test_the_smaller_files_say_the_same(bundle_of: Callable[[str], Path], classified: Classified) -> None:
    run = classified(*RUNS["texts"])
    x, lengths = padded(examples_of(run).inputs)
    wanted = np.stack(by_keras(run, examples_of(run)))
    for engine, precision in (("litert", "dynamic"), ("litert", "int8"), ("onnx", "int8")):
        model = load(bundle_of("texts"), engine, precision)
        p = np.exp(log_softmax(model.sequences(x, lengths).astype(np.float64)))
        assert 0 < np.abs(p - wanted).max() < 0.2
        assert (p.argmax(-1) == wanted.argmax(-1)).mean() > 0.93


def test_labels_of_each_timestep(bundle_of: Callable[[str], Path], classified: Classified) -> None:
    run = classified(*RUNS["timesteps"])
    examples = examples_of(run)
    x, lengths = padded(examples.inputs)
    model = load(bundle_of("timesteps"))
    outputs, _ = model.sequence(x, model.initial_states(len(x)))
    for row, length, p in zip(outputs, lengths, by_keras(run, examples), strict=True):
        np.testing.assert_allclose(np.exp(log_softmax(row[:length].astype(np.float64))), p, atol=1e-5)
    refused(lambda: model.classify(x, lengths), "no classifier of whole sequences", "step and sequence")


@pytest.mark.parametrize("kind", list(RUNS))
def test_a_classifier_has_no_session(kind: str, bundle_of: Callable[[str], Path]) -> None:
    for model in loaded(bundle_of(kind)).values():
        refused(model.session, "A classifier does not continue a text", "use predict")


def rewrite(bundle: Path, **changes: Any) -> None:
    content = json.loads((bundle / "manifest.json").read_text("utf-8"))
    (bundle / "manifest.json").write_text(json.dumps({**content, **changes}), "utf-8")


@pytest.mark.parametrize("classes", [["rise"], ["fall", "rise", "rest"], 3, None, [["fall"]]], ids=str)
def test_classes_that_do_not_fit_the_model(classes: Any, copied: Path) -> None:
    rewrite(copied, classes=classes)
    refused(lambda: load(copied), "manifest.json is damaged", "copy it again, or export again")


def test_without_classes_it_is_a_model_of_numbers(copied: Path) -> None:
    rewrite(copied, classes=[])
    model = load(copied)
    refused(lambda: model.classify(np.zeros((1, 2, 1), np.float32), np.array([2])), "no classifier of whole sequences")
    refused(model.session, "no vocabulary")


def refused_by_export(run: Run, target: Path, flags: list[str], capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    capsys.readouterr()
    assert export.__main__.main([str(run.path), "--out", str(target), *flags]) == 2
    out, err = capsys.readouterr()
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert out == "" and "Traceback" not in err
    for part in parts:
        assert part in error
    assert not target.exists() and not list(target.parent.glob(".partial*"))


def test_what_cannot_be_exported_leaves_nothing(
    classified: Classified, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, both = tmp_path / "bundle", classified(*RUNS["both ways"])
    refused_by_export(both, target, ["--profile", "micro"], capsys, "runs step by step", "leave micro out")
    refused_by_export(
        both, target, ["--format", "tflite", "--quantize", "int8"], capsys, "runs step by step", "leave int8 out, or add onnx"
    )
    refused_by_export(
        classified(*RUNS["texts"]), target, ["--format", "onnx", "--trainable"], capsys, "Only a model of tokens to logits"
    )


def test_a_run_that_lost_its_data(classified: Classified, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(Path(shutil.copytree(classified(*RUNS["series"]).path, tmp_path / "run")))
    run.sums_file.unlink()  # as a version left it that wrote none
    (run.path / "test_examples.npz").unlink()
    refused_by_export(run, tmp_path / "bundle", ["--format", "onnx"], capsys, "There is no", "test_examples.npz")
    (run.path / "classes.json").write_text("[]")
    refused_by_export(run, tmp_path / "bundle", ["--format", "onnx"], capsys, "classes.json cannot be read")
