"""ONNX files: a native operator for each layer, the contract's names, and what cannot be written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.onnx_graph import ACTIVATIONS, native, operators, write_onnx
from export.runners import open_onnx
from export.spec import Spec
from seqapp.cells import CELLS, LSTMCell, PlainCell
from seqapp.config import ModelConfig
from seqapp.errors import UsageError
from seqapp.job import build_model
from seqapp.model import SequenceModel
from seqapp.step import KerasStepper, log_softmax

VOCABULARY, UNITS = 37, 16
OPERATORS = {"plain": "RNN", "lstm": "LSTM", "gru": "GRU", "cifg": "LSTM"}


class PeepholeCell(LSTMCell):
    """A cell of one's own: what derives from a known cell may compute something else."""


def model_of(**choices: Any) -> SequenceModel:
    """Large weights, no two alike."""
    model = build_model(ModelConfig(**{"units": UNITS, "embedding": 12, **choices}), VOCABULARY)
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, 0.4, weight.shape) for weight in model.get_weights()])
    return model


def written(model: SequenceModel, folder: Path) -> tuple[Path, onnx.ModelProto]:
    path = folder / "model.onnx"
    write_onnx(model, Spec.of(model), path)
    return path, onnx.load(path)


def axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_one_native_operator_for_each_layer(cell: str, layers: int, tmp_path: Path) -> None:
    path, file = written(model_of(cell=cell, layers=layers), tmp_path)
    counts = Counter(node.op_type for node in file.graph.node)
    assert {name: counts[name] for name in ("RNN", "LSTM", "GRU", "Loop", "Scan", "If") if counts[name]} == {
        OPERATORS[cell]: layers
    }
    assert {node.domain for node in file.graph.node} == {""}
    assert operators(path) == dict(counts)
    onnx.checker.check_model(path, full_check=True)


def test_names_axes_and_types_are_those_of_the_contract(tmp_path: Path) -> None:
    _, file = written(model_of(cell="lstm"), tmp_path)
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


def test_runs_on_old_runtimes(tmp_path: Path) -> None:
    _, file = written(model_of(cell="gru"), tmp_path)
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", 17)]
    assert file.ir_version == 8


@pytest.mark.parametrize("choices", [{}, {"embedding": UNITS}, {"tied": False}, {"layers": 2}])
@pytest.mark.parametrize("cell", CELLS)
def test_each_weight_is_stored_once(cell: str, choices: dict[str, Any], tmp_path: Path) -> None:
    model = model_of(cell=cell, **choices)
    path, file = written(model, tmp_path)
    stored = [numpy_helper.to_array(weight) for weight in file.graph.initializer]
    embeddings = model.embedding.embeddings.numpy()
    rows, width = embeddings.shape
    held = [a for a in stored if a.ndim == 2 and len(a) == rows and np.array_equal(a[:, :width], embeddings)]
    assert len(held) == 1
    # ONNX wants a bias with each kernel, and four gates of CIFG too.
    gates = {"plain": 1, "lstm": 4, "gru": 3, "cifg": 4}[cell]
    widths = [model.embedding.output_dim, *[UNITS] * (len(model.recurrent) - 1)]
    native_size = sum(gates * UNITS * (width + UNITS + 2) for width in widths)
    own_size = sum(weight.size for layer in model.recurrent for weight in layer.get_weights())
    floats = sum(a.size for a in stored if a.dtype == np.float32)
    assert floats == model.count_params() - own_size + native_size + 1, "all weights once, and the one beside the bias"
    assert path.stat().st_size <= 4 * floats + 4000


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_plain_cell_with_each_activation(activation: str, tmp_path: Path) -> None:
    model = model_of(cell="plain", activation=activation)
    # Weights small enough that an activation without bounds stays in range.
    model.set_weights([weight / 2 for weight in model.get_weights()])
    rng = np.random.default_rng(1)
    tokens, states = rng.integers(0, VOCABULARY, (3, 20)).astype(np.int32), [rng.normal(0, 3, (3, UNITS)).astype(np.float32)]
    path, file = written(model, tmp_path)
    (node,) = [node for node in file.graph.node if node.op_type == "RNN"]
    assert [a.strings for a in node.attribute if a.name == "activations"] == [[activation.capitalize().encode()]]
    logits, (last,) = open_onnx(path, Spec.of(model)).sequence(tokens, states)
    wanted, (wanted_last,) = KerasStepper(model).sequence(tokens, states)
    np.testing.assert_allclose(log_softmax(logits), log_softmax(wanted), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last, wanted_last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["silu", "gelu", "elu", "linear"])
def test_an_activation_that_onnx_lacks_is_refused(activation: str, tmp_path: Path) -> None:
    model = model_of(cell="plain", activation=activation)
    with pytest.raises(UsageError, match=f"no activation '{activation}', only tanh, relu.*--format saved_model tflite"):
        write_onnx(model, Spec.of(model), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_cell_of_ones_own_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no operator for the cell PeepholeCell: .*--format saved_model tflite"):
        native(PeepholeCell(4))


def test_the_halves_of_the_plain_kernel_are_not_confused() -> None:
    cell = PlainCell(2)
    cell.build((None, 3))
    cell.set_weights([np.arange(10).reshape(5, 2), np.array([7, 8])])
    form = native(cell)
    np.testing.assert_array_equal(form.r, [[[0, 2], [1, 3]]])
    np.testing.assert_array_equal(form.w, [[[4, 6, 8], [5, 7, 9]]])
    np.testing.assert_array_equal(form.b, [[7, 8, 0, 0]])


@pytest.mark.parametrize(
    ("cell", "w", "b"),
    [
        ("lstm", [0, 3, 1, 2], [10, 13, 11, 12, 0, 0, 0, 0]),
        ("cifg", [0, 2, 0, 1], [10, 12, 0, 11, 0, 0, 0, 0]),
        ("gru", [0, 1, 2], [10, 11, 12, 13, 14, 15]),
    ],
)
def test_gates_are_put_in_the_order_of_onnx(cell: str, w: list[int], b: list[int]) -> None:
    made = CELLS[cell](1)
    made.build((None, 1))
    gates = made.kernel.shape[1]
    kernel, bias = np.arange(gates)[None], np.arange(10, 10 + np.prod(made.bias.shape)).reshape(made.bias.shape)
    made.set_weights([kernel, kernel + 20, bias])
    form = native(made)
    np.testing.assert_array_equal(form.w[0, :, 0], w)
    # The forget gate of CIFG is not read, and is zero.
    np.testing.assert_array_equal(form.r[0, :, 0], [20, 22, 0, 21] if cell == "cifg" else np.array(w) + 20)
    np.testing.assert_array_equal(form.b[0], b)


def test_one_timestep_is_the_step(tmp_path: Path) -> None:
    model = model_of(cell="gru", layers=2)
    path, _ = written(model, tmp_path)
    runner, states = open_onnx(path, Spec.of(model)), [np.full((3, UNITS), 0.5, np.float32)] * 2
    tokens = np.array([3, 1, 4], np.int32)
    logits, after = runner.step(tokens, states)
    whole, whole_after = runner.sequence(tokens[:, None], states)
    np.testing.assert_array_equal(logits, whole[:, 0])
    np.testing.assert_array_equal(after, whole_after)
    wanted, _ = KerasStepper(model).step(tokens, states)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
