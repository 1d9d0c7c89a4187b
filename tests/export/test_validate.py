"""Validation finds what is wrong with a file: faults are planted in good ones."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import numpy_helper
from tensorflow.lite.python import schema_py_generated as schema

from export import tflite, validate
from export.bundle import WRITERS
from export.graphs import plain_functions
from export.saved_model import save
from export.spec import Spec
from export.validate import Parity, Reference, Verdict, check_operators, check_parity, check_perplexity, differences, in_float64
from seqapp.config import ModelConfig
from seqapp.job import build_model
from seqapp.model import SequenceModel
from seqapp.scoring import metrics, score
from seqapp.step import KerasStepper
from seqapp.vocabulary import Vocabulary

UNITS = 16
VOCABULARY = Vocabulary.learn(["abcdefghijklmnopqrstuvwxyz .,\n"], "character", True)
STREAM = np.random.default_rng(3).integers(0, len(VOCABULARY), 1100).astype(np.int32)


def model_of(cell: str, seed: int = 5, size: int = len(VOCABULARY)) -> SequenceModel:
    """Large weights, no two alike."""
    model = build_model(ModelConfig(cell=cell, units=UNITS, embedding=12), size)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.get_weights()])
    return model


@dataclass(frozen=True)
class Subject:
    """A model, its good files, and what validation compares them with."""

    reference: Reference
    perplexity: float
    folder: Path

    def write(self, format: str, model: SequenceModel, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            WRITERS[format][1](model, Spec.of(model), path)
        return path

    def good(self, format: str) -> Path:
        return self.write(format, self.reference.model, f"good.{format}")

    def verdict(self, format: str, path: Path) -> Verdict:
        return validate.validate(format, path, self.reference, self.perplexity)

    def failures(self, format: str, path: Path) -> list[str]:
        return self.verdict(format, path).failures


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    @cache
    def of(cell: str) -> Subject:
        model = model_of(cell)
        logs, ranks = score(KerasStepper(model), STREAM, VOCABULARY.end_number)
        perplexity = metrics(logs, ranks, "character")["perplexity"]["value"]
        return Subject(Reference(model, VOCABULARY, STREAM), perplexity, tmp_path_factory.mktemp(cell))

    return of


@pytest.fixture
def lstm(subject: Callable[[str], Subject]) -> Subject:
    return subject("lstm")


def changed(path: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of an ONNX file with a change made to it."""
    file = onnx.load(path)
    change(file)
    target.write_bytes(file.SerializeToString())
    return target


def change_weight(file: onnx.ModelProto, operator: str, number: int, change: Callable[[Any], Any]) -> None:
    """Changes one input of the only node of an operator."""
    (node,) = [node for node in file.graph.node if node.op_type == operator]
    (weight,) = [weight for weight in file.graph.initializer if weight.name == node.input[number]]
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight).copy()), weight.name))


def rename(file: onnx.ModelProto, names: dict[str, str]) -> None:
    for value in (*file.graph.input, *file.graph.output):
        value.name = names.get(value.name, value.name)
    for node in file.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]


def topics(failures: list[str]) -> list[str]:
    """What each failure of the numbers is about."""
    return [text.split(" differ")[0].split(" is ")[0] for text in failures]


OF_THE_NUMBERS = [
    "step: log-probabilities",
    "step: states",
    "sequence: log-probabilities",
    "sequence: states",
    "its perplexity",
]


@pytest.mark.parametrize(("format", "cell"), [("saved_model", "lstm"), ("tflite", "lstm"), ("onnx", "lstm"), ("onnx", "gru")])
def test_a_good_file_passes(format: str, cell: str, subject: Callable[[str], Subject]) -> None:
    it = subject(cell)
    verdict = it.verdict(format, it.good(format))
    assert verdict.failures == []
    assert [parity.signature for parity in verdict.parity] == ["step", "sequence"]
    assert all(parity.largest_difference <= 1e-5 for parity in verdict.parity)
    assert verdict.metrics["perplexity"]["value"] == pytest.approx(it.perplexity, rel=1e-4)
    assert verdict.metrics["perplexity"]["count"] == len(STREAM)


def test_a_weight_that_is_not_a_number(lstm: Subject) -> None:
    broken = model_of("lstm")
    weights = broken.get_weights()
    weights[1][0, 0] = np.nan
    broken.set_weights(weights)
    failures = lstm.failures("onnx", lstm.write("onnx", broken, "nan.onnx"))
    assert topics(failures) == OF_THE_NUMBERS
    assert "differ from Keras by inf" in failures[0]
    assert failures[-1].startswith("its perplexity is nan, the run's ")


