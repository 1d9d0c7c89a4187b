"""Quantized TFLite files against NumPy: the same rounding, in each signature, and each weight once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

from export import flatbuffer, quantize, tflite
from export.network import Network
from export.runners import Runner, open_tflite
from export.spec import Spec
from seqapp.step import Array, KerasStepper
from tests.export.conftest import LARGE_SIZE as SIZE
from tests.export.conftest import LARGE_UNITS as UNITS
from tests.export.conftest import large_network, large_tflite, of_features, tflite_of

PRECISIONS = ("dynamic", "float16", "int8")
STREAM = np.random.default_rng(1).integers(0, SIZE, 400).astype(np.int32)
TOKENS = np.random.default_rng(2).integers(0, SIZE, (3, 20)).astype(np.int32)
FIRST = np.random.default_rng(4).uniform(-1, 1, (3, UNITS)).astype(np.float32)

Product = Callable[[str, Array, Array], Array]


@pytest.fixture(scope="module")
def network() -> Network:
    return large_network()


@pytest.fixture(scope="module")
def whole() -> bytes:
    return large_tflite()


@pytest.fixture(scope="module")
def content(network: Network, whole: bytes) -> dict[str, bytes]:
    return {name: tflite.quantized(whole, name, Spec.of(network), STREAM) for name in PRECISIONS}


@pytest.fixture(scope="module")
def runners(network: Network, content: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runner]:
    folder, found = tmp_path_factory.mktemp("quantized"), {}
    for name, data in content.items():
        (folder / name).write_bytes(data)
        found[name] = open_tflite(folder / name, Spec.of(network))
    return found


def oracle(network: Network, now: Array, h: Array, lookup: Callable[[Array], Array], product: Product) -> tuple[Array, Array]:
    """One timestep by the plain cell's equations: tokens (B,), h (B, U) -> logits (B, V), h.

    The lookup's table and the three products are as a precision has them.
    """
    table, cell = network.model.embedding.embeddings.numpy(), network.model.recurrent[0].cell
    recurrent, kernel = np.split(cell.kernel.numpy(), [UNITS])
    h = np.tanh(product("input", lookup(table)[now], kernel) + product("recurrent", h, recurrent))
    return product("output", h, table.T), h


def biases(network: Network) -> dict[str, Any]:
    return {
        "input": network.model.recurrent[0].cell.bias.numpy(),
        "output": network.model.output_bias.numpy(),
        "recurrent": 0.0,
    }


def rounded(table: Array) -> Array:
    """Rows after int8 with a scale each."""
    scales = np.abs(table).max(1, keepdims=True) / 127
    return np.round(table / scales) * scales


def scale_of(low: float, high: float) -> tuple[float, float]:
    scale = (max(high, 0) - min(low, 0)) / 255
    return scale, np.clip(np.round(-128 - min(low, 0) / scale), -128, 127)


def in_steps(x: Array, scale: float, zero: float) -> Array:
    return (np.clip(np.round(x / scale) + zero, -128, 127) - zero) * scale


def dynamic(network: Network) -> tuple[Callable[[Array], Array], Product]:
    """Each row of a product's input has a range of its own."""
    add = biases(network)

    def product(name: str, x: Array, kernel: Array) -> Array:
        x = np.stack([in_steps(row, *scale_of(row.min(), row.max())) for row in x])
        return x @ rounded(kernel.T).T + add[name]

    return rounded, product


def half(weights: Array) -> Array:
    return weights.astype(np.float16).astype(np.float32)


def float16(network: Network) -> tuple[Callable[[Array], Array], Product]:
    add = biases(network)
    return half, lambda name, x, kernel: x @ half(kernel) + add[name]


def int8(network: Network) -> tuple[Callable[[Array], Array], Product]:
    """Inputs and results of products have the ranges that a stream gave them."""
    add, given, made = biases(network), dict[str, list[Array]](), dict[str, list[Array]]()

    def watched(name: str, x: Array, kernel: Array) -> Array:
        given.setdefault(name, []).append(x)
        made.setdefault(name, []).append(x @ kernel + add[name])
        return made[name][-1]

    h = np.zeros((1, UNITS))
    for now in STREAM:
        _, h = oracle(network, now[None], h, lambda table: table, watched)

    def product(name: str, x: Array, kernel: Array) -> Array:
        x = in_steps(x, *scale_of(np.min(given[name]), np.max(given[name])))
        return in_steps(x @ rounded(kernel.T).T + add[name], *scale_of(np.min(made[name]), np.max(made[name])))

    return rounded, product


