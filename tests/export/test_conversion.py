"""`export.convert`: a bundle of a Keras model that no run stands behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import export
from export import arena, benchmark, conversion, micro, reading
from export.runners import OPENERS, Runner
from export.runtime import load
from seqapp.errors import RunFailed, UsageError
from seqapp.step import Array, log_softmax
from seqapp.vocabulary import Vocabulary
from tests.export.conftest import Exported, filled, of_features
from tests.export.oracle import compiled

VOCABULARY = Vocabulary.learn(["it is late , is it not ? yes , it is late again : go home"], "word", True)
SIZE = len(VOCABULARY)
RNG = np.random.default_rng(1)
TOKENS, FLOATS = RNG.integers(0, SIZE, 600), RNG.normal(size=(600, 8)).astype(np.float32)


class LeakyCell(layers.Layer):
    """A cell that nobody but this test knows: its memory fades at a speed that it learned, from a state that it learned.

        L_t = σ(r) ⊙ L_{t-1} + X_t·K,  Y_t = softsign(LN(L_t))

    Call: inputs X_t (B, F), states [L_{t-1} (B, U), count (B, 1)] -> Y_t (B, U), states.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, 1], units
        self.norm = layers.LayerNormalization()

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.rate = self.add_weight(shape=(self.units,), name="rate")
        self.first = self.add_weight(shape=(self.units,), name="first")
        self.norm.build((None, self.units))

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        return [ops.broadcast_to(self.first, (batch_size or 1, self.units)), ops.ones((batch_size or 1, 1))]

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        level = ops.sigmoid(self.rate) * states[0] + ops.matmul(inputs, self.kernel)
        return ops.softsign(self.norm(level)) / states[1], [level, 0.5 * states[1] + 1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def of_tokens(*tail: Any) -> Any:
    first = [keras.Input((None,), dtype="int32"), layers.Embedding(SIZE, 6), layers.GRU(12, return_sequences=True)]
    return filled(keras.Sequential([*first, *(tail or [layers.Dense(SIZE, "softmax")])]))


def regressor() -> Any:
    return of_features(layers.RNN(LeakyCell(10), return_sequences=True), layers.Dense(3, "tanh"))


def classifier() -> Any:
    return of_features(layers.LSTM(10), layers.Dense(4))


def both_ways() -> Any:
    return of_tokens(layers.Bidirectional(layers.GRU(6, return_sequences=True)), layers.Dense(SIZE, "softmax"))


def both_ends() -> Any:
    return of_features(layers.Bidirectional(layers.LSTM(6)), layers.Dense(4))


def opened(bundle: Path, name: str) -> Runner:
    content = reading.read(bundle)
    (file,) = [file for file in reading.files_of(bundle, content) if file.path == name]
    return OPENERS[file.format](bundle / name, reading.spec_of(bundle, content))


def run(bundle: Path, name: str, inputs: Array) -> Array:
    """What a file makes of inputs (B, T) or (B, T, F), from the states that the manifest names."""
    runner = opened(bundle, name)
    return runner.sequence(inputs, runner.initial_states(len(inputs)))[0]


def files(content: dict[str, Any]) -> list[str]:
    return [file["path"] for file in content["files"]]


def test_a_model_of_tokens_with_its_vocabulary(tmp_path: Path) -> None:
    model, bundle = of_tokens(), tmp_path / "deep" / "bundle"
    before = [weight.numpy() for weight in model.weights], model.get_config()
    content = export.convert(model, bundle, inputs=TOKENS, vocabulary=VOCABULARY, task="small-talk")
    assert content == reading.read(bundle)
    assert files(content) == ["saved_model", "model.tflite", "model.onnx"]
    assert content["task"] == "small-talk"
    assert {"README.md", "manifest.json", "vocabulary.json"} < {path.name for path in bundle.iterdir()}
    probabilities = np.asarray(model(TOKENS[None, :50]))
    for file in content["files"]:
        logits = run(bundle, file["path"], TOKENS[None, :50])
        np.testing.assert_allclose(np.exp(log_softmax(logits)), probabilities, rtol=1e-4, atol=1e-6)
        # The next token is what is right where nothing else is said.
        assert file["metrics"]["perplexity"]["count"] == len(TOKENS) - 1
    for engine in ("litert", "onnx"):
        for found, wanted in zip(load(bundle, engine).predict("is it", top=2), by_hand(model, "is it", 2), strict=True):
            assert found == (wanted[0], pytest.approx(wanted[1], rel=1e-4))
    for weight, value in zip(model.weights, before[0], strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert model.get_config() == before[1]


def by_hand(model: Any, text: str, top: int) -> list[tuple[str, float]]:
    tokens = [VOCABULARY.end_number, *VOCABULARY.numbers(VOCABULARY.prompt(text))]
    p = np.asarray(model(np.array([tokens])))[0, -1]
    best = [number for number in np.argsort(-p) if number != VOCABULARY.unknown_number][:top]
    return [(VOCABULARY.tokens[number], float(p[number])) for number in best]


def test_a_cell_of_ones_own_with_first_states_of_its_own(tmp_path: Path) -> None:
    model, bundle = regressor(), tmp_path / "bundle"
    content = export.convert(model, str(bundle), formats=["tflite", "onnx"], inputs=FLOATS)
    assert files(content) == ["model.tflite", "model.onnx"]
    first = model.layers[0].cell.first.numpy()
    assert [state["initial"] for state in content["states"]] == ["state_0_initial.npy", 1.0]
    np.testing.assert_array_equal(np.load(bundle / "state_0_initial.npy"), first)
    np.testing.assert_array_equal(reading.spec_of(bundle, content).initial_states(2)[0], [first] * 2)
    output = content["signatures"]["step"]["outputs"][0]
    assert output == {"name": "outputs", "dtype": "float32", "shape": ["batch", 3]}
    assert [entry["metrics"] for entry in content["files"]] == [{}, {}]
    # Compared as they are, not as logits.
    assert all(entry["largest_difference"] <= entry["tolerance"] for entry in content["parity"])
    x = FLOATS[:120].reshape(3, 40, 8)
    for name in files(content):
        np.testing.assert_allclose(run(bundle, name, x), np.asarray(model(x)), rtol=1e-5, atol=1e-5)
    loaded = load(bundle, "litert")
    result, _ = loaded.sequence(x, loaded.initial_states(3))
    np.testing.assert_allclose(result, np.asarray(model(x)), rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="no vocabulary"):
        loaded.predict("is it")


def test_targets_are_what_is_scored(tmp_path: Path) -> None:
    model = classifier()
    logits = np.asarray(keras.Sequential([keras.Input((None, 8)), unrolled(model), model.layers[1]])(FLOATS[None]))[0]
    targets = logits.argmax(-1)
    targets[::4] = (targets[::4] + 1) % 4
    content = export.convert(model, tmp_path / "x", formats=["onnx"], inputs=FLOATS, targets=targets, output="class_logits")
    assert content["signatures"]["step"]["outputs"][0]["name"] == "class_logits"
    found = content["files"][0]["metrics"]
    assert found["top_1_recall"] == {"value": 0.75, "unit": "fraction", "count": 600}
    nats = -log_softmax(logits.astype(np.float64))[np.arange(600), targets].mean()
    assert found["nats_per_token"]["value"] == pytest.approx(nats, rel=1e-5)


def unrolled(model: Any) -> Any:
    """The recurrent layer of a classifier, at every timestep."""
    layer = layers.LSTM(10, return_sequences=True)
    layer.build((None, None, 8))
    layer.set_weights(model.layers[0].get_weights())
    return layer


def test_without_inputs_random_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.conversion.QUALITY", 300)
    content = export.convert(of_tokens(), tmp_path / "tokens", formats=["onnx"])
    assert content["files"][0]["metrics"]["perplexity"]["count"] == 299
    content = export.convert(regressor(), tmp_path / "floats", formats=["onnx"])
    assert content["files"][0]["metrics"] == {}


def test_a_softmax_that_is_kept(tmp_path: Path) -> None:
    model = of_tokens()
    content = export.convert(model, tmp_path / "x", formats=["onnx"], inputs=TOKENS, output="probabilities")
    assert content["files"][0]["metrics"] == {}
    found = run(tmp_path / "x", "model.onnx", TOKENS[None, :50])
    np.testing.assert_allclose(found, np.asarray(model(TOKENS[None, :50])), rtol=1e-5, atol=1e-6)


def test_a_smaller_file_too(tmp_path: Path) -> None:
    # Weights that forget: in a network that amplifies what it is given, no rounding is small.
    model = filled(of_features(layers.GRU(96, return_sequences=True), layers.Dense(40)), scale=0.05)
    content = export.convert(model, tmp_path / "x", formats=["onnx"], quantize=["int8"], inputs=FLOATS)
    assert files(content) == ["model.onnx", "model.int8.onnx"]
    whole, small = content["files"]
    assert small["bytes"] < 0.4 * whole["bytes"]
    assert 0 < small["losses"]["outputs"]["value"] < small["losses"]["outputs"]["limit"]
    x = FLOATS[None, :60]
    difference = run(tmp_path / "x", "model.int8.onnx", x) - np.asarray(model(x))
    assert 0 < np.sqrt(np.mean(difference**2)) < 0.1 * np.std(np.asarray(model(x)))


SHORTER = Vocabulary(VOCABULARY.tokens[:-1], "word", "<eos>", VOCABULARY.token_pattern, VOCABULARY.normalization)
WRONG: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "no model": (lambda: "model.keras", {}, "Only a keras.Sequential or a functional model.*Received: str"),
    "format": (
        of_tokens,
        {"formats": ["tflite", "coreml"]},
        "formats must be among saved_model, tflite, onnx. Received: tflite, core",
    ),
    "no format": (of_tokens, {"formats": []}, "formats must name what to write.*Received: none"),
    "precision": (of_tokens, {"quantize": ["int4"]}, "quantize must be among dynamic, float16, int8. Received: int4"),
    "precision of no format": (
        of_tokens,
        {"formats": ["onnx"], "quantize": ["dynamic"]},
        "The precision dynamic is for tflite: add it to the formats. Received: onnx",
    ),
    "tokens in two axes": (
        of_tokens,
        {"inputs": TOKENS[None]},
        r"inputs must have the shape \(N,\) of tokens. Received: \(1, 600\)",
    ),
    "one token": (of_tokens, {"inputs": TOKENS[:1]}, r"inputs must have the shape \(N,\) of tokens. Received: \(1,\)"),
    "tokens that are no numbers of the table": (
        of_tokens,
        {"inputs": np.append(TOKENS, SIZE)},
        f"inputs must be whole numbers from 0 to {SIZE - 1}. Received: int64 from 0 to {SIZE}",
    ),
    "tokens below zero": (of_tokens, {"inputs": TOKENS - 1}, "Received: int64 from -1 to"),
    "tokens in floats": (of_tokens, {"inputs": TOKENS + 0.5}, "inputs must be whole numbers.*Received: float64 from 0.5"),
    "features of another width": (
        regressor,
        {"inputs": FLOATS[:, :5]},
        r"inputs must have the shape \(N, 8\) of features. Received: \(600, 5\)",
    ),
    "features that are no numbers": (regressor, {"inputs": FLOATS * np.nan}, "inputs must be finite numbers"),
    "targets of outputs": (
        regressor,
        {"inputs": FLOATS, "targets": np.zeros(600, int)},
        "targets need an output of logits: name it so, or leave the targets out. Received: outputs",
    ),
    "too few targets": (
        of_tokens,
        {"inputs": TOKENS, "targets": TOKENS[1:]},
        r"targets must have the shape \(600,\), one for each input. Received: \(599,\)",
    ),
    "targets of another class": (
        classifier,
        {"inputs": FLOATS, "targets": np.full(600, 4), "output": "logits"},
        "targets must be whole numbers from 0 to 3. Received: int64 from 4 to 4",
    ),
    "a vocabulary of another size": (
        of_tokens,
        {"vocabulary": SHORTER, "inputs": TOKENS},
        f"The vocabulary has {SIZE - 1} tokens, and the model is none of so many",
    ),
    "int8 of both ways for LiteRT alone": (
        both_ways,
        {"formats": ["tflite"], "quantize": ["int8"], "inputs": TOKENS},
        "model.int8.tflite runs step by step, and a model that reads both ways cannot: leave int8 out, or add onnx.",
    ),
    "both ways on a microcontroller": (
        both_ends,
        {"micro": True, "inputs": FLOATS},
        "model.micro.tflite runs step by step, and a model that reads both ways cannot: leave micro out.",
    ),
    "both ways that learns": (
        both_ways,
        {"trainable": True, "inputs": TOKENS},
        "model.trainable.tflite runs step by step, and a model that reads both ways cannot: leave trainable out.",
    ),
    "a vocabulary for both ways": (
        both_ways,
        {"vocabulary": VOCABULARY, "inputs": TOKENS},
        "A model that reads both ways does not continue a text: leave the vocabulary out.",
    ),
    "targets of whole sequences": (
        both_ends,
        {"inputs": FLOATS, "targets": np.zeros(600, int), "output": "logits"},
        "targets are one for each timestep, and the model gives one output for each sequence: leave them out.",
    ),
    "a vocabulary for features": (regressor, {"vocabulary": VOCABULARY, "inputs": FLOATS}, "leave the vocabulary out"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str, tmp_path: Path) -> None:
    build, arguments, words = WRONG[name]
    with pytest.raises(UsageError, match=words) as found:
        export.convert(build(), tmp_path / "deep" / "bundle", **arguments)
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


def test_files_of_a_model_that_reads_both_ways(tagger_bundle: Exported, classifier_bundle: Exported) -> None:
    whole, smaller = ["saved_model", "model.tflite", "model.onnx"], ["model.dynamic.tflite", "model.float16.tflite"]
    # LiteRT's int8 has a step alone.
    assert files(tagger_bundle.content) == [*whole[:2], *smaller, whole[2], "model.int8.onnx"]
    assert files(classifier_bundle.content) == whole
    for it in (tagger_bundle, classifier_bundle):
        assert it.content == reading.read(it.folder)
        assert {path.name for path in it.folder.iterdir()} == {*files(it.content), "README.md", "manifest.json"}


def test_both_ways_the_next_token_is_no_target() -> None:
    """The model has seen it."""
    assert conversion.source_of(both_ways(), TOKENS, None, None, None, "tags").reference.targets is None
    assert conversion.source_of(of_tokens(), TOKENS, None, None, None, "tags").reference.targets is not None


def test_both_ways_targets_are_what_is_scored(tmp_path: Path) -> None:
    model, targets = both_ways(), np.roll(TOKENS, 3)
    before = [weight.numpy() for weight in model.weights], model.get_config()
    content = export.convert(model, tmp_path / "bundle", formats=["onnx"], inputs=TOKENS, targets=targets)
    found = content["files"][0]["metrics"]
    # Scored by sequences of 512 timesteps.
    probabilities = np.concatenate([np.asarray(compiled(model)(part[None]))[0] for part in (TOKENS[:512], TOKENS[512:])])
    assert found["nats_per_token"]["count"] == 600
    assert found["nats_per_token"]["value"] == pytest.approx(-np.log(probabilities[np.arange(600), targets]).mean(), rel=1e-5)
    for weight, value in zip(model.weights, before[0], strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert model.get_config() == before[1]


def test_a_bundle_that_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    model, bundle = classifier(), tmp_path / "bundle"
    export.convert(model, bundle, formats=["onnx"], inputs=FLOATS)
    before = (bundle / "model.onnx").read_bytes()
    filled(model, seed=6)
    with pytest.raises(UsageError, match="exists"):
        export.convert(model, bundle, formats=["onnx"], inputs=FLOATS)
    assert (bundle / "model.onnx").read_bytes() == before
    export.convert(model, bundle, formats=["onnx"], inputs=FLOATS, overwrite=True)
    assert (bundle / "model.onnx").read_bytes() != before


class Twice(layers.Dense):
    """A layer that does more than its class."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return 2 * super().call(inputs)


def test_a_model_that_is_no_chain_of_its_layers(tmp_path: Path) -> None:
    model = of_features(layers.GRU(5, return_sequences=True), Twice(3))
    with pytest.raises(UsageError, match="computes something else than its layers do"):
        export.convert(model, tmp_path / "bundle", formats=["onnx"], inputs=FLOATS)
    assert not list(tmp_path.iterdir())


def test_what_litert_cannot_do_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> bytes:
        raise RunFailed("TensorFlow's TFLite converter refused step: no")

    monkeypatch.setattr("export.tflite.convert", refusing)
    with pytest.raises(RunFailed, match="refused step"):
        export.convert(regressor(), tmp_path / "bundle", formats=["onnx", "tflite"], inputs=FLOATS)
    assert not list(tmp_path.iterdir())


def test_a_precision_that_gains_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"nothing was written\. model\.int8\.onnx: .*it holds no weight in int8.*leave int8 out"
    ):
        export.convert(regressor(), tmp_path / "bundle", formats=["onnx"], quantize=["int8"], inputs=FLOATS)
    assert not list(tmp_path.iterdir())


MICRO = ["model.micro.tflite", "model.micro.int8.tflite"]


@pytest.fixture(scope="module")
def gru() -> Any:
    """Large enough for int8, with weights that forget."""
    return filled(of_features(layers.GRU(96, return_sequences=True), layers.Dense(40)), scale=0.05)


@pytest.fixture(scope="module")
def for_microcontrollers(gru: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that has no other TFLite files."""
    bundle = tmp_path_factory.mktemp("micro") / "bundle"
    export.convert(gru, bundle, formats=["onnx"], quantize=["int8"], inputs=FLOATS, micro=True)
    return bundle


def test_files_for_microcontrollers(gru: Any, for_microcontrollers: Path) -> None:
    content = reading.read(for_microcontrollers)
    sources = [Path(name).with_suffix(suffix).name for name in MICRO for suffix in (".h", ".cc")]
    assert files(content) == ["model.onnx", "model.int8.onnx", *MICRO]
    made = {path.name for path in for_microcontrollers.iterdir()}
    assert made == {*files(content), *sources, "manifest.json", "README.md"}
    assert "### C++ on a microcontroller\n" in (for_microcontrollers / "README.md").read_text("utf-8")
    x = FLOATS[None, :60]
    wanted = np.asarray(gru(x))
    for name, allowed in zip(MICRO, (1e-5, 0.1), strict=True):
        difference = run(for_microcontrollers, name, x) - wanted
        assert np.sqrt(np.mean(difference**2)) < allowed * np.std(wanted)


def test_what_a_manifest_says_of_them(for_microcontrollers: Path) -> None:
    content = reading.read(for_microcontrollers)
    _, _, whole, small = content["files"]
    for file in (whole, small):
        data = (for_microcontrollers / file["path"]).read_bytes()
        stem = file["path"].removesuffix(".tflite")
        assert (file["format"], file["profile"], file["signatures"]) == ("tflite", "micro", ["step"])
        assert file["arena"] == {"bytes": arena.arena_size(data), "alignment": 16, "pointers": "64 bits"}
        assert file["resolver"] == micro.registered(data)
        assert file["sources"] == [f"{stem}.h", f"{stem}.cc"]
        assert f"kModelSize = {len(data)};" in (for_microcontrollers / f"{stem}.h").read_text("utf-8")
        assert file["minimum_runtime"] == {"tflite-micro": metadata.version("tflite-micro")}
        assert file["latency"] == {}
        assert [t["shape"] for t in file["own_signatures"]["step"]["inputs"]] == [[1, 8], [1, 96]]
        assert [t["shape"] for t in file["own_signatures"]["step"]["outputs"]] == [[1, 40], [1, 96]]
        (parity,) = [entry for entry in content["parity"] if entry["file"] == file["path"]]
        assert (parity["signature"], parity["batches"]) == ("step", [1])
    assert small["bytes"] < 0.5 * whole["bytes"]
    assert [set(file) & {"arena", "profile", "sources"} for file in content["files"][:2]] == [set(), set()]


def test_the_runtime_leaves_them_alone(for_microcontrollers: Path) -> None:
    """Even where there are no other files for LiteRT, and they come first."""
    content = reading.read(for_microcontrollers)
    digests = {file["path"]: bytes.fromhex(file["sha256"]) for file in content["files"]}
    for _ in range(2):
        for precision, name in (("float32", "model.onnx"), ("int8", "model.int8.onnx")):
            assert load(for_microcontrollers, precision=precision).identity == digests[name]
            with pytest.raises(UsageError, match=rf"no file of precision '{precision}' for litert\. There is: none\."):
                load(for_microcontrollers, "litert", precision)
        content["files"].reverse()
        (for_microcontrollers / "manifest.json").write_text(json.dumps(content), "utf-8")


def test_the_benchmark_does_not_time_them(for_microcontrollers: Path) -> None:
    content = reading.read(for_microcontrollers)
    figures = {name: benchmark.Figures(step=[1.0], memory=2.0) for name in ("model.onnx", "model.int8.onnx")}
    _, _, *rows = benchmark.table(content, figures)
    assert sorted(row.split()[1] for row in rows) == ["model.int8.onnx", "model.onnx"]
    sizes = {file["path"]: (file["bytes"], file["arena"]["bytes"]) for file in content["files"] if file["path"] in MICRO}
    assert sorted(benchmark.remarks(content, figures)) == sorted(
        ["", *(f"{name}, for microcontrollers: {a:,} bytes, and an arena of {b:,} bytes." for name, (a, b) in sizes.items())]
    )
