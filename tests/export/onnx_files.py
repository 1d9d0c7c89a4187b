"""What the tests of ONNX files share: files written and checked, what is in them, and what they must equal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from export.network import Network
from export.onnx_graph import write_onnx
from export.onnx_nodes import SMALLEST
from export.runners import open_onnx
from export.spec import Spec
from seqapp.step import Array, KerasStepper
from tests.export.conftest import states_of, tokens_of

RECURRENT = ("RNN", "LSTM", "GRU", "Loop", "Scan", "If")


def written(network: Network, folder: Path, precision: str = "float32") -> tuple[Path, onnx.ModelProto]:
    path = folder / f"{precision}.onnx"
    write_onnx(network, Spec.of(network), path, precision)
    onnx.checker.check_model(path, full_check=True)
    return path, onnx.load(path)


def axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def stored(file: onnx.ModelProto) -> list[Array]:
    return [numpy_helper.to_array(weight) for weight in file.graph.initializer]


def recurrent(file: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of a graph run over the timesteps, by their operators."""
    counts = Counter(node.op_type for node in file.graph.node)
    return {name: counts[name] for name in RECURRENT if counts[name]}


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


def rounded(weights: Array, axis: int) -> Array:
    """Weights after int8 with a scale for each index of an axis, as the exporter says that it rounds them."""
    if weights.size < SMALLEST:
        return weights
    scales = np.abs(weights).max(axis=1 - axis, keepdims=True) / 127
    return np.round(weights / scales) * scales