@pytest.mark.parametrize("precision", [dynamic, float16, int8], ids=lambda function: function.__name__)
def test_computes_as_numpy_does_with_the_same_rounding(precision: Any, network: Network, runners: dict[str, Runner]) -> None:
    runner, exact, h = runners[precision.__name__], KerasStepper(network), FIRST
    plain, wanted, found = [], [], []
    for now in TOKENS.T:
        logits, (after,) = runner.step(now, [h.astype(np.float32)])
        plain.append(exact.step(now, [h])[0])
        result, h = oracle(network, now, h, *precision(network))
        wanted.append(np.concatenate([result, h], 1))
        found.append(np.concatenate([logits, after], 1))
    rounding = np.abs(np.array(wanted)[..., :SIZE] - plain).mean()
    assert 1e-5 < rounding < 0.1
    # A number in the middle of two steps may go either way, seldom.
    difference = np.abs(np.array(found) - wanted)
    assert np.median(difference) < 1e-6
    assert difference.mean() < 0.1 * rounding


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_signature_is_the_same_model(precision: str, network: Network, runners: dict[str, Runner]) -> None:
    runner, states, steps = runners[precision], [FIRST], []
    for now in TOKENS.T:
        logits, states = runner.step(now, states)
        steps.append(logits)
    wanted, (last,) = np.stack(steps, 1), states
    exact, _ = KerasStepper(network).sequence(TOKENS, [FIRST])
    rounding = np.abs(wanted - exact).mean()
    for logits, (after,) in (runner.sequence(TOKENS, [FIRST]), runner.prefill(TOKENS, [FIRST])):
        assert np.abs(logits - (wanted if logits.ndim == 3 else wanted[:, -1])).mean() < 0.1 * rounding
        assert np.abs(after - last).mean() < 0.1 * rounding


def buffers(content: bytes) -> list[bytes]:
    return [bytes(buffer.data) for buffer in flatbuffer.read(content).buffers if buffer.data is not None]


@pytest.mark.parametrize(("precision", "bytes_each"), [("dynamic", 1), ("float16", 2), ("int8", 1)])
def test_a_tied_table_is_stored_once(precision: str, bytes_each: int, content: dict[str, bytes]) -> None:
    """For the lookup and for the logits; nothing is left of it in float32."""
    sizes = [len(data) for data in buffers(content[precision])]
    assert sizes.count(bytes_each * SIZE * UNITS) == 1
    assert max(sizes) == bytes_each * SIZE * UNITS
    assert sizes.count(bytes_each * UNITS * UNITS) == 2, "the halves of the kernel"


def test_sizes(whole: bytes, content: dict[str, bytes], network: Network) -> None:
    weights = 4 * sum(weight.size for weight in network.model.get_weights() if weight.size >= quantize.SMALLEST)
    for precision, kept in (("dynamic", 0.25), ("float16", 0.5)):
        # A scale for each row, and a few operators more.
        assert len(content[precision]) < len(whole) - (1 - kept) * weights + 6000
    assert len(content["int8"]) < 0.25 * weights + 8000


def test_int8_tensors_are_counted(whole: bytes, content: dict[str, bytes]) -> None:
    assert flatbuffer.int8_tensors(whole) == flatbuffer.int8_tensors(content["float16"]) == 0
    for name, graphs in (("dynamic", 3), ("int8", 1)):
        model = flatbuffer.read(content[name])
        holders = [
            tensor
            for graph in model.subgraphs
            for tensor in graph.tensors
            if tensor.type == quantize.KINDS.INT8 and model.buffers[tensor.buffer].data is not None
        ]
        assert flatbuffer.int8_tensors(content[name]) == len(holders) >= 3 * graphs


def test_signatures(content: dict[str, bytes]) -> None:
    for name, wanted in (("dynamic", 3), ("float16", 3), ("int8", 1)):
        interpreter = Interpreter(model_content=content[name])
        assert len(interpreter.get_signature_list()) == wanted
        details = interpreter.get_signature_runner("step").get_input_details()
        assert {key: tensor["dtype"] for key, tensor in details.items()} == {"tokens": np.int32, "state_0_in": np.float32}
        assert list(details["tokens"]["shape_signature"]) == [-1]


def test_names_the_runtime_that_it_needs(content: dict[str, bytes]) -> None:
    for data in content.values():
        assert flatbuffer.minimum_runtime(data) == quantize.MINIMUM_RUNTIME


def test_features_have_no_table(tmp_path: Path) -> None:
    network = Network.of(of_features(layers.GRU(UNITS, return_sequences=True), layers.Dense(40), features=32))
    spec, inputs = Spec.of(network), np.random.default_rng(3).normal(size=(300, 32)).astype(np.float32)
    whole, x, states = tflite.float32(network, spec), inputs[None, :50], spec.initial_states(1)
    exact, _ = KerasStepper(network, 32).sequence(x, states)
    for precision, loss in (("dynamic", 0.05), ("float16", 0.005), ("int8", 0.1)):
        (tmp_path / precision).write_bytes(tflite.quantized(whole, precision, spec, inputs))
        found, _ = open_tflite(tmp_path / precision, spec).sequence(x, states)
        difference = np.sqrt(np.mean((found - exact) ** 2)) / exact.std()
        assert 0 < difference < loss


