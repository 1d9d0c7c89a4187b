"""ONNX files: a native operator for each layer where there is one, the contract's names, each weight once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from keras import layers
from onnx import numpy_helper

from export.network import Network
from export.onnx_graph import SMALLEST, int8_tensors, operators, write_onnx
from export.runners import open_onnx
from export.spec import Spec
from seqapp.cells import CELLS, LSTMCell
from seqapp.errors import UsageError
from seqapp.model import SequenceModel
from seqapp.step import Array, KerasStepper
from tests.export.conftest import (
    ENDS,
    MODELS,
    UNITS,
    VOCABULARY,
    OwnCell,
    filled,
    model_of,
    network_of,
    of_features,
    states_of,
    tokens_of,
)

OPERATORS = {"plain": "RNN", "lstm": "LSTM", "gru": "GRU", "cifg": "LSTM"}
RECURRENT = ("RNN", "LSTM", "GRU", "Loop", "Scan", "If")


class Erring(LSTMCell):
    """A cell with an operation that ONNX does not know."""

    def recur(self, projected: Any, states: Any) -> Any:
        import tensorflow as tf

        h, states = super().recur(projected, states)
        return tf.math.digamma(2 + h), states


def written(network: Network, folder: Path, precision: str = "float32") -> tuple[Path, onnx.ModelProto]:
    path = folder / f"{precision}.onnx"
    write_onnx(network, Spec.of(network), path, precision)
    onnx.checker.check_model(path, full_check=True)
    return path, onnx.load(path)


def axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def stored(file: onnx.ModelProto) -> list[Array]:
    return [numpy_helper.to_array(weight) for weight in file.graph.initializer]


def assert_same(path: Path, network: Network, model: Network | None = None, timesteps: int = 30) -> None:
    """The file of a network against Keras, from large states; or against another model that it should equal."""
    spec, reference = Spec.of(network), KerasStepper(model or network, network.features)
    x = np.random.default_rng(3).normal(size=(3, timesteps, network.features or 1)).astype(np.float32)
    x, states = x if network.features else tokens_of(3, timesteps), states_of(network, 3)
    runner = open_onnx(path, spec)
    for found, wanted in (
        (runner.sequence(x, states), reference.sequence(x, states)),
        (runner.step(x[:, 0], states), reference.step(x[:, 0], states)),
    ):
        for a, b in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_one_native_operator_for_each_layer(model: tuple[str, int, str], tmp_path: Path) -> None:
    cell, depth, _ = model
    path, file = written(network_of(*model), tmp_path)
    counts = Counter(node.op_type for node in file.graph.node)
    assert {name: counts[name] for name in RECURRENT if counts[name]} == {OPERATORS[cell]: depth}
    assert {node.domain for node in file.graph.node} == {""}
    assert operators(path) == dict(counts)


def test_names_axes_and_types_are_those_of_the_contract(tmp_path: Path) -> None:
    _, file = written(network_of("lstm", 1, "untied"), tmp_path)
    integers, floats = onnx.TensorProto.INT32, onnx.TensorProto.FLOAT
    assert [(t.name, t.type.tensor_type.elem_type, axes(t)) for t in file.graph.input] == [
        ("tokens", integers, ["batch", "time"]),
        ("state_0_in", floats, ["batch", UNITS]),
        ("state_1_in", floats, ["batch", UNITS]),
    ]
    assert [(t.name, t.type.tensor_type.elem_type, axes(t)) for t in file.graph.output] == [
        ("logits", floats, ["batch", "time", VOCABULARY]),
        ("state_0_out", floats, ["batch", UNITS]),
        ("state_1_out", floats, ["batch", UNITS]),
    ]


def test_features_and_an_output_of_another_name(tmp_path: Path) -> None:
    network = Network.of(of_features(layers.GRU(UNITS)), output="levels")
    path, file = written(network, tmp_path)
    assert [(t.name, axes(t)) for t in file.graph.input] == [
        ("features", ["batch", "time", 8]),
        ("state_0_in", ["batch", UNITS]),
    ]
    assert (file.graph.output[0].name, axes(file.graph.output[0])) == ("levels", ["batch", "time", UNITS])
    assert_same(path, network)


def test_runs_on_old_runtimes(tmp_path: Path) -> None:
    _, file = written(network_of("gru", 1, "tied"), tmp_path)
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", 17)]
    assert file.ir_version == 8


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("cell", CELLS)
def test_each_weight_is_stored_once(cell: str, end: str, tmp_path: Path) -> None:
    model = model_of(cell=cell, layers=2, **ENDS[end])
    path, file = written(Network.of(model), tmp_path)
    embeddings = model.embedding.embeddings.numpy()
    assert sum(np.array_equal(array, embeddings) for array in stored(file)) == 1
    # ONNX wants two biases for each gate, and one for the gate that CIFG does not have; its kernels are made from zeros.
    biases = {"plain": 1, "lstm": 4, "gru": 3, "cifg": 4}[cell] * 2 * UNITS
    own = sum(
        weight.size for layer in model.recurrent for weight in layer.get_weights() if min(weight.shape) <= 2 or weight.ndim == 1
    )
    floats = sum(array.size for array in stored(file) if array.dtype == np.float32)
    assert floats == model.count_params() - own + 2 * biases + 1, "all weights once, and the one beside the bias"
    assert path.stat().st_size <= 4 * floats + 4000


@pytest.mark.parametrize("activation", ["silu", "gelu", "selu", "mish"])
def test_an_activation_that_the_operator_lacks_is_a_scan(activation: str, tmp_path: Path) -> None:
    network = Network.of(model_of(cell="plain", activation=activation, layers=2, scale=0.2))
    path, file = written(network, tmp_path)
    counts = Counter(node.op_type for node in file.graph.node)
    assert {name: counts[name] for name in RECURRENT if counts[name]} == {"Scan": 2}
    # The input half of the product is outside of the loops.
    bodies = [
        attribute.g
        for node in file.graph.node
        for attribute in node.attribute
        if node.op_type == "Scan" and attribute.name == "body"
    ]
    assert [sum(node.op_type == "MatMul" for node in body.node) for body in bodies] == [1, 1]
    assert_same(path, network)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_cell_of_ones_own_is_a_scan_around_its_step(precision: str, tmp_path: Path) -> None:
    network = network_of("own", 2, "projected")
    path, file = written(network, tmp_path, precision)
    assert Counter(node.op_type for node in file.graph.node)["Scan"] == 2
    assert operators(path)["MatMul"] > Counter(node.op_type for node in file.graph.node)["MatMul"]
    kernel = network.recurrent[0].cell.mix.numpy()
    assert sum(np.array_equal(array, kernel) for array in stored(file)) == 1
    assert_same(path, network)  # in int8 too: these weights are too small for it


def test_cells_of_both_kinds_in_one_model(tmp_path: Path) -> None:
    cells = (OwnCell(9), LSTMCell(6), OwnCell(5))
    network = Network.of(filled(SequenceModel(VOCABULARY, cells, 12)))
    path, file = written(network, tmp_path)
    counts = Counter(node.op_type for node in file.graph.node)
    assert {name: counts[name] for name in RECURRENT if counts[name]} == {"Scan": 2, "LSTM": 1}
    assert_same(path, network)


def test_an_operation_that_onnx_does_not_know(tmp_path: Path) -> None:
    network = Network.of(filled(SequenceModel(VOCABULARY, (LSTMCell(6), Erring(6)), 12)))
    with pytest.raises(UsageError, match=r"^ONNX has no operator for Digamma, which layer_2 uses: "):
        write_onnx(network, Spec.of(network), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


PARTS = {
    "nothing": [],
    "without bias": [layers.Dense(5, use_bias=False)],
    "activation": [layers.Dense(5, "gelu")],
    "two": [layers.Dense(5, "relu"), layers.Dense(4)],
    "normalized": [layers.LayerNormalization(), layers.BatchNormalization(), layers.Dense(5, "tanh"), layers.Softmax()],
    "last normalized": [layers.Dense(5), layers.UnitNormalization()],
}


@pytest.mark.parametrize("tail", PARTS.values(), ids=PARTS)
def test_layers_before_and_after(tail: list[Any], tmp_path: Path) -> None:
    first = [layers.Dense(6, "silu"), layers.RMSNormalization(), layers.PReLU(shared_axes=[1])]
    network = Network.of(of_features(*first, layers.LSTM(7, return_sequences=True), *tail), output="outputs")
    path, _ = written(network, tmp_path)
    assert_same(path, network)


def test_one_timestep_is_the_step(tmp_path: Path) -> None:
    network = network_of("gru", 2, "projected")
    path, _ = written(network, tmp_path)
    runner, states, tokens = open_onnx(path, Spec.of(network)), states_of(network, 3), tokens_of(3, 1)
    logits, after = runner.step(tokens[:, 0], states)
    whole, whole_after = runner.sequence(tokens, states)
    np.testing.assert_array_equal(logits, whole[:, 0])
    np.testing.assert_array_equal(after, whole_after)


def rounded(weights: Array, axis: int) -> Array:
    """Weights after int8 with a scale for each index of an axis, as the exporter says that it rounds them."""
    if weights.size < SMALLEST:
        return weights
    scales = np.abs(weights).max(axis=1 - axis, keepdims=True) / 127
    return np.round(weights / scales) * scales


@pytest.mark.parametrize("cell", ["plain", "lstm", "gru", "cifg"])
@pytest.mark.parametrize("end", ENDS)
def test_int8_computes_with_the_rounded_weights(cell: str, end: str, tmp_path: Path) -> None:
    choices = {"tied": {"embedding": 48}, "projected": {"embedding": 32}, "untied": {"embedding": 32, "tied": False}}[end]
    network = Network.of(model_of(cell=cell, units=48, scale=0.15, **choices))
    path, file = written(network, tmp_path, "int8")
    exact = model_of(cell=cell, units=48, scale=0.15, **choices)
    layer = exact.recurrent[0].cell
    exact.embedding.embeddings.assign(rounded(exact.embedding.embeddings.numpy(), 0))
    for kernel in [exact.projection.kernel if exact.projection else None, None if exact.tied else exact.output_kernel]:
        if kernel is not None:
            kernel.assign(rounded(kernel.numpy(), 1))
    if cell == "plain":  # H and X have a kernel each, and its scales
        layer.kernel.assign(np.concatenate([rounded(half, 1) for half in np.split(layer.kernel.numpy(), [48])]))
    else:
        layer.kernel.assign(rounded(layer.kernel.numpy(), 1))
        layer.recurrent_kernel.assign(rounded(layer.recurrent_kernel.numpy(), 1))
    assert int8_tensors(path) == sum(array.dtype == np.int8 for array in stored(file)) >= 3
    assert_same(path, network, Network.of(exact))
    whole = written(network, tmp_path)[0].stat().st_size
    assert path.stat().st_size < 0.45 * whole


def test_nothing_is_int8_where_nothing_is_large(tmp_path: Path) -> None:
    path, _ = written(network_of("plain", 1, "projected"), tmp_path, "int8")
    assert int8_tensors(path) == 0
