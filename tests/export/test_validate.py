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
from keras import layers, ops
from onnx import numpy_helper
from tensorflow.lite.python import schema_py_generated as schema

from export import flatbuffer, quantize, stages, tflite, validate
from export.artifact import APP, ARTIFACTS, of_sequences
from export.graphs import function, plain_functions
from export.network import Network
from export.onnx_graph import write_onnx
from export.reference import Judge, Reference
from export.saved_model import save, write_saved_model
from export.spec import PREFILL, Spec
from export.stages import Recurrent
from export.validate import LIMITS, Loss, Parity, Verdict, check_loss, check_operators, check_parity, check_perplexity
from seqapp.cells import LSTMCell
from seqapp.model import SequenceModel
from seqapp.scoring import metrics
from tests.export.conftest import (
    ENDS,
    LARGE_SIZE,
    UNITS,
    VOCABULARY,
    Exported,
    classifier,
    filled,
    large_network,
    large_tflite,
    model_of,
    network_of,
    of_features,
    tagger,
    tflite_of,
)

pytestmark = pytest.mark.usefixtures("lengths_of_users")
MODELS = {"lstm": ("lstm", 1, "untied"), "gru": ("gru", 1, "tied")}
STREAM = np.random.default_rng(3).integers(0, VOCABULARY, 1101).astype(np.int32)
NAMES = {"saved_model": "saved_model", "tflite": "model.tflite", "onnx": "model.onnx"}


@dataclass(frozen=True)
class Subject:
    """A model, its good files, and what validation compares them with."""

    model: tuple[str, int, str]
    reference: Reference
    perplexity: float
    folder: Path

    def good(self, format: str) -> Path:
        path = self.folder / f"good.{format}"
        if not path.exists():
            network, spec = self.reference.network, self.reference.spec
            if format == "tflite":
                path.write_bytes(tflite_of(*self.model))
            else:
                {"saved_model": write_saved_model, "onnx": write_onnx}[format](network, spec, path)
        return path

    def verdict(self, format: str, path: Path) -> Verdict:
        (artifact,) = [artifact for artifact in ARTIFACTS if artifact.path == NAMES[format]]
        return validate.validate(artifact, path, self.reference, self.perplexity)

    def failures(self, format: str, path: Path) -> list[str]:
        return self.verdict(format, path).failures


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    @cache
    def of(cell: str) -> Subject:
        reference = Reference(network_of(*MODELS[cell]), STREAM[:-1], STREAM[1:], Judge.of_tokens("character"))
        scores = reference.score(reference.keras, len(STREAM))
        perplexity = metrics(*scores, "character")["perplexity"]["value"]
        return Subject(MODELS[cell], reference, perplexity, tmp_path_factory.mktemp(cell))

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


def changed_tflite(path: Path, target: Path, change: Callable[[Any], None]) -> Path:
    model = flatbuffer.read(path.read_bytes())
    change(model)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    target.write_bytes(builder.Output())
    return target


def change_weight(file: onnx.ModelProto, operator: str, number: int, change: Callable[[Any], Any]) -> None:
    """Changes the weights behind one input of the only node of an operator, which an Unsqueeze brings into shape."""
    (node,) = [node for node in file.graph.node if node.op_type == operator]
    (before,) = [other for other in file.graph.node if node.input[number] in other.output]
    (weight,) = [weight for weight in file.graph.initializer if weight.name == before.input[0]]
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
WITH_PREFILL = [*OF_THE_NUMBERS[:4], "prefill: log-probabilities", "prefill: states", "its perplexity"]


@pytest.mark.parametrize(("format", "cell"), [("saved_model", "lstm"), ("tflite", "lstm"), ("onnx", "lstm"), ("onnx", "gru")])
def test_a_good_file_passes(format: str, cell: str, subject: Callable[[str], Subject]) -> None:
    it = subject(cell)
    verdict = it.verdict(format, it.good(format))
    assert verdict.failures == []
    assert [found.signature for found in verdict.parity] == ["step", "sequence", "prefill"][: 2 if format == "onnx" else 3]
    assert all(found.largest_difference <= 1e-5 for found in verdict.parity)
    assert verdict.metrics["perplexity"]["value"] == pytest.approx(it.perplexity, rel=1e-4)
    assert verdict.metrics["perplexity"]["count"] == len(STREAM) - 1
    assert verdict.losses == []
    assert set(verdict.latency) == {"step", "sequence"}
    assert all(0 < value < 1e6 for value in verdict.latency.values())