def test_swapped_gates(lstm: Subject, tmp_path: Path) -> None:
    def swap(weights: Any) -> Any:  # i o f g -> i f o g
        i, o, f, g = np.split(weights, 4, axis=1)
        return np.concatenate([i, f, o, g], axis=1)

    path = changed(lstm.good("onnx"), tmp_path / "x", lambda file: change_weight(file, "LSTM", 1, swap))
    assert topics(lstm.failures("onnx", path)) == OF_THE_NUMBERS


def test_reset_gate_on_the_wrong_side_of_the_product(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    def change(file: onnx.ModelProto) -> None:
        (node,) = [node for node in file.graph.node if node.op_type == "GRU"]
        (attribute,) = [a for a in node.attribute if a.name == "linear_before_reset"]
        attribute.i = 0

    gru = subject("gru")
    assert topics(gru.failures("onnx", changed(gru.good("onnx"), tmp_path / "x", change))) == OF_THE_NUMBERS


def test_states_under_each_others_names(lstm: Subject, tmp_path: Path) -> None:
    names = {"state_0_in": "state_1_in", "state_1_in": "state_0_in"}
    inputs = changed(lstm.good("onnx"), tmp_path / "inputs", lambda file: rename(file, names))
    assert {"step: log-probabilities", "sequence: log-probabilities"} <= set(topics(lstm.failures("onnx", inputs)))
    # Swapped on both sides, the logits are right: only the states tell.
    names |= {"state_0_out": "state_1_out", "state_1_out": "state_0_out"}
    both = changed(lstm.good("onnx"), tmp_path / "both", lambda file: rename(file, names))
    assert topics(lstm.failures("onnx", both)) == ["step: states", "sequence: states"]


def test_a_batch_that_is_fixed(lstm: Subject, tmp_path: Path) -> None:
    def change(file: onnx.ModelProto) -> None:
        file.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    failures = lstm.failures("onnx", changed(lstm.good("onnx"), tmp_path / "x", change))
    assert "sequence: tokens should be ('int32', [-1, -1]), is ('int32', [1, -1])" in failures


def test_everything_wrong_with_a_declaration_at_once(lstm: Subject, tmp_path: Path) -> None:
    def change(file: onnx.ModelProto) -> None:
        rename(file, {"state_1_in": "memory", "logits": "scores"})
        file.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 3

    assert lstm.failures("onnx", changed(lstm.good("onnx"), tmp_path / "x", change)) == [
        "sequence: memory should be None, is ('float32', [-1, 16])",
        "sequence: state_0_in should be ('float32', [-1, 16]), is ('float32', [3, 16])",
        "sequence: state_1_in should be ('float32', [-1, 16]), is None",
        f"sequence: logits should be ('float32', [-1, -1, {len(VOCABULARY)}]), is None",
        f"sequence: scores should be None, is ('float32', [-1, -1, {len(VOCABULARY)}])",
    ]


def test_a_signature_that_is_missing(lstm: Subject, tmp_path: Path) -> None:
    model = tflite.read(lstm.good("tflite").read_bytes())
    model.signatureDefs = [definition for definition in model.signatureDefs if definition.signatureKey == b"sequence"]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "x").write_bytes(builder.Output())
    assert lstm.failures("tflite", tmp_path / "x") == ["there is no signature step"]


@pytest.mark.parametrize("format", ["tflite", "onnx"])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_a_truncated_file(format: str, fraction: float, lstm: Subject, tmp_path: Path) -> None:
    content = lstm.good(format).read_bytes()
    (tmp_path / "x").write_bytes(content[: int(fraction * len(content))])
    (failure,) = lstm.failures(format, tmp_path / "x")
    assert failure.startswith("the engine refuses it: ")


