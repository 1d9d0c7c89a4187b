"""The models of the matrix: seven cells, one and two layers, tokens and features, with weights that make states large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from seqapp.cells import LSTMCell
from seqapp.config import ModelConfig
from seqapp.job import build_model, make_cells
from seqapp.step import Array

KINDS = ("plain tanh", "plain relu", "lstm", "lstm remedied", "gru", "cifg", "own")
REMEDIES: dict[str, Any] = {"normalized": True, "zoneout": 0.1, "residual": True, "learned_start": True}
UNBOUNDED = ("plain relu", "lstm", "own")  # those with a state that has no bound
TOKENS, FEATURES = "tokens", "features"
WIDTH = 8  # of features


class OwnCell(layers.Layer):
    """A single step of a cell that nobody but its user knows.

        F_t = σ(forget·[H_{t-1}, X_t]),  A_t = silu(LN(add·[H_{t-1}, X_t]))
        C_t = F_t ⊙ C_{t-1} + A_t
        H_t = silu(read·[LN(C_t), X_t])

    Call: inputs X_t (B, F), states [H_{t-1} (B, U), C_{t-1} (B, U / 2)] -> H_t (B, U), [H_t, C_t].
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.output_size, self.state_size = units, units, [units, units // 2]
        self.forget, self.add, self.read = layers.Dense(units // 2), layers.Dense(units // 2), layers.Dense(units)
        self.norm_add, self.norm_read = layers.LayerNormalization(), layers.LayerNormalization()

    def build(self, input_shape: Any) -> None:
        (h, c), width = self.state_size, input_shape[-1]
        for layer, size in (
            (self.forget, h + width),
            (self.add, h + width),
            (self.read, c + width),
            (self.norm_add, c),
            (self.norm_read, c),
        ):
            layer.build((None, size))

    def call(self, inputs: Any, states: Any) -> tuple[Any, list[Any]]:
        h, c = states
        joined = ops.concatenate([h, inputs], axis=-1)
        c = ops.sigmoid(self.forget(joined)) * c + ops.silu(self.norm_add(self.add(joined)))
        h = ops.silu(self.read(ops.concatenate([self.norm_read(c), inputs], axis=-1)))
        return h, [h, c]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@dataclass(frozen=True)
class Member:
    """A model of the matrix; a large one has over a million parameters, so that the sizes of its files mean something."""

    kind: str
    layers: int
    inputs: str
    large: bool = False

    @property
    def classes(self) -> int:
        return 1000 if self.large else 80

    @property
    def config(self) -> ModelConfig:
        """One layer is tied to the embedding, two are not."""
        cell, _, variant = self.kind.partition(" ")
        options = REMEDIES if variant == "remedied" else {"activation": variant or "tanh"}
        units, embedding = (512, 512) if self.large else (48, 32)
        return ModelConfig(cell, units=units, layers=self.layers, embedding=embedding, tied=self.layers == 1, **options)

    def build(self) -> Any:
        """The Keras model, with random weights."""
        model = self._sequential() if self.inputs == FEATURES or self.kind == "own" else build_model(self.config, self.classes)
        gain = 3.0 if self.kind == "plain relu" else 1.0  # inputs so much larger drive its state beyond 10
        width, power = (WIDTH, 1) if self.inputs == FEATURES else (self.config.embedding, 2)
        fill(model, width, 0.4 * gain**power, gain)
        return model

    def _sequential(self) -> Any:
        if self.inputs == FEATURES:
            first = [keras.Input((None, WIDTH))]
        else:
            first = [keras.Input((None,), dtype="int32"), layers.Embedding(self.classes, self.config.embedding)]
        own = self.kind == "own"
        cells = [OwnCell(self.config.units) for _ in range(self.layers)] if own else make_cells(self.config)
        return keras.Sequential([*first, *(layers.RNN(c, return_sequences=True) for c in cells), layers.Dense(self.classes)])

    def samples(self, seed: int, *shape: int) -> Array:
        """Random inputs, tokens of a shape or features with one more axis."""
        rng = np.random.default_rng(seed)
        if self.inputs == TOKENS:
            return rng.integers(0, self.classes, shape).astype(np.int32)
        return rng.normal(size=(*shape, WIDTH)).astype(np.float32)


def cells_of(model: Any) -> list[Any]:
    return [layer.cell for layer in model.layers if isinstance(layer, layers.RNN)]


def fill(model: Any, width: int, drive: float, gain: float) -> None:
    """Random weights, no two alike: cells that forget slowly, are driven by their inputs and amplify no rounding.

    `width` is that of the first cell's inputs, `drive` the scale of their weights; outputs of the size `gain` make logits as
    large as those of trained models.
    """
    rng, of_cells = np.random.default_rng(7), set()
    for cell in cells_of(model):
        for weight in cell.weights:
            weight.assign(_of_cell(rng, weight, width, drive))
            of_cells.add(id(weight))
        _remember(cell)
        width, drive = cell.output_size, 1.2 / np.sqrt(cell.output_size)
    for weight in model.weights:
        if id(weight) not in of_cells and weight.dtype == "float32":
            inner = weight.shape[-1] if weight.name == "embeddings" else weight.shape[0]
            weight.assign(rng.normal(0, 0.3 if len(weight.shape) == 1 else 3 / gain / np.sqrt(inner), weight.shape))


def _of_cell(rng: np.random.Generator, weight: Any, width: int, drive: float) -> Array:
    shape = tuple(weight.shape)
    if weight.name in ("gamma", "input_gain", "recurrent_gain"):
        # A product that is normalized is as large as its gain, whatever the kernel's scale.
        return rng.uniform(0.5, 1.5, shape) * (0.2 if weight.name == "recurrent_gain" else 1)
    if "kernel" not in weight.name:
        return rng.normal(0, 0.7, shape)
    # The rows for a state come first, those for the inputs after them.
    rows = shape[0] if weight.name == "recurrent_kernel" else shape[0] - width
    scales = np.repeat([0.6 / np.sqrt(max(rows, 1)), drive], [rows, shape[0] - rows])
    return scales[:, None] * rng.normal(0, 1, shape)


def _remember(cell: Any) -> None:
    """Biases the forget gate, so that c adds up many timesteps."""
    if isinstance(cell, LSTMCell):
        cell.bias.assign(cell.bias + np.repeat([0.0, 3.0, 0.0, 0.0], cell.units))
    if isinstance(cell, OwnCell):
        cell.forget.bias.assign(cell.forget.bias + 3.0)
