"""What `seqapp.benchmark` times: the same recurrent layers, and models around them, as several libraries run them.

Each contender is a function of a number of times: it does its work so often, and is done when the last result is there.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from seqapp import backend
from seqapp.carried import CarriedModel
from seqapp.cells import CELLS
from seqapp.classifier import Classifier
from seqapp.classify import Coder
from seqapp.config import ModelConfig, TrainingConfig
from seqapp.fitting import optimizer_of
from seqapp.job import build_model
from seqapp.label_study import LabelStudy
from seqapp.precision import training_in
from seqapp.recurrence import Recurrence
from seqapp.sequences import Sequences
from seqapp.step import Array

Work = Callable[[int], None]
FIXED, VARIABLE = "one length", "a tenth of it to all of it"
OURS, KERAS, TORCH, PRODUCTS = "seqapp", "Keras", "PyTorch", "matrix products alone"
ROUNDED = "seqapp, in bfloat16"
OF_KERAS = {"plain": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}
OF_TORCH = {"plain": "RNN", "lstm": "LSTM", "gru": "GRU"}
GATES = {"plain": 1, "lstm": 4, "gru": 3, "cifg": 3}


@dataclass(frozen=True)
class Shape:
    """Of the work: B sequences of T timesteps, E features of each or a token, U units, V tokens there are."""

    batch_size: int
    timesteps: int
    embedding: int
    units: int
    vocabulary: int

    @property
    def tokens(self) -> int:
        return self.batch_size * self.timesteps

    def features(self) -> Array:
        """Random inputs (B, T, E)."""
        return np.random.default_rng(0).normal(size=(self.batch_size, self.timesteps, self.embedding)).astype(np.float32)

    def streams(self, count: int) -> tuple[Array, Array]:
        """Random tokens (count·B, T) and those after them."""
        drawn = np.random.default_rng(0).integers(0, self.vocabulary, (count * self.batch_size, self.timesteps + 1))
        return drawn[:, :-1].astype(np.int32), drawn[:, 1:].astype(np.int32)


def layers_of(cell: str, shape: Shape) -> dict[str, Work]:
    """A recurrent layer, forward and backward, gradients by inputs and weights."""
    found = {OURS: _layer(Recurrence(CELLS[cell](shape.units)), shape)}
    if cell in OF_KERAS:
        found[KERAS] = _layer(OF_KERAS[cell](shape.units, return_sequences=True), shape)
        if has_torch():
            found[TORCH] = _torch_layer(cell, shape)
    if cell in GATES:
        found[PRODUCTS] = products(cell, shape)
    return found


def training_steps_of(cell: str, shape: Shape) -> dict[str, Work]:
    """A whole training step of embedding, layer and logits: loss, gradients, clipping and AdamW."""
    found = {OURS: _our_step(cell, shape)}
    if backend.has_bfloat16():
        found[ROUNDED] = _our_step(cell, shape, "bfloat16")
    if cell in OF_KERAS:
        found[KERAS] = _keras_step(cell, shape)
        if has_torch():
            found[TORCH] = _torch_step(cell, shape)
    return found


def fits_of(cell: str, shape: Shape, batches: int) -> dict[str, tuple[Work, int]]:
    """Epochs of so many batches as `seqapp.train` runs them, a class for each timestep: of sequences of one length, and of a
    tenth of it up to all of it, uniformly. With each, how many timesteps are learnt from, padding not counted.
    """
    rng, found = np.random.default_rng(0), dict[str, tuple[Work, int]]()
    longest = np.full(batches * shape.batch_size, shape.timesteps)
    for name, lengths in ((FIXED, longest), (VARIABLE, rng.integers(max(1, shape.timesteps // 10), longest + 1))):
        inputs = [rng.normal(size=(n, shape.embedding)).astype(np.float32) for n in lengths]
        labels = [rng.integers(0, shape.vocabulary, n).astype(np.int32) for n in lengths]
        moments = [0.0] * shape.embedding, [1.0] * shape.embedding
        model = Classifier(shape.vocabulary, [CELLS[cell](shape.units)], (), None, 0, *moments, each_timestep=True)
        coder = Coder(tuple(map(str, range(shape.vocabulary))), None, shape.embedding, True)
        training = TrainingConfig(batch_size=shape.batch_size)
        study = LabelStudy(model, coder, {"train": Sequences(inputs, labels)}, training)
        model.compile(optimizer_of(training, model), study.loss)
        found[name] = (partial(_epochs, study), int(lengths.sum()))
    return found


def _epochs(study: LabelStudy, times: int) -> None:
    for epoch in range(times):
        study.learner.fit(study.batches(epoch, 0), shuffle=False, verbose=0)


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _layer(layer: Any, shape: Shape) -> Work:
    x = ops.convert_to_tensor(shape.features())
    layer.build(x.shape)

    def loss(given: Any) -> Any:
        y = layer(given, training=True)
        y = y[0] if isinstance(y, (list, tuple)) else y
        return ops.sum(y * y)

    run = backend.with_gradients(layer, loss, keras.KerasTensor(x.shape))

    def work(times: int) -> None:
        for _ in range(times):
            value, *_ = run(x)
        float(value)

    return work


def products(cell: str, shape: Shape) -> Work:
    """The products that a layer cannot do without: two at each timestep, which wait for those before, and four at once."""
    rng, gates = np.random.default_rng(0), GATES[cell] * shape.units
    b, t, f, u = shape.batch_size, shape.timesteps, shape.embedding, shape.units
    kernel, x, h = (ops.convert_to_tensor(rng.normal(0, 0.01, s).astype(np.float32)) for s in ((gates, f), (f, b * t), (u, b)))
    recurrent, back, all_gates, all_h = (
        ops.convert_to_tensor(rng.normal(0, 0.01, s).astype(np.float32))
        for s in ((gates, u), (u, gates), (gates, b * t), (u, b * t))
    )
    model = keras.Sequential([layers.Input((1,))])

    def run(x: Any, h: Any) -> Any:
        for _ in range(t):
            h = ops.matmul(back, ops.matmul(recurrent, h))
        forward = ops.matmul(kernel, x)
        by_kernels = ops.matmul(all_gates, ops.transpose(x)), ops.matmul(all_gates, ops.transpose(all_h))
        by_x = ops.matmul(ops.transpose(kernel), all_gates)
        # Of each a corner, so that no compiler leaves one out.
        return ops.sum(h) + sum(part[0, 0] for part in (forward, *by_kernels, by_x))

    compiled = backend.compiled(model, run, keras.KerasTensor(x.shape), keras.KerasTensor(h.shape))

    def work(times: int) -> None:
        for _ in range(times):
            value = compiled(x, h)
        float(value)

    return work


def _our_step(cell: str, shape: Shape, precision: str = "float32") -> Work:
    config = ModelConfig(
        cell=cell, units=shape.units, embedding=shape.embedding, tied=False, dropout=0.0, recurrent_dropout=0.0
    )
    learner = CarriedModel(build_model(config, shape.vocabulary), shape.batch_size)
    fitted = _fitted(learner, shape)

    def work(times: int) -> None:
        with training_in(precision, learner):
            fitted(times)

    return work


def _keras_step(cell: str, shape: Shape) -> Work:
    parts = [
        layers.Embedding(shape.vocabulary, shape.embedding),
        OF_KERAS[cell](shape.units, return_sequences=True),
        layers.Dense(shape.vocabulary),
    ]
    return _fitted(keras.Sequential([keras.Input((shape.timesteps,), shape.batch_size, "int32"), *parts]), shape)


def _fitted(learner: Any, shape: Shape) -> Work:
    """By `fit`, as `seqapp.train` does it."""
    optimizer = optimizer_of(TrainingConfig(), learner)
    learner.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def work(times: int) -> None:
        arrays = tuple(part.reshape(times, shape.batch_size, -1) for part in shape.streams(times))
        kinds = tuple(keras.KerasTensor(part.shape[1:], part.dtype) for part in arrays)
        data = backend.slices(lambda first, end: tuple(part[first:end] for part in arrays), kinds, times)
        learner.fit(data, shuffle=False, verbose=0)

    return work


def _torch() -> tuple[Any, str]:
    """PyTorch, and the device that Keras's engine would use too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

        return torch, "cuda" if torch.cuda.is_available() else "cpu"


