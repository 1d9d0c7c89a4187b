"""Files for microcontrollers: one timestep of batch 1 whose shapes are numbers, with Keras's numbers in TFLM and in LiteRT."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema

from export import flatbuffer, micro, tflite
from export.artifact import ARTIFACTS, MICRO
from export.network import Network
from export.reference import Reference
from export.runners import Runner
from export.spec import STEP, Spec
from export.validate import Verdict, validate
from seqapp.step import KerasStepper
from tests.export.conftest import states_of
from tests.export.members import Member
from tests.export.micro_files import (
    LSTM,
    MEMBERS,
    PLAIN,
    PRECISIONS,
    converted,
    micro_of,
    network_of,
    odd_micro,
    odd_network,
    odd_step,
    opened,
    sequence_of,
    step_of,
    tflm_of,
)

TIMESTEPS = 200
each_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda m: f"{m.kind}-{m.layers}-{m.inputs}")
each_precision = pytest.mark.parametrize("precision", PRECISIONS)
DTYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32}
OF_SHAPES = {"SHAPE", "RANK", "FILL", "PACK"}

# What TFLM says of each file that it is given, after the file's name; some kernels that are given nothing kill their process.
WHAT_TFLM_SAYS = """
import os, sys
from tflite_micro import runtime
for path in sys.argv[1:]:
    print(path, file=sys.stderr, flush=True)
    child = os.fork()
    if not child:
        try:
            runtime.Interpreter.from_bytes(open(path, "rb").read(), arena_size=1 << 16)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


def in_litert(content: bytes, network: Network) -> Runner:
    step = Interpreter(model_content=content).get_signature_runner(STEP)
    return Runner(Spec.of(network), {STEP: lambda feed: dict(step(**feed))})


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    """A file with a fault planted in it."""
    model = flatbuffer.read(content)
    change(model)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def turned_into(name: str) -> Callable[[Any], None]:
    """Makes another operator of TANH."""

    def change(model: Any) -> None:
        (code,) = [code for code in model.operatorCodes if code.builtinCode == schema.BuiltinOperator.TANH]
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)

    return change


def lone(name: str) -> bytes:
    """A file of one operator that is given nothing."""
    model, graph, node, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode, code.version = getattr(schema.BuiltinOperator, name), 1
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    nothing = np.array([], np.int32)
    node.inputs, node.outputs, graph.inputs, graph.outputs = nothing, nothing, nothing, nothing
    graph.tensors, graph.operators = [], [node]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def assert_static(content: bytes, network: Network) -> None:
    """One graph of one signature, its tensors in the signature's order, every shape a number."""
    spec, model = Spec.of(network), flatbuffer.read(content)
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    assert (signature.signatureKey, signature.subgraphIndex, model.metadata) == (b"step", 0, None)
    assert all(tensor.shapeSignature is None and np.all(tensor.shape > 0) for tensor in graph.tensors)
    assert not OF_SHAPES & flatbuffer.operators(content).keys()
    for side in ("inputs", "outputs"):
        wanted = getattr(spec.signatures[STEP], side)
        number = {entry.name.decode(): entry.tensorIndex for entry in getattr(signature, side)}
        assert list(getattr(graph, side)) == [number[tensor.name] for tensor in wanted]
        found = [(tensor.type, list(tensor.shape)) for tensor in (graph.tensors[index] for index in getattr(graph, side))]
        assert found == [(DTYPES[tensor.dtype], [1, *tensor.shape[1:]]) for tensor in wanted]


@each_member
@each_precision
def test_one_step_of_batch_1(member: Member, precision: str) -> None:
    content = micro_of(member, precision)
    assert_static(content, network_of(member))
    assert list(micro.check_operators(content)) == []
    assert flatbuffer.operators(content) == flatbuffer.operators(step_of(member, precision))


@each_member
@each_precision
def test_weights_are_stored_once(member: Member, precision: str) -> None:
    content, count = micro_of(member, precision), network_of(member).model.count_params()
    stored = [bytes(buffer.data) for buffer in flatbuffer.read(content).buffers if buffer.data is not None]
    assert len(stored) == len(set(stored))
    # Beside them the file has names, operators and, in int8, scales, biases and the parts of kernels too small for int8.
    assert len(content) < (4 * count if precision == "float32" else 1.2 * count + 6500) + 8000
    assert len(content) <= len(step_of(member, precision))


