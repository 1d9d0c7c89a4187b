"""What an ONNX graph is made of: each weight once, in its precision, and the layers around the recurrent ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import layers

from export.network import Network
from export.onnx_graph import int8_tensors
from tests.export.conftest import ENDS, UNITS, model_of, network_of, of_features
from tests.export.onnx_files import assert_same, rounded, stored, written

# For each gate ONNX wants two, and so it does for the gate that CIFG does not have; its kernels are made from zeros.
BIASES = {"plain": 1, "lstm": 4, "gru": 3, "cifg": 4}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("cell", BIASES)
def test_each_weight_is_stored_once(cell: str, end: str, tmp_path: Path) -> None:
    model = model_of(cell=cell, layers=2, **ENDS[end])
    path, file = written(Network.of(model), tmp_path)
    embeddings = model.embedding.embeddings.numpy()
    assert sum(np.array_equal(array, embeddings) for array in stored(file)) == 1
    biases = BIASES[cell] * 2 * UNITS
    own = sum(
        weight.size for layer in model.recurrent for weight in layer.get_weights() if min(weight.shape) <= 2 or weight.ndim == 1
    )
    floats = sum(array.size for array in stored(file) if array.dtype == np.float32)
    assert floats == model.count_params() - own + 2 * biases + 1, "all weights once, and the one beside the bias"
    assert path.stat().st_size <= 4 * floats + 4000


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
