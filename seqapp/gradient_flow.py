"""How far back a loss reaches: the gradient of a sequence's last timestep by the states before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from seqapp import backend
from seqapp.cell import Tensor, cut, is_residual
from seqapp.classifier import at_end
from seqapp.disturbance import Disturbance
from seqapp.errors import UsageError
from seqapp.recurrence import Recurrence

Array = NDArray[Any]
ROWS = 32  # sequences at most
STILL = 1e-6  # a unit whose output varies by less is dead
EDGE = 0.01  # of its range: a unit that is within it of an end is saturated there
MOST = 0.95  # of the timesteps
STEPS = 3  # timesteps whose Jacobian is looked at
LARGE = 512  # numbers of a state from which on one is enough: its eigenvalues take a second
# Of layers, by the attribute that the models of this package have them in.
ROLES = {"recurrent": "layer {}", "ahead": "layer {}", "back": "layer {} back", "decoder": "decoder {}"}


@dataclass(frozen=True)
class Flow:
    """What was measured of one layer.

    Attributes:
        gradient: ‖∂loss/∂S‖ (T,), the root of its mean square over sequences, by the state one timestep back, two, and so on.
        radius: the largest |eigenvalue| of ∂S_t/∂S_{t-1} amid a sequence: what a gradient is multiplied by in the long run.
        dead: the part of the units whose output never changes.
        saturated: the part of the units whose output is all but always at an end of its range.
    """

    gradient: Array
    radius: float
    dead: float
    saturated: float


class GradientFlow:
    """Measures the model of a study on the first batch that it learns from, with the weights of the moment."""

    def __init__(self, study: Any) -> None:
        self.model, self.loss, self.layers = study.model, study.loss, layers_of(study.model)
        if not self.layers:
            raise UsageError(
                "The model has no recurrent layer of seqapp.recurrence to look into: build it of Recurrence(cell)."
            )
        batch = keras.tree.map_structure(lambda part: np.asarray(part)[:ROWS], next(iter(study.batches(0, 0))))
        self.x, self.y, self.weight = keras.utils.unpack_x_y_sample_weight(batch)
        inputs = keras.tree.flatten(self.x)
        longest = max(part.shape[1] for part in inputs if part.ndim > 1)
        sizes = [sum(keras.tree.flatten(layer.cell.state_size)) for layer in self.layers.values()]
        self.nothing = [np.zeros((len(inputs[0]), longest, size), np.float32) for size in sizes]
        specs = [keras.KerasTensor(array.shape) for array in self.nothing]
        self.gradients = backend.with_gradients(self.model, self._last_loss, *specs)
        self.traces = backend.compiled(self.model, self._traced, *specs)
        self.steps: dict[str, Any] = {}  # made when they are needed first, for then the widths are known

    def measure(self) -> dict[str, Flow]:
        """The layers by their names."""
        with _every_kernel_begun(self.model):
            _, gradients, _ = self.gradients(*self.nothing)
        found = {}
        for name, gradient, trace in zip(self.layers, gradients, self.traces(*self.nothing), strict=True):
            x, y, states = (np.asarray(part).astype(np.float32) for part in trace)
            norms = np.sqrt((np.asarray(gradient).astype(np.float64) ** 2).sum(-1))
            if is_residual(self.layers[name].cell):
                y = y - x  # what is added is none of its units' doing
            ends = ends_of(norms)
            row = int(ends.argmax())
            jacobians = self._jacobians(name, x[row, : ends[row]], states[row])
            radius = float(np.mean([spectral_radius(jacobian) for jacobian in jacobians]))
            counted = np.concatenate([outputs[:end] for outputs, end in zip(y, ends, strict=True)])
            found[name] = Flow(by_lag(norms, ends), radius, *idle_units(self.layers[name].cell, counted))
        return found

    def _run(self, added: Sequence[Tensor]) -> tuple[Tensor, list[Disturbance]]:
        """The model's first output, and how its layers were run."""
        disturbances = [Disturbance(some) for some in added]
        for layer, disturbance in zip(self.layers.values(), disturbances, strict=True):
            layer.disturbance = disturbance
        try:
            return keras.tree.flatten(self.model(self.x, training=False))[0], disturbances
        finally:
            for layer in self.layers.values():
                layer.disturbance = None

    def _last_loss(self, *added: Tensor) -> Tensor:
        """The loss of the last timestep of each sequence that counts, or of the sequence as a whole."""
        outputs, _ = self._run(added)
        y, weight = self.y, self.weight
        if len(outputs.shape) > 2:
            counts = np.ones(y.shape[:2], bool) if weight is None else weight.reshape(*y.shape[:2], -1).any(-1)
            last = y.shape[1] - 1 - counts[:, ::-1].argmax(1)
            outputs, (y, weight) = at_end(outputs, last + 1), (_at(part, last) for part in (y, weight))
        return self.loss(y, outputs, sample_weight=weight)

    def _traced(self, *added: Tensor) -> list[tuple[Tensor, ...]]:
        """Inputs, outputs and states of the layers."""
        _, disturbances = self._run(added)
        return [(d.inputs, d.outputs, d.states) for d in disturbances]

    def _jacobians(self, name: str, x: Array, states: Array) -> Iterator[Array]:
        """∂S_t/∂S_{t-1} (S, S) at some timesteps of a sequence x (T, F), with states (at least T, S)."""
        (timesteps, width), size = x.shape, states.shape[-1]
        if name not in self.steps:
            specs = [keras.KerasTensor([size, width]), keras.KerasTensor([size, size])]
            self.steps[name] = backend.with_gradients(self.model, _diagonal_of(self.layers[name].cell), *specs)
        for t in np.linspace(timesteps - 1, timesteps // 2, STEPS if size <= LARGE else 1).astype(int):
            before = states[t - 1] if t else np.zeros(size, np.float32)
            _, (_, jacobian), _ = self.steps[name](*(np.tile(row, (size, 1)) for row in (x[t], before)))
            yield np.asarray(jacobian)


def layers_of(model: Any) -> dict[str, Recurrence]:
    """The recurrent layers of a model, by names that people know them by."""
    layers = [layer for layer in model.layers if isinstance(layer, Recurrence)]
    lists = {role: [x for x in layers if _among(x, getattr(model, name, None))] for name, role in ROLES.items()}
    named = {role.format(i): layer for role, some in lists.items() for i, layer in enumerate(some, 1)}
    return named if len(named) == len(layers) else {f"layer {i}": layer for i, layer in enumerate(layers, 1)}


def _among(layer: Recurrence, some: Any) -> bool:
    return isinstance(some, (list, tuple)) and any(other is layer for other in some)


def ends_of(norms: Array) -> Array:
    """Where each sequence ends (B,), of norms (B, T) that are 0 behind it: what is no number counts."""
    return norms.shape[1] - (norms[:, ::-1] != 0).argmax(1)


def by_lag(norms: Array, ends: Array) -> Array:
    """Norms (B, T) of sequences with these ends (B,) -> the root of their mean square (T,), by the way to the end."""
    squares, counts = np.zeros(ends.max()), np.zeros(ends.max())
    for row, end in zip(norms, ends, strict=True):
        squares[:end] += row[:end][::-1] ** 2
        counts[:end] += 1
    return np.sqrt(squares / counts)


def spectral_radius(matrix: Array) -> float:
    """The largest |eigenvalue|; infinite for what is no number any more."""
    return float(np.abs(np.linalg.eigvals(matrix)).max()) if np.isfinite(matrix).all() else math.inf


def idle_units(cell: Any, outputs: Array) -> tuple[float, float]:
    """Which parts of the units are dead and saturated, of outputs (N, U)."""
    dead = np.ptp(outputs, axis=0) < STILL
    if (ends := getattr(cell, "bounds", None)) is None:
        return float(dead.mean()), 0.0
    near = EDGE * (ends[1] - ends[0])
    at_an_end = (outputs < ends[0] + near) | (outputs > ends[1] - near)
    return float(dead.mean()), float((at_an_end.mean(0) > MOST).mean())


def _diagonal_of(cell: Any) -> Any:
    """Of copies of a state, each at another of its numbers, which makes of a gradient by the copies a Jacobian."""

    def diagonal(x: Tensor, states: Tensor) -> Tensor:
        _, after = cell(x, cut(states, keras.tree.flatten(cell.state_size)))
        return ops.trace(ops.concatenate(keras.tree.flatten(after), axis=-1))

    return diagonal


def _at(part: Array | None, last: Array) -> Array | None:
    """(B, T, ...) -> (B, 1, ...)."""
    return None if part is None else part[np.arange(len(part)), last][:, None]


@contextmanager
def _every_kernel_begun(model: Any) -> Iterator[None]:
    """Random numbers in kernels that are still zero, through which no gradient flows before their first update."""
    kernels = [w for w in model.trainable_weights if len(w.shape) > 1 and "bias" not in w.name and not np.any(np.asarray(w))]
    for kernel in kernels:
        kernel.assign(keras.initializers.GlorotUniform(seed=0)(kernel.shape))
    try:
        yield
    finally:
        for kernel in kernels:
            kernel.assign(np.zeros(kernel.shape))