def _torch_layer(cell: str, shape: Shape) -> Work:
    torch, device = _torch()
    layer = getattr(torch.nn, OF_TORCH[cell])(shape.embedding, shape.units, batch_first=True).to(device)
    x = torch.tensor(shape.features(), device=device, requires_grad=True)

    def work(times: int) -> None:
        for _ in range(times):
            layer.zero_grad()
            x.grad = None
            loss = (layer(x)[0] ** 2).sum()
            loss.backward()
        x.grad.sum().item()

    return work


def _torch_step(cell: str, shape: Shape) -> Work:
    torch, device = _torch()
    table = torch.nn.Embedding(shape.vocabulary, shape.embedding)
    layer = getattr(torch.nn, OF_TORCH[cell])(shape.embedding, shape.units, batch_first=True)
    head = torch.nn.Linear(shape.units, shape.vocabulary)
    model = torch.nn.ModuleList([table, layer, head]).to(device)
    training = TrainingConfig()
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=training.weight_decay)

    def work(times: int) -> None:
        inputs, targets = (torch.tensor(part, dtype=torch.long, device=device) for part in shape.streams(times))
        size = shape.batch_size
        for i in range(0, len(inputs), size):
            logits = head(layer(table(inputs[i : i + size]))[0])
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, shape.vocabulary), targets[i : i + size].reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
            optimizer.step()
        loss.item()

    return work