def test_without_known_perplexity_keras_own_is_the_measure(lstm: Subject) -> None:
    (artifact,) = [artifact for artifact in ARTIFACTS if artifact.path == "model.onnx"]
    verdict = validate.validate(artifact, lstm.good("onnx"), lstm.reference)
    assert verdict.failures == []
    assert verdict.metrics["perplexity"]["value"] == pytest.approx(lstm.perplexity, rel=1e-4)


def test_without_targets_there_is_no_perplexity(tmp_path: Path) -> None:
    network = Network.of(of_features(layers.GRU(5, return_sequences=True), layers.Dense(3)))
    write_onnx(network, Spec.of(network), tmp_path / "x")
    reference = Reference(network, np.random.default_rng(1).normal(size=(300, 8)))
    (artifact,) = [artifact for artifact in ARTIFACTS if artifact.path == "model.onnx"]
    verdict = validate.validate(artifact, tmp_path / "x", reference)
    assert (verdict.failures, verdict.metrics) == ([], {})
    filled(network.model, seed=6)  # the file is of another model now
    reference = Reference(network, np.random.default_rng(1).normal(size=(300, 8)))
    assert topics(validate.validate(artifact, tmp_path / "x", reference).failures) == [
        "step: outputs",
        "step: states",
        "sequence: outputs",
        "sequence: states",
    ]


def not_a_number(network: Network) -> Network:
    """A copy of a model of ours with NaN in a gate, which ONNX Runtime makes numbers of, and in a class."""
    broken = model_of(cell="lstm", **ENDS["untied"])
    broken.set_weights(network.model.get_weights())
    for kernel in (broken.recurrent[0].cell.recurrent_kernel, broken.output_kernel):
        kernel.assign(np.where(np.arange(kernel.shape[1]) == 3, np.nan, kernel.numpy()))
    return Network.of(broken)


@pytest.mark.parametrize("format", ["saved_model", "onnx"])
def test_a_weight_that_is_not_a_number(format: str, lstm: Subject, tmp_path: Path) -> None:
    write: Any = {"saved_model": write_saved_model, "onnx": write_onnx}[format]
    write(not_a_number(lstm.reference.network), lstm.reference.spec, tmp_path / "x")
    failures = lstm.failures(format, tmp_path / "x")
    assert topics(failures) == (OF_THE_NUMBERS if format == "onnx" else WITH_PREFILL)
    assert "differ from Keras by inf" in failures[0]
    assert failures[-1].startswith("its perplexity is nan, the run's ")


def test_a_weight_that_is_not_a_number_in_tflite(lstm: Subject, tmp_path: Path) -> None:
    kernel = lstm.reference.network.recurrent[0].cell.recurrent_kernel.numpy()

    def change(model: Any) -> None:
        (buffer,) = [b for b in model.buffers if b.data is not None and bytes(b.data) == kernel.T.tobytes()]
        buffer.data = np.frombuffer(np.full(kernel.size, np.nan, np.float32).tobytes(), np.uint8)

    failures = lstm.failures("tflite", changed_tflite(lstm.good("tflite"), tmp_path / "x", change))
    assert topics(failures) == WITH_PREFILL
    assert "differ from Keras by inf" in failures[0]


def test_missing_weights(lstm: Subject, tmp_path: Path) -> None:
    def forget(file: onnx.ModelProto) -> None:
        del file.graph.initializer[:]

    (failure,) = lstm.failures("onnx", changed(lstm.good("onnx"), tmp_path / "onnx", forget))
    assert failure.startswith("the engine refuses it: ")

    def empty(model: Any) -> None:
        for buffer in model.buffers:
            if buffer.data is not None and len(buffer.data) > 1000:
                buffer.data = None

    assert lstm.failures("tflite", changed_tflite(lstm.good("tflite"), tmp_path / "tflite", empty))
    shutil.copytree(lstm.good("saved_model"), tmp_path / "saved_model")
    shutil.rmtree(tmp_path / "saved_model" / "variables")
    (failure,) = lstm.failures("saved_model", tmp_path / "saved_model")
    assert failure.startswith("the engine refuses it: ")