@each_member
def test_the_same_numbers_as_keras(member: Member) -> None:
    """From states that are not zero, on inputs that keep them large."""
    network, inputs = network_of(member), member.samples(2, 1, TIMESTEPS)
    runner, keras = tflm_of(member, "float32"), KerasStepper(network, Spec.of(network).features)
    first = states_of(network, 1, 0.5)
    wanted, states = keras.sequence(inputs, first)
    found, after = runner.sequence(inputs, first)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-5)
    for state, expected in zip(after, states, strict=True):
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(state, expected, rtol=1e-5, atol=2e-5)


@each_member
@each_precision
def test_litert_runs_it_too(member: Member, precision: str) -> None:
    """With the numbers of the file that it was made of, and, step by step, with TFLM's."""
    network, content = network_of(member), micro_of(member, precision)
    tflm = tflm_of(member, precision)
    litert, whole = in_litert(content, network), in_litert(step_of(member, precision), network)
    differences, states = [], states_of(network, 1, 0.5)
    for now in member.samples(2, TIMESTEPS, 1):
        (found, after), (wanted, expected) = litert.step(now, states), whole.step(now, states)
        for a, b in zip((found, *after), (wanted, *expected), strict=True):
            np.testing.assert_array_equal(a, b)
        result, states = tflm.step(now, states)
        differences.append(result - found)
        for a, b in zip(states, after, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 if precision == "float32" else 0.2)
    if precision == "float32":
        np.testing.assert_allclose(differences, 0, atol=2e-5)
    else:
        # The two round a number in the middle of two units apart, seldom: here, and in a product before.
        units = np.abs(differences) / unit_of_output(content)
        assert units.max() < 2.5
        assert (units > 0.5).mean() < 0.1


def unit_of_output(content: bytes) -> float:
    """What one step of int8 is worth in the output of an int8 file."""
    (graph,) = flatbuffer.read(content).subgraphs
    (node,) = [node for node in graph.operators if graph.outputs[0] in node.outputs]
    return float(graph.tensors[node.inputs[0]].quantization.scale[0])


