"""Cells as ONNX's native recurrent operators, where the algebra is the same.

Gate orders differ (ONNX documentation of RNN-14, LSTM-14 and GRU-14), and weights of Keras are (F, gates·U), those of ONNX
(directions, gates·U, F).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import activations, layers
from numpy.typing import NDArray

from seqapp.cells import CIFGCell, GRUCell, LSTMCell, PlainCell

Array = NDArray[np.float32]
Gates = tuple[Array | None, ...]

# Keras's activations as ONNX's, with alpha and beta where there are any.
ACTIVATIONS: dict[Any, tuple[str, float | None, float | None]] = {
    activations.tanh: ("Tanh", None, None),
    activations.sigmoid: ("Sigmoid", None, None),
    activations.relu: ("Relu", None, None),
    activations.softsign: ("Softsign", None, None),
    activations.softplus: ("Softplus", None, None),
    activations.elu: ("Elu", 1.0, None),
    activations.leaky_relu: ("LeakyRelu", 0.2, None),
    activations.hard_sigmoid: ("HardSigmoid", 1 / 6, 0.5),
    activations.linear: ("Affine", 1.0, 0.0),
}


@dataclass(frozen=True)
class Native:
    """A cell as an ONNX operator.

    Each weight is a tuple of gates in ONNX's order, w (U, F), r (U, U), b (U,); a gate that is None is zeros that need not be
    stored.
    """

    operator: str
    w: Gates
    r: Gates
    b: Gates
    attributes: dict[str, Any] = field(default_factory=dict)


def native(cell: Any) -> Native | None:
    """A cell's operator and its weights in that operator's order; None where ONNX has no operator for it."""
    convert = _CONVERTERS.get(type(cell))
    changed = getattr(cell, "normalized", False) or getattr(cell, "zoneout", 0.0)
    return convert(cell) if convert and not changed else None


def _plain(cell: PlainCell) -> Native | None:
    kernel, u = _array(cell.kernel), cell.units
    return _of("RNN", (kernel[u:].T,), (kernel[:u].T,), (_array(cell.bias), None), [cell.activation])


def _lstm(cell: Any) -> Native:
    return Native("LSTM", *_reordered(cell, 4, lambda i, f, g, o: (i, o, f, g)))


def _cifg(cell: CIFGCell) -> Native:
    # The forget gate is not read with input_forget, but has its place.
    return Native("LSTM", *_reordered(cell, 3, lambda i, g, o: (i, o, None, g)), {"input_forget": 1})


def _gru(cell: GRUCell) -> Native:
    w, r = (_split(_array(kernel).T, 3) for kernel in (cell.kernel, cell.recurrent_kernel))
    b, s = _array(cell.bias)
    return Native("GRU", w, r, (*_split(b, 3), *_split(s, 3)), {"linear_before_reset": 1})


def _keras_simple_rnn(cell: Any) -> Native | None:
    bias = (_array(cell.bias) if cell.use_bias else None, None)
    return _of("RNN", (_array(cell.kernel).T,), (_array(cell.recurrent_kernel).T,), bias, [cell.activation])


def _keras_lstm(cell: Any) -> Native | None:
    weights = _reordered(cell, 4, lambda i, f, g, o: (i, o, f, g))
    return _of("LSTM", *weights, [cell.recurrent_activation, cell.activation, cell.activation])


def _keras_gru(cell: Any) -> Native | None:
    w, r = (_split(_array(kernel).T, 3) for kernel in (cell.kernel, cell.recurrent_kernel))
    both = np.broadcast_to(_array(cell.bias) if cell.use_bias else np.zeros(3 * cell.units, np.float32), (2, 3 * cell.units))
    # Without reset_after there is one bias, which is added with W.
    b = (*_split(both[0], 3), *(_split(both[1], 3) if cell.reset_after else (None,) * 3))
    attributes = {"linear_before_reset": int(cell.reset_after)}
    return _of("GRU", w, r, b, [cell.recurrent_activation, cell.activation], attributes)


_CONVERTERS: dict[type, Callable[[Any], Native | None]] = {
    PlainCell: _plain, LSTMCell: _lstm, CIFGCell: _cifg, GRUCell: _gru,
    layers.SimpleRNNCell: _keras_simple_rnn, layers.LSTMCell: _keras_lstm, layers.GRUCell: _keras_gru,
}  # fmt: skip


def _of(
    operator: str, w: Gates, r: Gates, b: Gates, functions: list[Any], attributes: dict[str, Any] | None = None
) -> Native | None:
    """The operator with its activations, if ONNX has all of them."""
    if not all(function in ACTIVATIONS for function in functions):
        return None
    names, alphas, betas = zip(*(ACTIVATIONS[function] for function in functions), strict=True)
    # ONNX hands alphas and betas out in the order of the activations that have one.
    numbers = {"activation_alpha": [a for a in alphas if a is not None], "activation_beta": [b for b in betas if b is not None]}
    given = {name: values for name, values in numbers.items() if values}
    return Native(operator, w, r, b, {"activations": list(names), **given, **(attributes or {})})


def _reordered(cell: Any, gates: int, order: Callable[..., Gates]) -> tuple[Gates, Gates, Gates]:
    """Kernel, recurrent kernel and bias of a gated cell; ONNX adds a bias with W and one with R, the second of them zero."""
    w, r = (order(*_split(_array(kernel).T, gates)) for kernel in (cell.kernel, cell.recurrent_kernel))
    bias = order(*_split(_array(cell.bias), gates)) if getattr(cell, "use_bias", True) else (None,) * 4
    return w, r, (*bias, *(None,) * len(bias))


def _split(weights: Array, gates: int) -> tuple[Array, ...]:
    return tuple(np.split(weights, gates))


def _array(variable: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