def test_swapped_gates(lstm: Subject, tmp_path: Path) -> None:
    def swap(weights: Any) -> Any:  # i o f g -> i f o g
        i, o, f, g = np.split(weights, 4, axis=0)
        return np.concatenate([i, f, o, g], axis=0)

    path = changed(lstm.good("onnx"), tmp_path / "x", lambda file: change_weight(file, "LSTM", 1, swap))
    assert topics(lstm.failures("onnx", path)) == OF_THE_NUMBERS


def test_reset_gate_on_the_wrong_side_of_the_product(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    def change(file: onnx.ModelProto) -> None:
        (node,) = [node for node in file.graph.node if node.op_type == "GRU"]
        (attribute,) = [a for a in node.attribute if a.name == "linear_before_reset"]
        attribute.i = 0

    gru = subject("gru")
    assert topics(gru.failures("onnx", changed(gru.good("onnx"), tmp_path / "x", change))) == OF_THE_NUMBERS


class ClippedCell(LSTMCell):
    """What TensorFlow's converter makes of an LSTM where it fuses one."""

    def recur(self, projected: Any, states: Any) -> Any:
        _, (h, c) = super().recur(projected, states)
        return h, [h, ops.clip(c, -10, 10)]


def test_a_memory_that_is_clipped_at_10(tmp_path: Path) -> None:
    networks = []
    for cell in (LSTMCell(UNITS), ClippedCell(UNITS)):
        model = filled(SequenceModel(VOCABULARY, [cell], **ENDS["untied"]))
        cell.bias.assign(cell.bias + np.repeat([1, 6, 0.5, 0], UNITS))  # it forgets slowly, and grows
        networks.append(Network.of(model))
    exact, clipped = networks
    reference = Reference(exact, STREAM[:-1], STREAM[1:], Judge.of_tokens("character"))
    assert np.abs(reference.expected[1][1]).max() > 20
    (artifact,) = [artifact for artifact in ARTIFACTS if artifact.path == "model.onnx"]
    for network, failures in ((exact, []), (clipped, OF_THE_NUMBERS[:4])):
        write_onnx(network, Spec.of(network), tmp_path / "x")
        assert topics(validate.validate(artifact, tmp_path / "x", reference).failures) == failures


def test_states_under_each_others_names(lstm: Subject, tmp_path: Path) -> None:
    names = {"state_0_in": "state_1_in", "state_1_in": "state_0_in"}
    inputs = changed(lstm.good("onnx"), tmp_path / "inputs", lambda file: rename(file, names))
    assert {"step: log-probabilities", "sequence: log-probabilities"} <= set(topics(lstm.failures("onnx", inputs)))
    # Swapped on both sides, the logits are right: only the states tell.
    names |= {"state_0_out": "state_1_out", "state_1_out": "state_0_out"}
    both = changed(lstm.good("onnx"), tmp_path / "both", lambda file: rename(file, names))
    assert topics(lstm.failures("onnx", both)) == ["step: states", "sequence: states"]


def test_states_under_each_others_names_in_one_signature(lstm: Subject, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        (step,) = [entry for entry in model.signatureDefs if entry.signatureKey == b"step"]
        one, other = [tensor for tensor in step.inputs if tensor.name.startswith(b"state")]
        one.tensorIndex, other.tensorIndex = other.tensorIndex, one.tensorIndex

    path = changed_tflite(lstm.good("tflite"), tmp_path / "x", change)
    assert topics(lstm.failures("tflite", path)) == ["step: log-probabilities", "step: states"]


def test_a_batch_that_is_fixed(lstm: Subject, tmp_path: Path) -> None:
    def change(file: onnx.ModelProto) -> None:
        file.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    failures = lstm.failures("onnx", changed(lstm.good("onnx"), tmp_path / "x", change))
    assert "sequence: tokens should be ('int32', [-1, -1]), is ('int32', [1, -1])" in failures


def test_a_batch_that_is_fixed_in_one_signature(lstm: Subject, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        (step,) = [entry for entry in model.signatureDefs if entry.signatureKey == b"step"]
        (index,) = [tensor.tensorIndex for tensor in step.inputs if tensor.name == b"tokens"]
        model.subgraphs[step.subgraphIndex].tensors[index].shapeSignature = None

    assert lstm.failures("tflite", changed_tflite(lstm.good("tflite"), tmp_path / "x", change)) == [
        "step: tokens should be ('int32', [-1]), is ('int32', [1])"
    ]


def test_everything_wrong_with_a_declaration_at_once(lstm: Subject, tmp_path: Path) -> None:
    def change(file: onnx.ModelProto) -> None:
        rename(file, {"state_1_in": "memory", "logits": "scores"})
        file.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 3

    assert lstm.failures("onnx", changed(lstm.good("onnx"), tmp_path / "x", change)) == [
        "sequence: memory should be None, is ('float32', [-1, 16])",
        "sequence: state_0_in should be ('float32', [-1, 16]), is ('float32', [3, 16])",
        "sequence: state_1_in should be ('float32', [-1, 16]), is None",
        f"sequence: logits should be ('float32', [-1, -1, {VOCABULARY}]), is None",
        f"sequence: scores should be None, is ('float32', [-1, -1, {VOCABULARY}])",
    ]


@pytest.mark.parametrize("missing", ["step", "sequence", "prefill"])
def test_a_signature_that_is_missing(missing: str, lstm: Subject, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model.signatureDefs = [entry for entry in model.signatureDefs if entry.signatureKey.decode() != missing]

    path = changed_tflite(lstm.good("tflite"), tmp_path / "x", change)
    assert lstm.failures("tflite", path) == [f"there is no signature {missing}"]


def test_a_prefill_of_another_timestep(lstm: Subject, tmp_path: Path) -> None:
    network, spec = lstm.reference.network, lstm.reference.spec

    def first(x: Any, states: Any) -> Any:
        y, states = network.run(Recurrent.whole, x, states)
        return network.finish(y[:, 0]), states

    made = plain_functions(network, spec) | {PREFILL: function(first, spec.signatures[PREFILL], spec)}
    save(network, made, tmp_path / "x")
    assert topics(lstm.failures("saved_model", tmp_path / "x")) == ["prefill: log-probabilities"]


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
    content, bias = bytearray(lstm.good(format).read_bytes()), lstm.reference.network.model.output_bias.numpy()
    place = content.find(bias.tobytes())
    assert place > 0
    content[place + 3] ^= 0x40  # the highest bit of the exponent
    (tmp_path / "x").write_bytes(content)
    assert {"step: log-probabilities", "sequence: log-probabilities", "its perplexity"} <= set(
        topics(lstm.failures(format, tmp_path / "x"))
    )


def test_one_bit_of_a_weight_in_a_saved_model(lstm: Subject, tmp_path: Path) -> None:
    shutil.copytree(lstm.good("saved_model"), tmp_path / "x")
    data = tmp_path / "x" / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[content.find(lstm.reference.network.model.output_bias.numpy().tobytes()) + 3] ^= 0x40
    data.write_bytes(content)
    (failure,) = lstm.failures("saved_model", tmp_path / "x")
    assert failure.startswith("the engine refuses it: ")


def test_the_file_of_another_model(lstm: Subject, tmp_path: Path) -> None:
    write_onnx(Network.of(model_of(cell="lstm", seed=6, **ENDS["untied"])), lstm.reference.spec, tmp_path / "x")
    assert topics(lstm.failures("onnx", tmp_path / "x")) == OF_THE_NUMBERS


def test_the_file_of_another_vocabulary(lstm: Subject, tmp_path: Path) -> None:
    larger = Network.of(model_of(VOCABULARY + 1, cell="lstm", **ENDS["untied"]))
    write_onnx(larger, Spec.of(larger), tmp_path / "x")
    assert lstm.failures("onnx", tmp_path / "x") == [
        f"sequence: logits should be ('float32', [-1, -1, {VOCABULARY}]), is ('float32', [-1, -1, {VOCABULARY + 1}])"
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
    network, spec = lstm.reference.network, lstm.reference.spec
    zeros = {state.input: tf.zeros((1, state.size)) for state in spec.states}
    good = plain_functions(network, spec)

    def deaf(name: str) -> Any:
        def body(tokens: Any, **states: Any) -> Any:
            return good[name](tokens=tokens, **{key: value * 0 + zeros[key] for key, value in states.items()})

        shapes = {t.name: [None if isinstance(a, str) else a for a in t.shape] for t in spec.signatures[name].inputs}
        kinds = {t.name: t.dtype for t in spec.signatures[name].inputs}
        specs = {key: tf.TensorSpec(shape, kinds[key], name=key) for key, shape in shapes.items()}
        return tf.function(body, autograph=False).get_concrete_function(**specs)

    save(network, {name: deaf(name) for name in spec.signatures}, tmp_path / "x")
    assert {"step: log-probabilities", "sequence: log-probabilities"} <= set(
        topics(lstm.failures("saved_model", tmp_path / "x"))
    )


def test_operators_that_are_not_built_in(lstm: Subject, tmp_path: Path) -> None:
    folder, path = tmp_path / "folder", tmp_path / "flex.tflite"
    save(lstm.reference.network, plain_functions(lstm.reference.network, lstm.reference.spec), folder)
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
    monkeypatch.setattr(flatbuffer, "operators", lambda content: {"ADD": 3, name: 1, "DYNAMIC_UPDATE_SLICE": 2})
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


def test_variables_are_allowed_where_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatbuffer, "operators", lambda content: dict.fromkeys((*validate.VARIABLES, "ADD"), 1))
    (tmp_path / "x").touch()
    assert list(check_operators(tmp_path / "x", validate.VARIABLES)) == []
    assert len(list(check_operators(tmp_path / "x"))) == len(validate.VARIABLES)


@pytest.fixture(scope="module")
def large() -> Reference:
    stream = np.random.default_rng(8).integers(0, LARGE_SIZE, 3001)
    return Reference(large_network(), stream[:-1], stream[1:])


def of_precision(name: str, format: str = "tflite") -> Any:
    (artifact,) = [a for a in ARTIFACTS if (a.precision, a.format, a.profile) == (name, format, APP)]
    return artifact


@pytest.mark.parametrize("precision", ["dynamic", "float16", "int8"])
def test_a_good_quantized_file_passes(precision: str, large: Reference, tmp_path: Path) -> None:
    content = tflite.quantized(large_tflite(), precision, large.spec, large.inputs[:500])
    (tmp_path / "x").write_bytes(content)
    verdict = validate.validate(of_precision(precision), tmp_path / "x", large, None, len(large_tflite()))
    assert verdict.failures == []
    assert [found.signature for found in verdict.parity] == (
        ["step"] if precision == "int8" else ["step", "sequence", "prefill"]
    )
    assert all(1e-5 < found.largest_difference < 1 for found in verdict.parity)
    assert [loss.name for loss in verdict.losses] == ["perplexity", "top_1"]
    assert verdict.metrics["perplexity"]["count"] == 3000
    limits = LIMITS[precision]
    assert [loss.limit for loss in verdict.losses] == [limits.perplexity, limits.top_1]


def test_a_quantized_file_of_another_model(large: Reference, tmp_path: Path) -> None:
    kernel = large.network.recurrent[0].cell.kernel.numpy()[:48]

    def change(model: Any) -> None:
        (buffer,) = [b for b in model.buffers if b.data is not None and bytes(b.data) == kernel.T.tobytes()]
        buffer.data = np.frombuffer((-kernel.T).tobytes(), np.uint8)

    (tmp_path / "float").write_bytes(large_tflite())
    turned = changed_tflite(tmp_path / "float", tmp_path / "turned", change).read_bytes()
    (tmp_path / "x").write_bytes(quantize.dynamic_range(turned))
    logits, _ = large.keras.sequence(large.inputs[None], large.keras.initial_states(1))
    reference = Reference(large.network, large.inputs, logits[0].argmax(-1))
    perplexity, top_1 = validate.validate(of_precision("dynamic"), tmp_path / "x", reference).failures
    assert perplexity.startswith("it loses ") and perplexity.endswith("of perplexity (fraction), and 0.005 is allowed")
    assert top_1.startswith("it loses ") and top_1.endswith("of top_1 (fraction of targets), and 0.002 is allowed")


def test_a_quantized_file_without_targets_is_judged_by_its_outputs(large: Reference, tmp_path: Path) -> None:
    without = Reference(large.network, large.inputs)
    (tmp_path / "x").write_bytes(quantize.dynamic_range(large_tflite()))
    verdict = validate.validate(of_precision("dynamic"), tmp_path / "x", without)
    assert (verdict.failures, verdict.metrics) == ([], {})
    (loss,) = verdict.losses
    assert (loss.name, loss.limit) == ("outputs", 0.05)
    assert 0 < loss.value < 0.05


@pytest.mark.parametrize("precision", ["dynamic", "float16", "int8"])
def test_a_file_that_is_too_small_to_gain(precision: str, lstm: Subject, tmp_path: Path) -> None:
    whole = tflite_of("plain", 1, "projected")
    network = network_of("plain", 1, "projected")
    reference = Reference(network, STREAM[:-1], STREAM[1:])
    (tmp_path / "x").write_bytes(tflite.quantized(whole, precision, reference.spec, STREAM[:100]))
    failures = validate.validate(of_precision(precision), tmp_path / "x", reference, None, len(whole)).failures
    nothing = f"it holds no weight in int8, since none is large enough to gain by it: leave {precision} out"
    larger = [
        text for text in failures if text.endswith(f"bytes, and the file in float32 has {len(whole):,}: leave {precision} out")
    ]
    assert [text for text in failures if text not in larger] == ([] if precision == "float16" else [nothing])
    assert len(larger) == (0 if precision == "int8" else 1), "int8 has the step alone"


def test_onnx_that_is_too_small_to_gain(lstm: Subject, tmp_path: Path) -> None:
    network = network_of("plain", 1, "projected")
    for precision in ("float32", "int8"):
        write_onnx(network, Spec.of(network), tmp_path / precision, precision)
    size = (tmp_path / "float32").stat().st_size
    reference = Reference(network, STREAM[:-1], STREAM[1:])
    failures = validate.validate(of_precision("int8", "onnx"), tmp_path / "int8", reference, None, size).failures
    assert failures == [
        f"it has {size:,} bytes, and the file in float32 has {size:,}: leave int8 out",
        "it holds no weight in int8, since none is large enough to gain by it: leave int8 out",
    ]


def test_losses_are_of_the_same_targets() -> None:
    rng = np.random.default_rng(1)
    logs, ranks = rng.normal(-3, 1, 10_000), rng.integers(0, 4, 10_000)
    worse = ranks.copy()
    worse[:100] = np.where(ranks[:100] == 0, 1, ranks[:100])
    perplexity, top_1 = validate.losses((logs, ranks), (logs - 0.01, worse), LIMITS["dynamic"])
    assert perplexity.value == pytest.approx(math.exp(0.01) - 1)
    assert perplexity.uncertainty == pytest.approx(0, abs=1e-12), "each target lost the same"
    changed_ranks = int((ranks[:100] == 0).sum())
    assert top_1.value == pytest.approx(changed_ranks / 10_000)
    assert top_1.uncertainty == pytest.approx(2 * math.sqrt(changed_ranks) / 10_000)


def test_a_loss_is_refused_beyond_doubt_alone() -> None:
    def failures(value: float, uncertainty: float) -> list[str]:
        return list(check_loss(Loss("perplexity", value, uncertainty, 0.005, "fraction")))

    assert failures(0.005, 0.0) == failures(0.008, 0.004) == failures(-1.0, 0.0) == []
    assert failures(0.008, 0.001) == ["it loses 0.0080 of perplexity (fraction), and 0.005 is allowed"]
    for bad in (math.nan, math.inf):
        assert len(failures(bad, 0.0)) == 1


def both_ways_verdict(it: Exported, name: str, path: Path | None = None) -> Verdict:
    """What validation finds of a file in the place of one of a bundle that reads both ways."""
    (artifact,) = of_sequences([a for a in ARTIFACTS if a.path == name])
    return validate.validate(artifact, path or it.folder / name, it.reference)


def both_ways_topics(it: Exported, name: str, path: Path) -> list[str]:
    return topics(both_ways_verdict(it, name, path).failures)


def as_onnx(model: Any, path: Path, precision: str = "float32") -> Path:
    network = Network.of(model)
    write_onnx(network, Spec.of(network), path, precision)
    return path


def turned(model: Any) -> Any:
    """The model with the two directions of its layers in each other's place."""
    for layer in model.layers:
        if isinstance(layer, layers.Bidirectional):
            ahead, back = (part.get_weights() for part in (layer.forward_layer, layer.backward_layer))
            layer.forward_layer.set_weights(back)
            layer.backward_layer.set_weights(ahead)
    return model


def merged_otherwise(model: Any) -> Any:
    (layer,) = [layer for layer in model.layers if getattr(layer, "merge_mode", None) == "sum"]
    layer.merge_mode = "ave"
    return model


def begun_with_zeros(model: Any) -> Any:
    stacked = model.layers[1]
    for part in (stacked.forward_layer, stacked.backward_layer):
        fading = part.cell.cells[1]
        fading.first.assign(fading.first * 0)
    return model


OF_SEQUENCES = ["sequence: log-probabilities"]


def test_good_files_that_read_both_ways_pass(tagger_bundle: Exported, classifier_bundle: Exported) -> None:
    for it, name in ((tagger_bundle, "model.tflite"), (classifier_bundle, "model.onnx")):
        verdict = both_ways_verdict(it, name)
        assert (verdict.failures, verdict.losses, verdict.metrics, set(verdict.latency)) == ([], [], {}, {"sequence"})
        (parity,) = verdict.parity
        assert (parity.signature, parity.largest_state_difference) == ("sequence", 0.0)
        assert 0 < parity.largest_difference <= 1e-5


@pytest.mark.parametrize("change", [turned, merged_otherwise])
def test_another_model_that_reads_both_ways(change: Callable[[Any], Any], tagger_bundle: Exported, tmp_path: Path) -> None:
    assert both_ways_topics(tagger_bundle, "model.onnx", as_onnx(change(tagger()), tmp_path / "x")) == OF_SEQUENCES


@pytest.mark.parametrize("change", [turned, begun_with_zeros])
def test_another_model_of_whole_sequences(change: Callable[[Any], Any], classifier_bundle: Exported, tmp_path: Path) -> None:
    path = as_onnx(change(classifier()), tmp_path / "x")
    assert both_ways_topics(classifier_bundle, "model.onnx", path) == OF_SEQUENCES


def test_directions_in_each_others_place_in_tflite(tagger_bundle: Exported, tmp_path: Path) -> None:
    layer = tagger_bundle.model.layers[1]
    kernels = [part.cell.recurrent_kernel.numpy().T.tobytes() for part in (layer.forward_layer, layer.backward_layer)]

    def change(model: Any) -> None:
        ahead, back = ([b for b in model.buffers if b.data is not None and bytes(b.data) == kernel] for kernel in kernels)
        ahead[0].data, back[0].data = back[0].data, ahead[0].data

    path = changed_tflite(tagger_bundle.folder / "model.tflite", tmp_path / "x", change)
    assert both_ways_topics(tagger_bundle, "model.tflite", path) == OF_SEQUENCES


def read_lengths_as(file: onnx.ModelProto, nodes: list[onnx.NodeProto], **constants: int) -> None:
    """Puts the output `other` of nodes where the lengths were."""
    for node in file.graph.node:
        node.input[:] = ["other" if name == "lengths" else name for name in node.input]
    for node in reversed(nodes):
        file.graph.node.insert(0, node)
    for name, value in constants.items():
        file.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))


def ignore_lengths(file: onnx.ModelProto) -> None:
    node, given = onnx.helper.make_node, file.graph.input[0].name
    nodes = [
        node("Shape", [given], ["shape"]),
        node("Gather", ["shape", "one"], ["time"]),
        node("Shape", ["lengths"], ["rows"]),
        node("Expand", ["time", "rows"], ["full"]),
        node("Cast", ["full"], ["other"], to=onnx.TensorProto.INT32),
    ]
    read_lengths_as(file, nodes, one=1)


def one_too_short(file: onnx.ModelProto) -> None:
    node, integers = onnx.helper.make_node, onnx.TensorProto.INT32
    nodes = [
        node("Cast", ["one_less"], ["less"], to=integers),
        node("Cast", ["one"], ["least"], to=integers),
        node("Add", ["lengths", "less"], ["shorter"]),
        node("Max", ["shorter", "least"], ["other"]),
    ]
    read_lengths_as(file, nodes, one_less=-1, one=1)


@pytest.mark.parametrize("bundle", ["tagger_bundle", "classifier_bundle"])
@pytest.mark.parametrize("change", [ignore_lengths, one_too_short])
def test_lengths_that_are_not_those_that_were_given(
    change: Callable[[onnx.ModelProto], None], bundle: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    it = request.getfixturevalue(bundle)
    path = changed(it.folder / "model.onnx", tmp_path / "x", change)
    assert both_ways_topics(it, "model.onnx", path) == OF_SEQUENCES


def test_the_end_of_the_batch_for_that_of_each_sequence(
    classifier_bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, spec = classifier_bundle.reference.network, classifier_bundle.reference.spec
    with monkeypatch.context() as patch:
        patch.setattr(stages, "last", lambda y, lengths: y[:, -1])
        made = plain_functions(network, spec)
    save(network, made, tmp_path / "x")
    assert both_ways_topics(classifier_bundle, "saved_model", tmp_path / "x") == OF_SEQUENCES


def change_back(file: onnx.ModelProto, change: Callable[[Any], Any]) -> None:
    """Changes the kernels of the LSTM's inputs in the direction that reads back."""
    weights = [weight for weight in file.graph.initializer if list(weight.dims) == [256, 32]]
    assert len(weights) == 2
    weights[1].CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weights[1]).copy()), weights[1].name))


