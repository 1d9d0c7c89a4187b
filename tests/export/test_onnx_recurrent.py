"""Recurrent layers in ONNX: a native operator for each where there is one, both directions in one, else a Scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from keras import layers, ops

from export.network import Network
from export.onnx_graph import operators
from seqapp.cells import CELLS, LSTMCell
from seqapp.model import SequenceModel
from tests.export.conftest import MODELS, VOCABULARY, FadingCell, OwnCell, filled, model_of, network_of, of_features
from tests.export.engines import opened_whole
from tests.export.onnx_files import assert_same, recurrent, rounded, stored, written
from tests.export.oracle import alone

OPERATORS = {"plain": "RNN", "lstm": "LSTM", "gru": "GRU", "cifg": "LSTM"}


@pytest.mark.parametrize("model", [model for model in MODELS if model[0] in OPERATORS], ids=str)
def test_one_native_operator_for_each_layer(model: tuple[str, int, str], tmp_path: Path) -> None:
    cell, depth, _ = model
    path, file = written(network_of(*model), tmp_path)
    assert recurrent(file) == {OPERATORS[cell]: depth}
    assert {node.domain for node in file.graph.node} == {""}
    assert operators(path) == Counter(node.op_type for node in file.graph.node)


@pytest.mark.parametrize("model", [model for model in MODELS if model[0] not in OPERATORS], ids=str)
def test_a_linear_cell_is_a_scan_around_its_step(model: tuple[str, int, str], tmp_path: Path) -> None:
    network = network_of(*model)
    path, file = written(network, tmp_path)
    assert recurrent(file) == {"Scan": model[1]}
    for stage in network.recurrent:
        kernel = stage.cell.kernel.numpy()
        assert sum(np.array_equal(array, kernel) or np.array_equal(array, kernel.T) for array in stored(file)) == 1
    assert_same(path, network)


@pytest.mark.parametrize("activation", ["silu", "gelu", "selu", "mish"])
def test_an_activation_that_the_operator_lacks_is_a_scan(activation: str, tmp_path: Path) -> None:
    network = Network.of(model_of(cell="plain", activation=activation, layers=2, scale=0.2))
    path, file = written(network, tmp_path)
    assert recurrent(file) == {"Scan": 2}
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
    assert recurrent(file) == {"Scan": 2, "LSTM": 1}
    assert_same(path, network)


@pytest.mark.parametrize(
    ("cell", "options", "expected"),
    [
        ("gru", {}, {"GRU": 2, "Scan": 1}),
        ("gru", {"normalized": True}, {"Scan": 3}),
        ("lstm", {"zoneout": 0.2}, {"Scan": 3}),
        ("lru", {}, {"Scan": 3}),
    ],
)
def test_remedies(cell: str, options: dict[str, Any], expected: dict[str, int], tmp_path: Path) -> None:
    """What is added to an output is outside of the loop, and attention, above the layers, is one of its own."""
    choices = {**options, "residual": True, "learned_start": True, "attention": True}
    network = Network.of(model_of(cell=cell, layers=2, scale=0.2, **choices))
    path, file = written(network, tmp_path)
    assert recurrent(file) == expected
    assert_same(path, network)


def test_what_residual_cells_add_is_in_both_directions(tmp_path: Path) -> None:
    cells = [CELLS["lstm"](8, residual=True) for _ in "12"]
    file = assert_reads_both_ways(of_features(both(rnn(cells[0]), rnn(cells[1], go_backwards=True))), tmp_path)
    assert count(file, "LSTM") == 2


LENGTHS = [6, 4, 1]
MERGES = ["concat", "sum", "ave", "mul"]


def assert_reads_both_ways(model: Any, folder: Path) -> onnx.ModelProto:
    """The file of a model equals Keras on each of three sequences alone; returns the file."""
    path, file = written(Network.of(model), folder)
    x = np.random.default_rng(3).normal(size=(3, max(LENGTHS), 8)).astype(np.float32)
    found, wanted = opened_whole(path)(x, np.array(LENGTHS)), alone(model, x, LENGTHS)
    for row, one in zip(found, wanted, strict=True):
        assert np.abs(one).max() > 0.01
        np.testing.assert_allclose(row if one.ndim == 1 else row[: len(one)], one, rtol=1e-4, atol=2e-5)
    return file


def count(file: onnx.ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in file.graph.node)


def both(ahead: Any, back: Any = None, merge: str = "concat") -> Any:
    """A layer that reads both ways; `back` is a layer that goes backwards."""
    return of_features(layers.Bidirectional(ahead, merge, backward_layer=back))


def rnn(cell: Any, **choices: Any) -> Any:
    return layers.RNN(cell, return_sequences=True, **choices)


KERAS = {
    "SimpleRNN": ("RNN", layers.SimpleRNNCell),
    "LSTM": ("LSTM", layers.LSTMCell),
    "GRU": ("GRU", layers.GRUCell),
    "GRU that resets first": ("GRU", lambda units: layers.GRUCell(units, reset_after=False)),
    "LSTM without bias": ("LSTM", lambda units: layers.LSTMCell(units, use_bias=False)),
}
CELLS_OF_BOTH: dict[str, tuple[str, Callable[[int], Any]]] = {
    **{name: (operator, CELLS[name]) for name, operator in OPERATORS.items()},
    **KERAS,
}


@pytest.mark.parametrize(("name", "merge"), list(zip(CELLS_OF_BOTH, cycle(MERGES))))
def test_both_directions_are_one_native_operator(name: str, merge: str, tmp_path: Path) -> None:
    operator, cell = CELLS_OF_BOTH[name]
    file = assert_reads_both_ways(both(rnn(cell(5)), merge=merge), tmp_path)
    assert recurrent(file) == {operator: 1}
    (node,) = [node for node in file.graph.node if node.op_type == operator]
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}["direction"] == b"bidirectional"
    assert node.input[4] == "lengths"
    assert count(file, "ReverseSequence") == 0


@pytest.mark.parametrize(("cell", "merge"), list(zip([*CELLS.values(), FadingCell], cycle(MERGES))))
def test_the_last_output_is_where_each_direction_ends(cell: Any, merge: str, tmp_path: Path) -> None:
    file = assert_reads_both_ways(both(layers.RNN(cell(5)), merge=merge), tmp_path)
    assert [len(t.type.tensor_type.shape.dim) for t in file.graph.output] == [2]


def gated(layer: Any, *activations: str, **choices: Any) -> Any:
    return layer(5, *activations, return_sequences=True, **choices)


def backwards(layer: Any, *activations: str, **choices: Any) -> Any:
    return gated(layer, *activations, go_backwards=True, **choices)


TWO: dict[str, tuple[Callable[[], Any], dict[str, int]]] = {
    "kinds": (lambda: both(gated(layers.LSTM), backwards(layers.SimpleRNN)), {"LSTM": 1, "RNN": 1}),
    "units": (lambda: both(gated(layers.GRU), layers.GRU(3, return_sequences=True, go_backwards=True)), {"GRU": 2}),
    "where the gate resets": (lambda: both(gated(layers.GRU), backwards(layers.GRU, reset_after=False)), {"GRU": 2}),
    "coupled gates": (lambda: both(rnn(CELLS["lstm"](5)), rnn(CELLS["cifg"](5), go_backwards=True)), {"LSTM": 2}),
    "numbers of activations": (
        lambda: both(gated(layers.LSTM, "tanh"), backwards(layers.LSTM, "elu", "sigmoid")),
        {"LSTM": 2},
    ),
    "one of them unknown": (lambda: both(gated(layers.LSTM, "silu"), backwards(layers.LSTM)), {"LSTM": 1, "Scan": 1}),
    "an own cell": (lambda: both(rnn(FadingCell(5)), rnn(LSTMCell(5), go_backwards=True), "sum"), {"LSTM": 1, "Scan": 1}),
    "stacked": (lambda: both(rnn([layers.LSTMCell(4), layers.GRUCell(5)])), {"LSTM": 2, "GRU": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", TWO)
def test_directions_that_differ_have_an_operator_each(name: str, tmp_path: Path) -> None:
    build, wanted = TWO[name]
    file = assert_reads_both_ways(build(), tmp_path)
    assert recurrent(file) == wanted
    assert count(file, "ReverseSequence") == 2


@pytest.mark.parametrize(
    ("ahead", "back"),
    [
        (("elu", "hard_sigmoid"), ("hard_sigmoid", "elu")),
        (("tanh", "sigmoid"), ("relu", "hard_sigmoid")),
        (("leaky_relu", "linear"), ("linear", "leaky_relu")),
        (("tanh", "sigmoid"), ("softsign", "tanh")),
    ],
)
def test_each_direction_has_activations_of_its_own(ahead: tuple[str, str], back: tuple[str, str], tmp_path: Path) -> None:
    model = filled(both(gated(layers.LSTM, *ahead), backwards(layers.LSTM, *back)), scale=0.2)
    assert sum(recurrent(assert_reads_both_ways(model, tmp_path)).values()) in (1, 2)


def test_a_direction_without_bias_has_zeros(tmp_path: Path) -> None:
    file = assert_reads_both_ways(both(gated(layers.LSTM), backwards(layers.LSTM, use_bias=False)), tmp_path)
    assert recurrent(file) == {"LSTM": 1}


def begin(cell: Any, *numbers: float) -> None:
    """Has a cell begin with these numbers in its states."""
    first = [np.linspace(number / 2, number, 5, dtype=np.float32) for number in numbers]
    cell.get_initial_state = lambda batch_size=None: [ops.tile(values[None], (batch_size, 1)) for values in first]


@pytest.mark.parametrize(
    ("ahead", "back"), [((0.0, 2.0), (0.0, -1.0)), ((1.5, 0.0), (0.0, 0.0))], ids=["c both ways", "h ahead"]
)
def test_native_cells_begin_with_their_first_states(
    ahead: tuple[float, float], back: tuple[float, float], tmp_path: Path
) -> None:
    model, x = both(gated(layers.LSTM)), np.ones((1, 3, 8), np.float32)
    from_zeros = np.asarray(model(x))
    begin(model.layers[0].forward_layer.cell, *ahead)
    begin(model.layers[0].backward_layer.cell, *back)
    assert np.abs(np.asarray(model(x)) - from_zeros).max() > 0.1
    assert recurrent(assert_reads_both_ways(model, tmp_path)) == {"LSTM": 1}


def test_a_native_cell_that_reads_ahead_begins_with_its_first_states(tmp_path: Path) -> None:
    model = of_features(gated(layers.LSTM), layers.Bidirectional(gated(layers.GRU)))
    begin(model.layers[0].cell, 1.5, -2.0)
    assert recurrent(assert_reads_both_ways(model, tmp_path)) == {"LSTM": 1, "GRU": 1}


def test_a_scan_begins_with_the_first_states_of_its_cell(tmp_path: Path) -> None:
    model = both(rnn(FadingCell(5)))
    assert recurrent(assert_reads_both_ways(model, tmp_path)) == {"Scan": 2}
    first = [part.cell.first.numpy() for part in (model.layers[0].forward_layer, model.layers[0].backward_layer)]
    file = onnx.load(tmp_path / "float32.onnx")
    assert [sum(np.array_equal(array, value) for array in stored(file)) for value in first] == [1, 1]


@pytest.mark.parametrize(("cell", "last"), [(layers.GRUCell, True), (FadingCell, False)])
def test_a_layer_that_reads_ahead_beside_one_that_reads_both_ways(cell: Any, last: bool, tmp_path: Path) -> None:
    parts = [rnn(cell(6)), layers.Bidirectional(gated(layers.LSTM)), layers.RNN([cell(4), cell(3)], return_sequences=not last)]
    file = assert_reads_both_ways(of_features(*parts), tmp_path)
    assert recurrent(file) == {"LSTM": 1, "Scan" if cell is FadingCell else "GRU": 3}
    assert count(file, "ReverseSequence") == last


def test_each_weight_of_both_directions_is_stored_once(tmp_path: Path) -> None:
    model = of_features(layers.Bidirectional(gated(layers.LSTM)), layers.Bidirectional(gated(layers.GRU)))
    _, file = written(Network.of(model), tmp_path)
    floats = [array for array in stored(file) if array.dtype == np.float32]
    # ONNX has a bias with W and one with R for each gate, the second of which Keras's LSTM lacks.
    assert sum(array.size for array in floats) == model.count_params() + 2 * 4 * 5


def test_int8_computes_with_the_rounded_weights_of_both_directions(tmp_path: Path) -> None:
    def build() -> Any:
        return filled(of_features(layers.Bidirectional(layers.GRU(24)), features=48), scale=0.2)

    path, file = written(Network.of(build()), tmp_path, "int8")
    assert sorted(array.shape for array in stored(file) if array.dtype == np.int8) == [(72, 24)] * 2 + [(72, 48)] * 2
    exact = build()
    for part in (exact.layers[0].forward_layer, exact.layers[0].backward_layer):
        part.cell.kernel.assign(rounded(part.cell.kernel.numpy(), 1))
        part.cell.recurrent_kernel.assign(rounded(part.cell.recurrent_kernel.numpy(), 1))
    x = np.random.default_rng(3).normal(size=(3, max(LENGTHS), 48)).astype(np.float32)
    found, wanted = opened_whole(path)(x, np.array(LENGTHS)), alone(exact, x, LENGTHS)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)
