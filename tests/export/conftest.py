"""What the tests of the exporter share: models whose faults would show, and their TFLite files, which take a process each."""

from __future__ import annotations

from functools import cache
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from export import tflite
from export.network import Network
from export.spec import Spec
from seqapp.cells import CELLS
from seqapp.config import ModelConfig
from seqapp.job import build_model
from seqapp.model import SequenceModel
from seqapp.step import Array

VOCABULARY, UNITS = 37, 16
# What the logits come from: the embedding, the embedding after a projection, a kernel of their own.
ENDS: dict[str, dict[str, Any]] = {
    "tied": {"embedding": UNITS},
    "projected": {"embedding": 12},
    "untied": {"embedding": 12, "tied": False},
}
# Each cell and each end with one and with two layers.
MODELS = [(cell, depth, list(ENDS)[(i + depth) % 3]) for i, cell in enumerate(CELLS) for depth in (1, 2)]


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