def test_swapped_gates_of_one_direction(tagger_bundle: Exported, tmp_path: Path) -> None:
    def swap(weights: Any) -> Any:  # i o f g -> i f o g
        i, o, f, g = np.split(weights, 4, axis=0)
        return np.concatenate([i, f, o, g], axis=0)

    path = changed(tagger_bundle.folder / "model.onnx", tmp_path / "x", lambda file: change_back(file, swap))
    assert both_ways_topics(tagger_bundle, "model.onnx", path) == OF_SEQUENCES


def test_a_weight_of_one_direction_that_is_not_a_number(tagger_bundle: Exported, tmp_path: Path) -> None:
    path = changed(tagger_bundle.folder / "model.onnx", tmp_path / "onnx", lambda file: change_back(file, lambda w: w * np.nan))
    assert both_ways_topics(tagger_bundle, "model.onnx", path) == OF_SEQUENCES
    kernel = tagger_bundle.model.layers[2].backward_layer.cell.recurrent_kernel.numpy().T

    def change(model: Any) -> None:
        (buffer,) = [b for b in model.buffers if b.data is not None and bytes(b.data) == kernel.tobytes()]
        buffer.data = np.frombuffer((kernel * np.nan).tobytes(), np.uint8)

    path = changed_tflite(tagger_bundle.folder / "model.tflite", tmp_path / "tflite", change)
    (failure,) = both_ways_verdict(tagger_bundle, "model.tflite", path).failures
    assert "differ from Keras by inf" in failure


