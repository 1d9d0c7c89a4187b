"""Functions as ONNX nodes, by tf2onnx: they run in ONNX Runtime, and what cannot is refused by name."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import ops
from onnx import TensorProto, helper, numpy_helper

from export.onnx_graph import IR_VERSION
from export.onnx_nodes import OPSET
from export.onnx_translation import Translated, translate
from seqapp.errors import UsageError
from seqapp.step import Array


def translated(function: Any, prefix: str = "part", inputs: tuple[str, ...] = ("x",)) -> Translated:
    return translate(function, list(inputs), [[None, 4]] * len(inputs), prefix, OPSET)


def run(*parts: Translated, **given: Array) -> list[Array]:
    """The outputs of all parts, put into one graph."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])

    outputs = [name for part in parts for name in part.outputs]
    graph = helper.make_graph(
        [node for part in parts for node in part.nodes],
        "whole",
        [value(name) for name in given],
        [value(name) for name in outputs],
        [numpy_helper.from_array(array, name) for part in parts for name, array in part.weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(outputs, given))


def array(*shape: int) -> Array:
    return np.random.default_rng(2).normal(0, 2, shape).astype(np.float32)


def names(part: Translated) -> set[str]:
    """All names that a part makes, in the bodies of its branches too."""
    found = {*part.weights, *part.outputs}

    def collect(nodes: Any) -> None:
        for node in nodes:
            found.update(node.output)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    found.update(value.name for value in (*attribute.g.input, *attribute.g.initializer))
                    collect(attribute.g.node)

    collect(part.nodes)
    return found - {""}


def test_runs_with_its_inputs_in_their_order_and_its_weights() -> None:
    kernel = array(4, 3)
    part = translated(lambda x, y: [x - 2 * y, tf.matmul(x, kernel)], inputs=("one", "two"))
    assert any(np.array_equal(weight, kernel) for weight in part.weights.values())
    one, two = array(5, 4), array(5, 4) + 1
    difference, projected = run(part, one=one, two=two)
    np.testing.assert_allclose(difference, one - 2 * two, rtol=1e-6)
    np.testing.assert_allclose(projected, one @ kernel, rtol=1e-5, atol=1e-6)


def test_names_of_parts_do_not_meet() -> None:
    def body(x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.tanh(x) * 3.0, lambda: tf.nn.relu(x) - 3.0)

    first, second = translated(body, "first"), translated(lambda x: body(x) + 1.0, "second")
    assert all(name.startswith("first/") for name in names(first))
    assert all(name.startswith("second/") for name in names(second))
    for x in (np.abs(array(2, 4)), -np.abs(array(2, 4))):
        wanted = np.tanh(x) * 3 if x.sum() > 0 else np.maximum(x, 0) - 3
        for found, more in zip(run(first, second, x=x), (0, 1), strict=True):
            np.testing.assert_allclose(found, wanted + more, rtol=1e-5, atol=1e-6)


def test_it_is_quiet_where_a_table_was_loaded(caplog: pytest.LogCaptureFixture) -> None:
    tf.compat.v1.get_default_graph().add_to_collection("table_initializer", None)
    with caplog.at_level(logging.WARNING, "tensorflow"):
        translated(lambda x: 2 * x)
    assert not caplog.records


def test_the_exact_gelu() -> None:
    part = translated(lambda x: ops.gelu(x, approximate=False))
    assert "Erf" in {node.op_type for node in part.nodes}
    x = array(6, 4)
    np.testing.assert_allclose(run(part, x=x)[0], ops.convert_to_numpy(ops.gelu(x, approximate=False)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        ops.silu,
        ops.softsign,
        lambda x: ops.layer_normalization(x, np.ones(4, np.float32), np.zeros(4, np.float32), axis=-1),
        lambda x: ops.softmax(x, axis=-1),
        lambda x: ops.logsumexp(x, axis=-1, keepdims=True) + ops.clip(x, -1, 1),
    ],
    ids=["silu", "softsign", "layer normalization", "softmax", "logsumexp"],
)
def test_what_cells_are_made_of(function: Any) -> None:
    x = array(6, 4)
    np.testing.assert_allclose(run(translated(function), x=x)[0], ops.convert_to_numpy(function(x)), rtol=1e-5, atol=1e-6)


def test_an_operation_that_onnx_does_not_know() -> None:
    with pytest.raises(UsageError) as found:
        translated(tf.math.digamma, "layer_1")
    assert str(found.value) == (
        "ONNX has no operator for Digamma, which layer_1 uses: write it with other keras.ops, or leave ONNX out, with --format "
        "saved_model tflite."
    )


def test_whatever_tf2onnx_raises_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("no such thing\nin many\nlines")

    monkeypatch.setattr("tf2onnx.convert.from_function", broken)
    with pytest.raises(
        UsageError, match=r"^tf2onnx cannot translate part \(.*no such thing.*\): .*--format saved_model tflite\.$"
    ):
        translated(tf.tanh)