def test_what_works_on_shapes_is_worked_out() -> None:
    """And states that are inputs, or an output, are those; the first one is learned."""
    network = odd_network()
    assert {"SHAPE", "FILL", "PACK"} <= flatbuffer.operators(odd_step()).keys()
    assert_static(odd_micro(), network)
    assert list(micro.check_operators(odd_micro())) == []
    inputs = np.random.default_rng(3).normal(size=(1, TIMESTEPS, 8)).astype(np.float32)
    runner, keras = opened(odd_micro(), network), KerasStepper(network, 8)
    first = runner.initial_states(1)
    assert len(set(first[0].ravel())) == 6
    np.testing.assert_array_equal(first[0][0], network.model.layers[0].cell.first.numpy())
    wanted, states = keras.sequence(inputs, keras.initial_states(1))
    found, after = runner.sequence(inputs, first)
    for a, b in zip((found, *after), (wanted, *states), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    result, then = in_litert(odd_micro(), network).step(inputs[:, 0], first)
    np.testing.assert_allclose(result, found[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(then[1], first[0])


def test_shapes_are_those_of_a_run() -> None:
    """A converter leaves a 1 where it does not know better."""

    def forget(model: Any) -> None:
        (graph,) = model.subgraphs
        for index, tensor in enumerate(graph.tensors):
            if model.buffers[tensor.buffer].data is None and index not in graph.inputs:
                tensor.shape, tensor.shapeSignature = np.array([1, 1], np.int32), np.array([-1, -1], np.int32)

    found = micro.micro(changed(step_of(LSTM, "float32"), forget), Spec.of(network_of(LSTM)))
    assert found == micro_of(LSTM, "float32")


def test_results_are_the_callers_own() -> None:
    """Not the arena's, which the next step writes to."""
    runner = tflm_of(LSTM, "float32")
    one, other = LSTM.samples(6, 2, 1)
    result, states = runner.step(one, runner.initial_states(1))
    before = [array.copy() for array in (result, *states)]
    runner.step(other, states)
    for array, kept in zip((result, *states), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_operators_are_those_of_the_schema() -> None:
    assert micro.OPERATORS.keys() <= vars(schema.BuiltinOperator).keys()
    assert list(micro.OPERATORS.values()) == [f"Add{method}" for method in micro.METHODS]
    assert micro.OPERATORS["L2_NORMALIZATION"] == "AddL2Normalization"
    assert not {"SHAPE", "WHILE", "CUSTOM", "VAR_HANDLE"} & micro.OPERATORS.keys()


def test_tflm_has_every_operator(tmp_path: Path) -> None:
    """What it says of those that it lacks, it says of none of them."""
    for name in (*micro.OPERATORS, "GELU"):
        (tmp_path / name).write_bytes(lone(name))
    names = sorted(path.name for path in tmp_path.iterdir())
    command = [sys.executable, "-c", WHAT_TFLM_SAYS, *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(names) <= set(done.stderr.splitlines())
    lacking = [line for line in done.stderr.splitlines() if line.startswith("Didn't find op")]
    assert lacking == ["Didn't find op for builtin opcode 'GELU'"]


def test_what_a_firmware_registers() -> None:
    assert micro.registered(micro_of(PLAIN, "float32")) == ["AddAdd", "AddFullyConnected", "AddGather", "AddTanh"]
    assert micro.registered(micro_of(LSTM, "int8")) == [
        "AddAdd",
        "AddDequantize",
        "AddFullyConnected",
        "AddLogistic",
        "AddMul",
        "AddQuantize",
        "AddSplit",
        "AddTanh",
    ]


@pytest.mark.parametrize("name", ["GELU", "WHILE", "VAR_HANDLE"])
def test_an_operator_that_tflm_lacks(name: str) -> None:
    content = changed(micro_of(PLAIN, "float32"), turned_into(name))
    assert list(micro.check_operators(content)) == [
        f"it needs the operator {name}, which TensorFlow Lite Micro has not, or not for a timestep: leave micro out"
    ]


def test_tflms_own_words() -> None:
    content = changed(micro_of(PLAIN, "float32"), turned_into("GELU"))
    with pytest.raises(RuntimeError, match="Didn't find op for builtin opcode 'GELU'"):
        opened(content, network_of(PLAIN))


@cache
def scored() -> Network:
    """The LSTM of two layers, whose c is unlike its h, with an output of logits, which have targets."""
    return Network.of(network_of(LSTM).model, "logits")


@cache
def scored_step() -> bytes:
    return converted(scored())


@cache
def good(precision: str) -> bytes:
    spec, step = Spec.of(scored()), scored_step()
    if precision != "float32":
        step = tflite.quantized(step, precision, spec, LSTM.samples(3, 300))
    return micro.micro(step, spec)


Judge = Callable[..., Verdict]


@pytest.fixture(scope="module")
def reference() -> Reference:
    """The targets are drawn from what the model holds likely: whatever a fault does to it costs."""
    inputs, keras = LSTM.samples(4, 1, 500), KerasStepper(scored(), 8)
    logits, _ = keras.sequence(inputs, keras.initial_states(1))
    noise = np.random.default_rng(2).gumbel(size=logits[0].shape)
    return Reference(scored(), inputs[0], np.argmax(logits[0] + noise, -1))


@pytest.fixture
def verdict(reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    # To find the smallest arena takes a process, and says nothing of a fault.
    monkeypatch.setattr("export.arena.arena_size", lambda content: 1 << 18)

    def of(content: bytes, precision: str = "float32", largest: int | None = None) -> Verdict:
        (artifact,) = [a for a in ARTIFACTS if (a.profile, a.precision) == (MICRO, precision)]
        (tmp_path / artifact.path).write_bytes(content)
        return validate(artifact, tmp_path / artifact.path, reference, largest=largest)

    return of


OF_THE_NUMBERS = ["step: log-probabilities", "step: states", "its perplexity"]


def topics(failures: list[str]) -> list[str]:
    """What each failure of the numbers is about."""
    return [text.split(" differ")[0].split(" is ")[0] for text in failures]


def test_a_good_file_passes(verdict: Judge) -> None:
    """On a step of batch 1; of its speed on a device nothing is known."""
    found = verdict(good("float32"))
    assert (found.failures, found.losses, found.latency) == ([], [], {})
    (parity,) = found.parity
    assert parity.signature == "step"
    assert max(parity.largest_difference, parity.largest_state_difference) < 5e-5
    assert found.metrics["perplexity"]["count"] == 500


def test_a_good_int8_file_passes(verdict: Judge) -> None:
    found = verdict(good("int8"), "int8", len(good("float32")))
    assert (found.failures, found.latency) == ([], {})
    assert [loss.name for loss in found.losses] == ["perplexity", "top_1"]
    assert 1e-4 < found.parity[0].largest_difference < 1
    (failure,) = verdict(good("int8"), "int8", len(good("int8"))).failures
    assert failure.endswith("leave int8 out")


def test_a_weight_that_is_not_a_number(verdict: Judge) -> None:
    def change(model: Any) -> None:
        largest = max((b for b in model.buffers if b.data is not None), key=lambda buffer: len(buffer.data))
        largest.data = np.frombuffer(np.full(len(largest.data) // 4, np.nan, np.float32).tobytes(), np.uint8)

    failures = verdict(changed(good("float32"), change)).failures
    assert topics(failures) == OF_THE_NUMBERS
    assert "differ from Keras by inf" in failures[0]
    assert failures[-1].startswith("its perplexity is nan, the run's ")


def test_one_bit_of_a_weight(verdict: Judge) -> None:
    content, bias = bytearray(good("float32")), scored().model.layers[-1].bias.numpy()
    place = content.find(bias.tobytes())
    assert place > 0
    content[place + 3] ^= 0x40  # the highest bit of the exponent
    assert {"step: log-probabilities", "its perplexity"} <= set(topics(verdict(bytes(content)).failures))


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_a_truncated_file(fraction: float, verdict: Judge) -> None:
    (failure,) = verdict(good("float32")[: int(fraction * len(good("float32")))]).failures
    assert failure.startswith("the engine refuses it: ")


def swapped(side: str, of_the_signature: bool) -> Callable[[Any], None]:
    """Two states of one size under each other's names, or in each other's places."""

    def change(model: Any) -> None:
        (graph,), (signature,) = model.subgraphs, model.signatureDefs
        one, other = [entry for entry in getattr(signature, side) if entry.name[:7] in (b"state_0", b"state_1")]
        if of_the_signature:
            one.tensorIndex, other.tensorIndex = other.tensorIndex, one.tensorIndex
        else:
            places = {one.tensorIndex: other.tensorIndex, other.tensorIndex: one.tensorIndex}
            setattr(graph, side, np.array([places.get(index, index) for index in getattr(graph, side)], np.int32))

    return change


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_states_in_each_others_places(side: str, verdict: Judge) -> None:
    """As a firmware would meet them."""
    (failure,) = verdict(changed(good("float32"), swapped(side, False))).failures
    assert failure.startswith(f"its {side} should be ") and failure.endswith(", in this order")


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_states_under_each_others_names(side: str, verdict: Judge) -> None:
    """As LiteRT would meet them, and whoever looks up a name's number."""
    (failure,) = verdict(changed(good("float32"), swapped(side, True))).failures
    assert failure.startswith(f"its {side} should be ") and failure.endswith(", in this order")


def test_a_batch_of_any_size(verdict: Judge) -> None:
    def change(model: Any) -> None:
        (graph,) = model.subgraphs
        (index,) = [entry.tensorIndex for entry in model.signatureDefs[0].inputs if entry.name == b"state_1_in"]
        graph.tensors[index].shapeSignature = np.array([-1, 48], np.int32)

    failures = verdict(changed(good("float32"), change)).failures
    assert failures == ["step: state_1_in should be ('float32', [1, 48]), is ('float32', [-1, 48])"]
    assert "step: features should be ('float32', [1, 8]), is ('float32', [-1, 8])" in verdict(scored_step()).failures


def test_a_file_without_a_step(verdict: Judge) -> None:
    failures = verdict(sequence_of(PLAIN)).failures
    assert failures[0] == "there is no signature step"
    assert (
        "it needs the operator WHILE, which TensorFlow Lite Micro has not, or not for a timestep: leave micro out" in failures
    )


def test_an_operator_that_tflm_lacks_is_a_failure(verdict: Judge) -> None:
    assert verdict(changed(good("float32"), turned_into("GELU"))).failures == [
        "it needs the operator GELU, which TensorFlow Lite Micro has not, or not for a timestep: leave micro out"
    ]