@pytest.mark.parametrize("name", ["model.tflite", "model.onnx"])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_a_truncated_file_that_reads_both_ways(name: str, fraction: float, tagger_bundle: Exported, tmp_path: Path) -> None:
    content = (tagger_bundle.folder / name).read_bytes()
    (tmp_path / "x").write_bytes(content[: int(fraction * len(content))])
    (failure,) = both_ways_verdict(tagger_bundle, name, tmp_path / "x").failures
    assert failure.startswith("the engine refuses it: ")


def test_lengths_under_another_name(classifier_bundle: Exported, tmp_path: Path) -> None:
    path = changed(classifier_bundle.folder / "model.onnx", tmp_path / "x", lambda file: rename(file, {"lengths": "counts"}))
    assert both_ways_verdict(classifier_bundle, "model.onnx", path).failures == [
        "sequence: counts should be None, is ('int32', [-1])",
        "sequence: lengths should be ('int32', [-1]), is None",
    ]


def test_a_quantized_file_that_reads_the_other_way(tagger_bundle: Exported, tmp_path: Path) -> None:
    path = as_onnx(turned(tagger()), tmp_path / "x", "int8")
    (failure,) = both_ways_verdict(tagger_bundle, "model.int8.onnx", path).failures
    assert failure.startswith("it loses ") and failure.endswith("and 0.1 is allowed")
