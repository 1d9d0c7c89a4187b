"""What the tests of the exporter share: models whose faults would show, and their TFLite files, which take a process each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from export import conversion, tflite
from export.network import Network
from export.parity import LENGTHS
from export.reference import Reference
from export.spec import Spec
from seqapp.cells import CELLS
from seqapp.config import ModelConfig
from seqapp.job import build_model
from seqapp.linear_cells import LinearCell
from seqapp.model import SequenceModel
from seqapp.step import Array

VOCABULARY, UNITS = 37, 16
# What the logits come from: the embedding, the embedding after a projection, a kernel of their own.
ENDS: dict[str, dict[str, Any]] = {
    "tied": {"embedding": UNITS},
    "projected": {"embedding": 12},
    "untied": {"embedding": 12, "tied": False},
}
LINEAR = [name for name, kind in CELLS.items() if issubclass(kind, LinearCell)]
# Each cell and each end with one and with two layers; the linear cells, which are all exported in one way, with either.
MODELS = [
    (cell, depth, list(ENDS)[(i + depth) % 3])
    for i, cell in enumerate(CELLS)
    for depth in ([1 + i % 2] if cell in LINEAR else [1, 2])
]


@pytest.fixture(scope="module")
def lengths_of_users() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.parity.LENGTHS", LENGTHS)
        yield


class OwnCell(layers.Layer):
    """A cell as a user may write it: unknown to Keras, with layers inside and widths that all differ."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, 3], 7
        self.norm, self.slow = layers.LayerNormalization(), layers.Dense(3)

    def build(self, input_shape: Any) -> None:
        self.mix = self.add_weight(shape=(input_shape[-1] + self.units + 3, self.units), name="mix")
        self.out = self.add_weight(shape=(self.units + 3, 7), name="out")
        self.norm.build((None, self.units))
        self.slow.build((None, self.units))

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        h = ops.silu(self.norm(ops.matmul(ops.concatenate([inputs, *states], -1), self.mix)))
        slow = 0.9 * states[1] + self.slow(h)
        return ops.matmul(ops.concatenate([h, slow], -1), self.out), [h, slow]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def filled(model: Any, scale: float = 0.4, seed: int = 5) -> Any:
    """Gives a model large weights, no two alike: small ones would hide a fault, equal ones a swap."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        drawn = rng.uniform(0.5, 2, weight.shape) if "variance" in weight.name else rng.normal(0, scale, weight.shape)
        weight.assign(drawn)
    return model


def model_of(size: int = VOCABULARY, scale: float = 0.4, seed: int = 5, **choices: Any) -> SequenceModel:
    return filled(build_model(ModelConfig(**{"units": UNITS, "embedding": 12, **choices}), size), scale, seed)


def of_features(*parts: Any, features: int = 8) -> Any:
    """A `keras.Sequential` of layers over features (B, T, F)."""
    return filled(keras.Sequential([keras.Input((None, features)), *parts]))


@cache
def network_of(cell: str, depth: int, end: str) -> Network:
    """One of `MODELS`, or two cells of a user's own, which nobody may change."""
    if cell == "own":
        return Network.of(filled(SequenceModel(VOCABULARY, [OwnCell(9) for _ in range(depth)], **ENDS[end])))
    return Network.of(model_of(cell=cell, layers=depth, **ENDS[end]))


@cache
def tflite_of(cell: str, depth: int, end: str) -> bytes:
    network = network_of(cell, depth, end)
    return tflite.float32(network, Spec.of(network))


LARGE_SIZE, LARGE_UNITS = 80, 48


@cache
def large_network() -> Network:
    """A plain cell, its table tied to the logits; every weight but the biases is large enough for int8."""
    return Network.of(model_of(LARGE_SIZE, cell="plain", units=LARGE_UNITS, embedding=LARGE_UNITS, scale=0.1))


@cache
def large_tflite() -> bytes:
    return tflite.float32(large_network(), Spec.of(large_network()))


def states_of(network: Network, rows: int, scale: float = 3.0) -> list[Array]:
    """Large states (B, U)."""
    rng = np.random.default_rng(7)
    return [rng.normal(0, scale, (rows, size)).astype(np.float32) for size in network.state_sizes]


def tokens_of(rows: int, timesteps: int) -> Array:
    return np.random.default_rng(1).integers(0, VOCABULARY, (rows, timesteps)).astype(np.int32)


@keras.saving.register_keras_serializable(package="tests")
class FadingCell(layers.Layer):
    """A cell that ONNX has no operator for, from a state that it learned; Keras can make it again, as Bidirectional needs it.

    L_t = σ(r) ⊙ L_{t-1} + X_t·K,  Y_t = softsign(L_t)
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.rate = self.add_weight(shape=(self.units,), name="rate")
        self.first = self.add_weight(shape=(self.units,), name="first")

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        return [ops.tile(ops.expand_dims(self.first, 0), (batch_size, 1))]

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        level = ops.sigmoid(self.rate) * states[0] + ops.matmul(inputs, self.kernel)
        return ops.softsign(level), [level]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


TAGS, CLASSES = 5, 4


def tagger() -> Any:
    """Tokens to a tag for each timestep, both layers reading both ways; its LSTM is large enough for int8."""
    lstm, gru = (layer(units, return_sequences=True) for layer, units in ((layers.LSTM, 64), (layers.GRU, 10)))
    parts = [layers.Bidirectional(lstm), layers.Bidirectional(gru, "sum"), layers.Dense(TAGS)]
    first = [keras.Input((None,), dtype="int32"), layers.Embedding(VOCABULARY, 32)]
    # In a network that amplifies what it is given, no rounding of a quantized file is small.
    return filled(keras.Sequential([*first, *parts]), scale=0.3)


def classifier() -> Any:
    """Features to the probabilities of a class for each sequence: a layer that reads ahead, and two cells each way."""
    both = layers.Bidirectional(layers.RNN([layers.GRUCell(6), FadingCell(5)]), "mul")
    return of_features(layers.LSTM(7, return_sequences=True), both, layers.Dense(CLASSES, "softmax"))


@dataclass(frozen=True)
class Exported:
    """A model that reads both ways, its bundle, and what its files were compared with."""

    model: Any
    folder: Path
    content: dict[str, Any]
    reference: Reference


def exported(model: Any, inputs: Array, folder: Path, precisions: list[str]) -> Exported:
    source = conversion.source_of(model, inputs, None, None, None, "tags")
    content = conversion.convert(source, folder, ["saved_model", "tflite", "onnx"], precisions, [], False)
    return Exported(model, folder, content, source.reference)


@pytest.fixture(scope="session")
def tagger_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The tagger in each format and precision that there is of it."""
    folder = tmp_path_factory.mktemp("tagger") / "bundle"
    return exported(tagger(), tokens_of(1, 1500)[0], folder, ["dynamic", "float16", "int8"])


@pytest.fixture(scope="session")
def classifier_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("classifier") / "bundle"
    return exported(classifier(), np.random.default_rng(2).normal(size=(1500, 8)), folder, [])
