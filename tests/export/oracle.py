"""What the files of a model must equal: its Keras cells, called one timestep after the other, and its equations in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras import layers

from seqapp.cells import CIFGCell, GRUCell, LSTMCell, PlainCell
from seqapp.model import SequenceModel
from seqapp.step import Array, log_softmax
from tests.export.members import OwnCell, cells_of

# Inputs (B,) or (B, F) and states (B, U) -> logits (B, V) and states.
Step = Callable[[Array, list[Array]], tuple[Array, list[Array]]]
Cell = Callable[[Array, list[Array]], list[Array]]  # the first state is the output

TOLERANCE, ROUNDING_FACTOR = 1e-5, 4


@dataclass(frozen=True)
class Expected:
    """What Keras in float32 makes of inputs (B, T) or (B, T, F) and the states (B, U) before them: log-probabilities (B, T, V)
    and each state (B, T, U). The tolerances are for log-probabilities and for states.
    """

    inputs: Array
    before: list[Array]
    logs: Array
    states: list[Array]
    tolerances: tuple[float, float]

    @classmethod
    def of(cls, model: Any, inputs: Array, before: list[Array]) -> Expected:
        logs, states = by_keras(model, inputs, before)
        exact, exact_states = stepped(numpy_step(model), inputs, before)
        errors = difference(logs, exact), max(map(difference, states, exact_states))
        of_logs, of_states = (max(TOLERANCE, ROUNDING_FACTOR * error) for error in errors)
        return cls(inputs, before, logs, states, (of_logs, of_states))

    def differences(self, logs: Array, states: list[Array]) -> tuple[float, float]:
        """The largest in log-probabilities, (B, T, V) or those of the last timestep, and in the states after it."""
        wanted = self.logs if logs.ndim == 3 else self.logs[:, -1]
        return difference(logs, wanted), max(difference(a, b[:, -1]) for a, b in zip(states, self.states, strict=True))


def difference(a: Array, b: Array) -> float:
    """The largest; infinite where one is not a number."""
    assert a.shape == b.shape
    return float(np.nan_to_num(np.abs(a.astype(np.float64) - b), nan=np.inf).max())


def stepped(step: Step, inputs: Array, states: list[Array]) -> tuple[Array, list[Array]]:
    """Log-probabilities (B, T, V) and each state (B, T, U), one timestep after the other."""
    logits, history = [], []
    for now in np.swapaxes(inputs, 0, 1):
        result, states = step(now, states)
        logits.append(np.asarray(result, np.float64))
        history.append([np.asarray(state) for state in states])
    return log_softmax(np.stack(logits, 1)), [np.stack(state, 1) for state in zip(*history, strict=True)]


def by_keras(model: Any, inputs: Array, before: list[Array]) -> tuple[Array, list[Array]]:
    """What `stepped` returns, by the model's own cells in float32."""
    own = isinstance(model, SequenceModel)
    first, last = (model.embedding, model.logits) if own else (model.layers[0], model.layers[-1])

    def step(x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        after: list[Any] = []
        x = x if isinstance(first, layers.RNN) else first(x)
        for cell in cells_of(model):
            x, more = cell(x, states[len(after) : len(after) + len(cell.state_size)])
            after += more
        return last(x), after

    @tf.function(autograph=False)
    def run(inputs: Any, before: list[Any]) -> tuple[Any, list[Any]]:
        no_logits = tf.zeros_like(step(inputs[0], before)[0])
        return tf.scan(lambda carried, x: step(x, carried[1]), inputs, (no_logits, before))

    logits, states = run(np.swapaxes(inputs, 0, 1), before)
    logits, *states = (np.swapaxes(array, 0, 1) for array in (logits, *states))
    return log_softmax(logits.astype(np.float64)), states


def alone(model: Callable[[Array], Any], inputs: Array, lengths: list[int]) -> list[Array]:
    """A Keras model on each sequence without what pads it: inputs (B, T) or (B, T, F) and lengths -> outputs, each (length, V),
    or (V,) of a model that gives one for each sequence.
    """
    return [np.asarray(model(x[None, :n]))[0] for x, n in zip(inputs, lengths, strict=True)]


def compiled(model: Any) -> Callable[[Array], Any]:
    """A Keras model's own call in one graph for all lengths: one by one, a hundred timesteps would take a second."""
    spec = tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype)
    return tf.function(lambda x: model(x, training=False), input_signature=[spec], autograph=False)


