"""Cells as ONNX's native operators: each gate in its place, each activation by its name, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from export.network import Network
from export.onnx_cells import ACTIVATIONS, Gates, native
from export.onnx_graph import operators, write_onnx
from export.runners import open_onnx
from export.spec import Spec
from seqapp.cells import CELLS, LSTMCell, PlainCell
from seqapp.step import KerasStepper
from tests.export.conftest import OwnCell, filled, of_features, states_of


class PeepholeCell(LSTMCell):
    """A cell of one's own: what derives from a known cell may compute something else."""


def counted(cell: Any) -> Any:
    """A built cell of one unit over one feature: kernel 0, 1, ..., recurrent kernel 20, 21, ..., bias 40, 41, ..."""
    cell.build((None, 1))
    for first, weight in zip((0, 20, 40), cell.weights, strict=False):
        weight.assign(np.arange(first, first + np.prod(weight.shape)).reshape(weight.shape))
    return cell


def numbers(gates: Gates) -> list[float | None]:
    return [None if gate is None else float(np.ravel(gate)[0]) for gate in gates]


def test_the_halves_of_the_plain_kernel_are_not_confused() -> None:
    cell = PlainCell(2)
    cell.build((None, 3))
    cell.set_weights([np.arange(10).reshape(5, 2), np.array([7, 8])])
    form = native(cell)
    assert form is not None
    np.testing.assert_array_equal(form.r[0], [[0, 2], [1, 3]])
    np.testing.assert_array_equal(form.w[0], [[4, 6, 8], [5, 7, 9]])
    np.testing.assert_array_equal(form.b[0], [7, 8])
    assert form.b[1] is None


LSTM, GRU = [0, 3, 1, 2], [0, 1, 2]


@pytest.mark.parametrize(
    ("cell", "operator", "w", "b"),
    [
        (CELLS["lstm"](1), "LSTM", LSTM, [40, 43, 41, 42, None, None, None, None]),
        (CELLS["cifg"](1), "LSTM", [0, 2, None, 1], [40, 42, None, 41, None, None, None, None]),
        (CELLS["gru"](1), "GRU", GRU, [40, 41, 42, 43, 44, 45]),
        (layers.SimpleRNNCell(1), "RNN", [0], [40, None]),
        (layers.LSTMCell(1), "LSTM", LSTM, [40, 43, 41, 42, None, None, None, None]),
        (layers.LSTMCell(1, use_bias=False), "LSTM", LSTM, [None] * 8),
        (layers.GRUCell(1), "GRU", GRU, [40, 41, 42, 43, 44, 45]),
        (layers.GRUCell(1, reset_after=False), "GRU", GRU, [40, 41, 42, None, None, None]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else "",
)
def test_gates_are_put_in_the_order_of_onnx(cell: Any, operator: str, w: list[float | None], b: list[float | None]) -> None:
    form = native(counted(cell))
    assert form is not None
    assert form.operator == operator
    assert numbers(form.w) == w
    assert numbers(form.r) == [None if number is None else number + 20 for number in w]
    assert numbers(form.b) == b


def test_conventions_that_attributes_say() -> None:
    def of(cell: Any, name: str) -> Any:
        form = native(counted(cell))
        assert form is not None
        return form.attributes.get(name)

    assert of(CELLS["gru"](1), "linear_before_reset") == of(layers.GRUCell(1), "linear_before_reset") == 1
    assert of(layers.GRUCell(1, reset_after=False), "linear_before_reset") == 0
    assert of(CELLS["cifg"](1), "input_forget") == 1
    assert of(CELLS["lstm"](1), "input_forget") is None


@pytest.mark.parametrize(
    "cell",
    [OwnCell(3), PeepholeCell(3), PlainCell(3, activation="silu"), layers.LSTMCell(3, recurrent_activation="gelu")],
    ids=lambda cell: type(cell).__name__,
)
def test_what_onnx_has_no_operator_for(cell: Any) -> None:
    cell.build((None, 2))
    assert native(cell) is None


NAMES = [function.__name__ for function in ACTIVATIONS]
# Every activation in both places, and those that take numbers beside one another: ONNX hands the numbers out in turn.
GATED = [
    *zip(NAMES, NAMES[1:] + NAMES[:1], strict=True),
    ("elu", "hard_sigmoid"),
    ("hard_sigmoid", "elu"),
    ("leaky_relu", "linear"),
    ("linear", "leaky_relu"),
]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", NAMES)
def test_keras_simple_rnn(name: str, bias: bool, tmp_path: Path) -> None:
    assert_runs_as_keras(layers.SimpleRNN(9, name, bias, return_sequences=True), "RNN", tmp_path)


@pytest.mark.parametrize(("inner", "outer"), GATED)
def test_keras_lstm(inner: str, outer: str, tmp_path: Path) -> None:
    assert_runs_as_keras(layers.LSTM(9, inner, outer, return_sequences=True), "LSTM", tmp_path)


@pytest.mark.parametrize(
    ("inner", "outer", "reset_after"),
    [*((*pair, True) for pair in GATED), ("tanh", "sigmoid", False), ("elu", "hard_sigmoid", False)],
)
def test_keras_gru(inner: str, outer: str, reset_after: bool, tmp_path: Path) -> None:
    layer = layers.GRU(9, inner, outer, return_sequences=True, reset_after=reset_after)
    assert_runs_as_keras(layer, "GRU", tmp_path)


@pytest.mark.parametrize("layer", [layers.LSTM, layers.GRU])
def test_gated_without_bias(layer: Any, tmp_path: Path) -> None:
    assert_runs_as_keras(layer(9, use_bias=False, return_sequences=True), layer.__name__, tmp_path)


def assert_runs_as_keras(layer: Any, operator: str, folder: Path) -> None:
    """The ONNX file of a model of this layer against the model itself, and from large states against its cell."""
    # Small weights and few timesteps: a gate without bounds lets a state grow like the square of the one before.
    model = filled(of_features(layer), scale=0.2)
    network, path = Network.of(model), folder / "model.onnx"
    write_onnx(network, Spec.of(network), path)
    assert operators(path).get(operator) == 1
    assert "Scan" not in operators(path)
    runner = open_onnx(path, Spec.of(network))
    x = np.random.default_rng(1).normal(size=(3, 4, 8)).astype(np.float32)
    found, _ = runner.sequence(x, runner.initial_states(3))
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(x)), rtol=1e-5, atol=1e-5)
    states = states_of(network, 3, scale=1)
    found, after = runner.sequence(x, states)
    wanted, wanted_after = KerasStepper(network, 8).sequence(x, states)
    for a, b in zip((found, *after), (wanted, *wanted_after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_plain_cell(name: str, tmp_path: Path) -> None:
    assert_runs_as_keras(layers.RNN(PlainCell(9, activation=name), return_sequences=True), "RNN", tmp_path)