@pytest.mark.parametrize("part", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"])
def test_a_truncated_saved_model(part: str, lstm: Subject, tmp_path: Path) -> None:
    shutil.copytree(lstm.good("saved_model"), tmp_path / "x")
    content = (tmp_path / "x" / part).read_bytes()
    (tmp_path / "x" / part).write_bytes(content[: len(content) // 2])
    (failure,) = lstm.failures("saved_model", tmp_path / "x")
    assert failure.startswith("the engine refuses it: ")


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_one_bit_of_a_weight(format: str, lstm: Subject, tmp_path: Path) -> None:
    content = bytearray(lstm.good(format).read_bytes())
    model, end = lstm.reference.model, VOCABULARY.end_number
    # The output bias of the end: in TFLite in an array of its own, in ONNX behind that token's embedding.
    before = {"tflite": model.output_bias.numpy()[:end], "onnx": model.embedding.embeddings.numpy()[end]}[format]
    place = content.find(before.tobytes())
    assert place > 0
    content[place + before.nbytes + 3] ^= 0x40  # the highest bit of the exponent
    (tmp_path / "x").write_bytes(content)
    assert {"step: log-probabilities", "sequence: log-probabilities", "its perplexity"} <= set(
        topics(lstm.failures(format, tmp_path / "x"))
    )


def test_one_bit_of_a_weight_in_a_saved_model(lstm: Subject, tmp_path: Path) -> None:
    shutil.copytree(lstm.good("saved_model"), tmp_path / "x")
    data = tmp_path / "x" / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[content.find(lstm.reference.model.output_bias.numpy().tobytes()) + 3] ^= 0x40
    data.write_bytes(content)
    (failure,) = lstm.failures("saved_model", tmp_path / "x")
    assert failure.startswith("the engine refuses it: ")


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_the_file_of_another_model(format: str, lstm: Subject) -> None:
    path = lstm.write(format, model_of("lstm", seed=6), f"other.{format}")
    assert topics(lstm.failures(format, path)) == OF_THE_NUMBERS


def test_the_file_of_another_vocabulary(lstm: Subject) -> None:
    size = len(VOCABULARY)
    path = lstm.write("tflite", model_of("lstm", size=size + 1), "larger.tflite")
    assert lstm.failures("tflite", path) == [
        f"step: logits should be ('float32', [-1, {size}]), is ('float32', [-1, {size + 1}])",
        f"sequence: logits should be ('float32', [-1, -1, {size}]), is ('float32', [-1, -1, {size + 1}])",
    ]


def ignore_states(file: onnx.ModelProto, baked: float) -> None:
    """Puts a constant where the states came in."""
    for name, value in (("nothing", 0.0), ("baked", baked)):
        file.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    for node in file.graph.node:
        node.input[:] = [f"{name}_ignored" if name.startswith("state_") else name for name in node.input]
    for i in range(2):
        file.graph.node.insert(0, onnx.helper.make_node("Add", [f"zero_{i}", "baked"], [f"state_{i}_in_ignored"]))
        file.graph.node.insert(0, onnx.helper.make_node("Mul", [f"state_{i}_in", "nothing"], [f"zero_{i}"]))


@pytest.mark.parametrize("baked", [0.0, 0.7])
def test_a_state_that_is_baked_in(baked: float, lstm: Subject, tmp_path: Path) -> None:
    path = changed(lstm.good("onnx"), tmp_path / "x", lambda file: ignore_states(file, baked))
    assert {"step: log-probabilities", "sequence: log-probabilities"} <= set(topics(lstm.failures("onnx", path)))


def test_a_saved_model_that_keeps_its_state_to_itself(lstm: Subject, tmp_path: Path) -> None:
    model, spec = lstm.reference.model, lstm.reference.spec
    zeros = {state.input: tf.zeros((1, state.size)) for state in spec.states}
    good = plain_functions(model, spec)

    def deaf(name: str) -> Any:
        def body(tokens: Any, **states: Any) -> Any:
            return good[name](tokens=tokens, **{key: value * 0 + zeros[key] for key, value in states.items()})

        shapes = {t.name: [None if isinstance(a, str) else a for a in t.shape] for t in spec.signatures[name].inputs}
        kinds = {t.name: t.dtype for t in spec.signatures[name].inputs}
        specs = {key: tf.TensorSpec(shape, kinds[key], name=key) for key, shape in shapes.items()}
        return tf.function(body, autograph=False).get_concrete_function(**specs)

    save(model, {name: deaf(name) for name in spec.signatures}, tmp_path / "x")
    assert {"step: log-probabilities", "sequence: log-probabilities"} <= set(
        topics(lstm.failures("saved_model", tmp_path / "x"))
    )


def test_operators_that_are_not_built_in(lstm: Subject, tmp_path: Path) -> None:
    folder, path = tmp_path / "folder", tmp_path / "flex.tflite"
    save(lstm.reference.model, plain_functions(lstm.reference.model, lstm.reference.spec), folder)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["step", "sequence"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    path.write_bytes(converter.convert())
    found = list(check_operators(path))
    assert "it needs the operator FlexTensorListReserve, which is not built into LiteRT" in found
    assert all("Flex" in text for text in found)
    assert lstm.failures("tflite", path)


@pytest.mark.parametrize(
    "name", ["FlexTensorListReserve", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE", "MyOp"]
)
def test_a_forbidden_operator(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "operators", lambda content: {"ADD": 3, name: 1, "DYNAMIC_UPDATE_SLICE": 2})
    (tmp_path / "x").touch()
    assert list(check_operators(tmp_path / "x")) == [f"it needs the operator {name}, which is not built into LiteRT"]


def test_a_custom_operator_in_capitals(tmp_path: Path) -> None:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = schema.BuiltinOperator.CUSTOM, 32, b"MY_OP"
    model, graph, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    model.operatorCodes, model.subgraphs, graph.operators = [code], [graph], [operator]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "x").write_bytes(builder.Output())
    assert len(list(check_operators(tmp_path / "x"))) == 1


def test_differences_see_what_is_not_a_number() -> None:
    a, b = np.zeros((2, 3)), np.zeros((2, 3))
    state = [np.ones((2, 4))]
    b[1, 2] = 0.25
    assert differences((a, state), (b, state)) == (0.25, 0.0)
    for bad in (np.nan, np.inf, -np.inf):
        b[0, 0] = bad
        assert differences((a, state), (b, state)) == (math.inf, 0.0)
        assert differences((b, state), (b, state)) == (math.inf, 0.0)
        assert differences((a, state), (a, [np.full((2, 4), bad)])) == (0.0, math.inf)
        assert differences((a, [*state, b]), (a, [*state, b]))[1] == math.inf


def test_differences_of_other_shapes_are_infinite() -> None:
    assert differences((np.zeros((2, 3)), [np.zeros(1)]), (np.zeros((1, 3)), [np.zeros(1)])) == (math.inf, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2e-5])
def test_parity_is_refused_above_the_tolerance(value: float, lstm: Subject) -> None:
    assert lstm.reference.tolerances == (1e-5, 1e-5)
    assert topics(list(check_parity(Parity("step", value, 1e-5), lstm.reference))) == ["step: log-probabilities"]
    assert topics(list(check_parity(Parity("sequence", 0.0, value), lstm.reference))) == ["sequence: states"]
    assert list(check_parity(Parity("step", 1e-5, 1e-5), lstm.reference)) == []


def test_perplexity_is_compared_to_a_thousandth() -> None:
    assert list(check_perplexity(100.09, 100.0)) == []
    for found in (100.2, 99.8, math.nan, math.inf):
        assert list(check_perplexity(found, 100.0)) == [f"its perplexity is {found:.4f}, the run's 100.0000"]


def reference_of(rounding: tuple[float, float]) -> Reference:
    reference = Reference(model_of("gru"), VOCABULARY, STREAM)
    reference.__dict__["rounding"] = rounding
    return reference


def test_tolerance_follows_the_models_own_rounding() -> None:
    assert reference_of((0.0, 2.5e-6)).tolerances == (1e-5, 1e-5)
    assert reference_of((1e-5, 3e-6)).tolerances == pytest.approx((4e-5, 1.2e-5))


def test_rounding_is_the_distance_of_float32_from_float64(lstm: Subject) -> None:
    logs, states = lstm.reference.rounding
    assert 0 < logs < 1e-5
    assert 0 < states < 1e-5


def test_float64_has_the_same_weights(lstm: Subject) -> None:
    model = lstm.reference.model
    exact = in_float64(model)
    for a, b in zip(exact.get_weights(), model.get_weights(), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_array_equal(a, b)
    logits, states = KerasStepper(exact).sequence(STREAM[None, :20], [np.zeros((1, UNITS))] * 2)
    assert {array.dtype for array in (logits, *states)} == {np.dtype(np.float64)}
    rounded, _ = KerasStepper(model).sequence(STREAM[None, :20], [np.zeros((1, UNITS), np.float32)] * 2)
    assert 0 < np.abs(logits - rounded).max() < 1e-5
    assert {weight.dtype for weight in model.weights} == {"float32"}


def test_a_short_stream_is_repeated() -> None:
    tokens = Reference(model_of("gru"), VOCABULARY, STREAM[:7]).tokens
    assert tokens.shape == (3, 1000)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens[0], np.resize(STREAM[:7], 1000))


@pytest.mark.parametrize("length", [7, 500, 1000, 1100])
def test_rows_differ(length: int) -> None:
    rows = Reference(model_of("gru"), VOCABULARY, STREAM[:length]).tokens
    assert len(np.unique(rows[:, :100], axis=0)) == 3