def numpy_step(model: Any) -> Step:
    """The model's equations in float64, from its weights alone."""
    cells = [(_CELLS[type(cell)](cell), len(cell.state_size), getattr(cell, "residual", False)) for cell in cells_of(model)]
    table, kernel, bias = _outer(model)

    def step(x: Array, states: list[Array]) -> tuple[Array, list[Array]]:
        after: list[Array] = []
        x = np.asarray(x, np.float64) if table is None else table[x]
        for cell, count, residual in cells:
            own = cell(x, [np.asarray(state, np.float64) for state in states[len(after) : len(after) + count]])
            x, after = own[0] + x if residual else own[0], [*after, *own]
        return x @ kernel + bias, after

    return step


def _outer(model: Any) -> tuple[Array | None, Array, Array]:
    """Table, output kernel and output bias."""
    if not isinstance(model, SequenceModel):
        first, last = model.layers[0], model.layers[-1]
        table = _array(first.embeddings) if isinstance(first, layers.Embedding) else None
        return table, _array(last.kernel), _array(last.bias)
    table = _array(model.embedding.embeddings)
    kernel = table.T if model.tied else _array(model.output_kernel)
    return table, _array(model.projection.kernel) @ kernel if model.projection else kernel, _array(model.output_bias)


def _array(weight: Any) -> Array:
    return np.asarray(weight.numpy(), np.float64)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _plain(cell: PlainCell) -> Cell:
    f = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[cell.activation.__name__]
    w, b = map(_array, cell.weights)
    return lambda x, states: [f(np.concatenate([states[0], x], 1) @ w + b)]


def _lstm(cell: LSTMCell) -> Cell:
    w, r, b = map(_array, cell.weights[:3])
    gains = [_array(gain) for gain in cell.weights[-2:]] if cell.normalized else [None, None]

    def normed(product: Array, gain: Array | None) -> Array:
        centred = product - product.mean(1, keepdims=True)
        return product if gain is None else gain * centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-3)

    def step(x: Array, states: list[Array]) -> list[Array]:
        i, f, g, o = np.split(normed(x @ w, gains[0]) + normed(states[0] @ r, gains[1]) + b, 4, axis=1)
        c = _sigmoid(f) * states[1] + _sigmoid(i) * np.tanh(g)
        new, z = [_sigmoid(o) * np.tanh(c), c], cell.zoneout
        return [z * old + (1 - z) * now for old, now in zip(states, new, strict=True)]

    return step


def _cifg(cell: CIFGCell) -> Cell:
    w, r, b = map(_array, cell.weights)

    def step(x: Array, states: list[Array]) -> list[Array]:
        i, g, o = np.split(x @ w + states[0] @ r + b, 3, axis=1)
        c = (1 - _sigmoid(i)) * states[1] + _sigmoid(i) * np.tanh(g)
        return [_sigmoid(o) * np.tanh(c), c]

    return step


def _gru(cell: GRUCell) -> Cell:
    w, r, (b, s) = map(_array, cell.weights)

    def step(x: Array, states: list[Array]) -> list[Array]:
        (h,) = states
        xz, xr, xg = np.split(x @ w + b, 3, axis=1)
        hz, hr, hg = np.split(h @ r + s, 3, axis=1)
        z = _sigmoid(xz + hz)
        return [z * h + (1 - z) * np.tanh(xg + _sigmoid(xr + hr) * hg)]

    return step


def _own(cell: OwnCell) -> Cell:
    dense = {name: [_array(w) for w in getattr(cell, name).weights] for name in ("forget", "add", "read")}
    norms = {name: [_array(w) for w in getattr(cell, name).weights] for name in ("norm_add", "norm_read")}

    def product(name: str, x: Array) -> Array:
        kernel, bias = dense[name]
        return x @ kernel + bias

    def norm(name: str, x: Array) -> Array:
        gamma, beta = norms[name]
        x = x - x.mean(1, keepdims=True)
        return x / np.sqrt((x**2).mean(1, keepdims=True) + getattr(cell, name).epsilon) * gamma + beta

    def step(x: Array, states: list[Array]) -> list[Array]:
        joined = np.concatenate([states[0], x], 1)
        c = _sigmoid(product("forget", joined)) * states[1] + _silu(norm("norm_add", product("add", joined)))
        return [_silu(product("read", np.concatenate([norm("norm_read", c), x], 1))), c]

    return step


_CELLS: dict[type, Callable[[Any], Cell]] = {
    PlainCell: _plain,
    LSTMCell: _lstm,
    CIFGCell: _cifg,
    GRUCell: _gru,
    OwnCell: _own,
}
