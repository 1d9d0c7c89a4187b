"""`python -m export` on trained runs: whole bundles or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import manifest, reading
from export.__main__ import main
from export.artifact import Artifact
from export.runners import OPENERS
from export.runtime import load
from export.source import Source
from seqapp.errors import UsageError
from seqapp.run import Run
from seqapp.step import KerasStepper, log_softmax
from seqapp.vocabulary import Vocabulary

OWN_CELL = """
import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bundle_cell")
class Normalized(keras.layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, 5], units
        self.norm, self.slow = keras.layers.LayerNormalization(), keras.layers.Dense(5)

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1] + self.units + 5, self.units), name="kernel")
        self.norm.build((None, self.units))
        self.slow.build((None, self.units))

    def call(self, inputs, states):
        h = ops.silu(self.norm(ops.matmul(ops.concatenate([inputs, *states], -1), self.kernel)))
        return h, [h, 0.9 * states[1] + self.slow(h)]

    def get_config(self):
        return {**super().get_config(), "units": self.units}
"""

Trained = Callable[..., Run]


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Run:
    """A run of our own to damage."""
    return Run(Path(shutil.copytree(trained("--cell", "lstm").path, tmp_path / "run")))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


WRITE = Source.write


def wrong_writer(source: Source, artifact: Artifact, path: Path) -> None:
    """Writes a file that is almost the model."""
    model = source.reference.network.model
    bias = model.output_bias.numpy()
    model.output_bias.assign(bias + np.linspace(0, 1e-3, len(bias)))
    WRITE(source, artifact, path)
    model.output_bias.assign(bias)


FILES = ["saved_model", "model.tflite", "model.onnx"]


def test_everything(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run.path)]) == 0
    made = run.path / "bundle"
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(made)
    assert all(f"writing and validating {name}\n" in printed.err for name in FILES)
    assert sorted(p.name for p in made.iterdir()) == sorted([*FILES, "README.md", "manifest.json", "vocabulary.json"])
    assert Vocabulary.load(made / "vocabulary.json") == run.vocabulary
    content = reading.read(made)
    assert (content["task"], content["parameters"]) == ("next-word", run.metrics["parameters"])
    assert "Cell lstm, 1 × 24 units; trained on talk.txt." in content["description"]
    assert content["vocabulary"]["size"] == len(run.vocabulary)
    assert [file["path"] for file in content["files"]] == FILES
    wanted = run.metrics["test"]["perplexity"]
    for file in content["files"]:
        assert file["sha256"] == manifest.digest(made / file["path"])
        assert file["metrics"]["perplexity"]["value"] == pytest.approx(wanted["value"], rel=1e-3)
        assert file["metrics"]["perplexity"]["count"] == wanted["count"] == len(run.tokens("test"))
        assert file["path"] in (made / "README.md").read_text("utf-8")
        assert any(line.startswith(file["path"]) and f"{file['bytes']:,}" in line for line in printed.out.splitlines())
    for entry in content["parity"]:
        assert entry["largest_difference"] <= entry["tolerance"] == max(1e-5, 4 * entry["keras_float32_error"])
    assert_files_are_the_model(run, made)


def assert_files_are_the_model(run: Run, made: Path, tolerance: float = 2e-5) -> None:
    """On text the model was trained on, where its states are large."""
    model, tokens = run.load_model(), run.tokens("train")[:600].reshape(3, 200)
    reference = KerasStepper(model)
    wanted, _ = reference.sequence(tokens, reference.initial_states(3))
    content = reading.read(made)
    for file in content["files"]:
        runner = OPENERS[file["format"]](made / file["path"], reading.spec_of(made, content))
        logits, _ = runner.sequence(tokens, runner.initial_states(3))
        np.testing.assert_allclose(log_softmax(logits), log_softmax(wanted), rtol=0, atol=tolerance)


def test_smaller_files(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("--cell", "gru", "--units", "64", "--embedding", "64")
    command = [str(run.path), "--out", str(tmp_path / "bundle"), "--format", "onnx", "tflite", "--quantize"]
    assert main([*command, "int8", "dynamic", "float16"]) == 0
    files = {file["path"]: file for file in reading.read(tmp_path / "bundle")["files"]}
    smaller = ["model.dynamic.tflite", "model.float16.tflite", "model.int8.tflite"]
    assert list(files) == ["model.tflite", *smaller, "model.onnx", "model.int8.onnx"]
    for path, file in files.items():
        assert ("losses" in file) == (path not in FILES)
        assert file["bytes"] == (tmp_path / "bundle" / path).stat().st_size
    assert files["model.int8.onnx"]["bytes"] < 0.4 * files["model.onnx"]["bytes"]
    for path in smaller:
        assert files[path]["bytes"] < 0.8 * files["model.tflite"]["bytes"]
    assert_files_are_the_model(run, tmp_path / "bundle", tolerance=1.0)


def test_some_formats_elsewhere(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "er" / "bundle"
    assert main([str(run.path), "--out", str(out), "--format", "onnx"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(out)
    assert "model.onnx" in printed.out
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "manifest.json", "model.onnx", "vocabulary.json"]
    assert [file["path"] for file in reading.read(out)["files"]] == ["model.onnx"]
    assert not (run.path / "bundle").exists()


def test_files_for_microcontrollers(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    assert main([str(run.path), "--out", str(bundle), "--format", "onnx", "--profile", "micro"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(bundle)
    assert "writing and validating model.micro.tflite\n" in printed.err
    sources = ["model.micro.cc", "model.micro.h"]
    made = ["README.md", "manifest.json", *sources, "model.micro.tflite", "model.onnx", "vocabulary.json"]
    assert sorted(p.name for p in bundle.iterdir()) == made
    _, file = reading.read(bundle)["files"]
    assert (file["path"], file["profile"], sorted(file["sources"])) == ("model.micro.tflite", "micro", sources)
    assert file["metrics"]["perplexity"]["value"] == pytest.approx(run.metrics["test"]["perplexity"]["value"], rel=1e-3)
    assert load(bundle).predict("are they") == load(bundle, "onnx").predict("are they")
    with pytest.raises(UsageError, match="There is: none"):
        load(bundle, "litert")


def test_an_old_bundle_is_replaced_only_when_asked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    old = run.path / "bundle"
    (old / "saved_model").mkdir(parents=True)
    (old / "manifest.json").write_text("{}")
    before = contents(old)
    assert main([str(run.path), "--format", "onnx"]) == 2
    assert "exists: name another directory with --out, or replace it with --overwrite" in capsys.readouterr().err
    assert contents(old) == before
    assert main([str(run.path), "--format", "onnx", "--overwrite"]) == 0
    assert sorted(p.name for p in old.iterdir()) == ["README.md", "manifest.json", "model.onnx", "vocabulary.json"]
    assert sorted(p.name for p in run.path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_a_directory_that_is_no_bundle_stays(
    flags: list[str], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert main([str(run.path), "--out", str(tmp_path / "mine"), *flags]) == 2
    assert "mine" in capsys.readouterr().err
    assert contents(tmp_path / "mine") == {"thesis.tex": b"years of work"}


def test_a_directory_that_cannot_be_written(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run.path), "--out", "/proc/bundle"]) == 2
    assert "/proc/bundle cannot be written" in capsys.readouterr().err


def test_a_failed_validation_leaves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run.path)
    monkeypatch.setattr(Source, "write", wrong_writer)
    assert main([str(run.path), "--format", "onnx", "--out", str(run.path / "new" / "bundle")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "failed its validation, nothing was written" in printed.err
    for signature in ("step", "sequence"):
        assert f"model.onnx: {signature}: log-probabilities differ from Keras by" in printed.err
    assert contents(run.path) == before
    assert not (run.path / "new").exists()


def test_a_failed_validation_keeps_the_old_bundle(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([str(run.path), "--format", "onnx"]) == 0
    before = contents(run.path)
    monkeypatch.setattr(Source, "write", wrong_writer)
    assert main([str(run.path), "--format", "onnx", "--overwrite"]) == 1
    assert contents(run.path) == before


def test_a_writer_that_breaks_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: Source, artifact: Artifact, path: Path) -> None:
        path.write_bytes(b"half of")
        raise MemoryError("no room")

    before = contents(run.path)
    monkeypatch.setattr(Source, "write", broken)
    with pytest.raises(MemoryError):
        main([str(run.path), "--format", "onnx"])
    assert contents(run.path) == before
    assert not (run.path / "bundle").exists()


def test_a_vocabulary_of_another_training(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    shorter = Vocabulary(**{**vars_of(run.vocabulary), "tokens": run.vocabulary.tokens[:-1]})
    shorter.save(run.path / "vocabulary.json")
    run.sums_file.unlink()  # as a version left it that wrote none
    assert main([str(run.path)]) == 2
    size = len(run.vocabulary.tokens)
    message = capsys.readouterr().err
    assert f"the vocabulary has {size - 1} tokens and the model {size}" in message
    assert not (run.path / "bundle").exists()


def vars_of(vocabulary: Vocabulary) -> dict[str, Any]:
    return {name: getattr(vocabulary, name) for name in vocabulary.__dataclass_fields__}


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_a_truncated_model(fraction: float, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    content = run.model_file.read_bytes()
    run.model_file.write_bytes(content[: int(fraction * len(content))])
    assert main([str(run.path)]) == 2
    assert "model.keras is damaged" in capsys.readouterr().err
    assert not (run.path / "bundle").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "There is no run directory"),
        (lambda path: (path / "config.json").unlink(), "has no config.json"),
        (lambda path: (path / "model.keras").unlink(), "holds no model.keras"),
        (lambda path: (path / "vocabulary.json").unlink(), "There is no"),
        (lambda path: (path / "test_tokens.npy").write_bytes(b"\x93NUMPY"), "test_tokens.npy is damaged"),
        (lambda path: (path / "metrics.json").unlink(), "holds no metrics.json"),
    ],
    ids=["no run", "no configuration", "no model", "no vocabulary", "damaged tokens", "no metrics"],
)
def test_a_damaged_run(damage: Callable[[Path], None], message: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run.path)
    assert main([str(run.path)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not (run.path / "bundle").exists()


def test_a_cell_of_ones_own(
    trained: Trained,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.mktemp("own")
    (folder / "bundle_cell.py").write_text(OWN_CELL)
    monkeypatch.syspath_prepend(str(folder))
    own = trained("--cell", "bundle_cell:Normalized", "--import", "bundle_cell", "--recurrent-dropout", "0", "--epochs", "1")
    assert main([str(own.path), "--import", "bundle_cell", "--out", str(folder / "bundle")]) == 0
    content = reading.read(folder / "bundle")
    assert [file["path"] for file in content["files"]] == FILES
    assert [(state["layer"], state["role"]) for state in content["states"]] == [(0, "h"), (0, "c")]
    assert [t["shape"] for t in content["signatures"]["step"]["inputs"]] == [["batch"], ["batch", 24], ["batch", 5]]
    assert_files_are_the_model(own, folder / "bundle")