class JoiningCell(layers.Layer):
    """H_t = relu(W·[2 H_{t-1}, X_t, H_{t-1}] + b), in one product: X_t is as small as its kernel is large."""

    state_size = output_size = UNITS

    def build(self, input_shape: Any) -> None:
        self.dense = layers.Dense(UNITS, "relu")
        self.dense.build((None, 2 * UNITS + input_shape[-1]))

    def call(self, inputs: Any, states: Any) -> tuple[Any, list[Any]]:
        h = self.dense(ops.concatenate([2 * states[0], inputs, states[0]], axis=-1))
        return h, [h]


@pytest.fixture(scope="module")
def joining() -> tuple[Network, bytes]:
    """The network and its float32 file. Kernels of the parts are of different sizes, as the parts are."""
    network = Network.of(of_features(layers.RNN(JoiningCell(), return_sequences=True), features=32))
    kernel = network.variables[0]
    kernel.assign(kernel * np.repeat([0.1, 10, 0.1], [UNITS, 32, UNITS])[:, None])
    return network, tflite.float32(network, Spec.of(network))


def test_a_product_of_joined_parts_becomes_one_for_each(joining: tuple[Network, bytes], tmp_path: Path) -> None:
    network, whole = joining
    parts, spec = quantize.split(whole), Spec.of(network)
    before, after = flatbuffer.operators(whole), flatbuffer.operators(parts)
    assert after["FULLY_CONNECTED"] == 3 * before["FULLY_CONNECTED"]
    assert before["CONCATENATION"] - after["CONCATENATION"] == before["FULLY_CONNECTED"], "what nobody reads is left"
    assert len(parts) < len(whole) + 3000, "the weights of the parts are not shared by the signatures"
    (tmp_path / "parts").write_bytes(parts)
    runner, reference = open_tflite(tmp_path / "parts", spec), KerasStepper(network, 32)
    x, states = np.random.default_rng(3).normal(size=(3, 20, 32)).astype(np.float32), spec.initial_states(3)
    wanted, last = reference.sequence(x, states)
    assert (wanted == 0).mean() > 0.1, "the activation did nothing"
    for found, ended in (runner.sequence(x, states), runner.prefill(x, states)):
        np.testing.assert_allclose(found, wanted if found.ndim == 3 else wanted[:, -1], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ended[0], last[0], rtol=1e-4, atol=1e-4)


def test_parts_have_scales_of_their_own(joining: tuple[Network, bytes], tmp_path: Path) -> None:
    """Features that are 100 times smaller than the states, but as important: one scale for both would lose them."""
    network, whole = joining
    spec, x = Spec.of(network), np.random.default_rng(3).normal(0, 0.1, (300, 32)).astype(np.float32)
    exact, _ = KerasStepper(network, 32).sequence(x[None], spec.initial_states(1))

    def lost(content: bytes) -> float:
        (tmp_path / "file").write_bytes(content)
        runner, states, found = open_tflite(tmp_path / "file", spec), spec.initial_states(1), []
        for now in x:
            output, states = runner.step(now[None], states)
            found.append(output[0])
        return float(np.sqrt(np.mean((np.array(found) - exact[0]) ** 2)) / exact.std())

    step = flatbuffer.only(whole, "step")
    joined = (quantize.dynamic_range(whole), quantize.int8(step, tflite.ranges(step, spec, x)))
    for precision, one_scale in zip(("dynamic", "int8"), joined, strict=True):
        assert 0 < lost(tflite.quantized(whole, precision, spec, x)) < 0.3 * lost(one_scale)


def test_a_product_of_parts_below_each_other_stays_as_it_is() -> None:
    """Joined rows have their columns in common, so a kernel cannot be taken apart."""
    function = tf.function(lambda x: tf.matmul(tf.concat([x, 2 * x], 0), np.ones((64, 32), np.float32)))
    concrete = function.get_concrete_function(tf.TensorSpec((3, 64), tf.float32))
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    assert flatbuffer.operators(quantize.split(content)) == flatbuffer.operators(content)
    assert {"CONCATENATION", "FULLY_CONNECTED"} <= flatbuffer.operators(content).keys()


def test_a_model_without_large_weights_stays_as_it_is() -> None:
    small = tflite_of("plain", 1, "projected")
    for change in (quantize.dynamic_range, quantize.float16):
        changed = change(small)
        assert flatbuffer.int8_tensors(changed) == 0
        assert flatbuffer.operators(changed) == flatbuffer.operators(small)
