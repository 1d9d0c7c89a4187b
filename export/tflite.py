"""TFLite (LiteRT): one file, all signatures, built-in operators only, every weight once; and its smaller precisions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from export import flatbuffer, quantize
from export.converter import convert
from export.graphs import builtin_functions
from export.network import Network
from export.saved_model import save
from export.spec import SEQUENCE, STEP, Spec
from seqapp.errors import need
from seqapp.step import Array


def float32(network: Network, spec: Spec) -> bytes:
    """The file with `step`, `sequence` and `prefill`.

    Raises:
        RunFailed: TensorFlow's converter cannot translate the model.
    """
    return converted(network, builtin_functions(network, spec), first=SEQUENCE)


def converted(network: Any, functions: dict[str, Any], first: str) -> bytes:
    """The file with signatures by their names, of concrete functions of the network; `first` is what runs without a name.

    Raises:
        RunFailed: TensorFlow's converter cannot translate the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        save(network, functions, Path(folder))
        model = flatbuffer.read(convert(Path(folder), list(functions)))
    return flatbuffer.write(model, first=first)


def quantized(content: bytes, precision: str, spec: Spec, calibration: Array) -> bytes:
    """A float32 file in the precision `dynamic`, `float16`, or `int8`, which keeps `step` alone and needs `calibration`: inputs
    (N,) or (N, F) in their order.
    """
    if precision != "int8":
        return weights_quantized(content, precision)
    step = flatbuffer.only(quantize.split(content), STEP)
    return quantize.int8(step, ranges(step, spec, calibration))


def weights_quantized(content: bytes, precision: str) -> bytes:
    """A file in float32 in a precision that needs no calibration: as it is, `float16` or `dynamic`."""
    if precision == "float32":
        return content
    return quantize.float16(content) if precision == "float16" else quantize.dynamic_range(quantize.split(content))


def ranges(step: bytes, spec: Spec, inputs: Array) -> quantize.Ranges:
    """The smallest and largest value of each tensor around a product, over inputs and the states that they lead to."""
    engine = need("ai_edge_litert.interpreter", "litert")
    interpreter = engine.Interpreter(
        model_content=step,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=engine.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    run = interpreter.get_signature_runner(STEP)
    found: dict[int, tuple[float, float]] = dict.fromkeys(quantize.product_tensors(step), (np.inf, -np.inf))
    states: dict[str, Any] = {s.input: v for s, v in zip(spec.states, spec.initial_states(1), strict=True)}
    for now in inputs:
        result = run(**{spec.input: np.asarray(now, spec.input_dtype)[None], **states})
        states = {state.input: result[state.output] for state in spec.states}
        for index, (low, high) in found.items():
            values = interpreter.get_tensor(index)
            found[index] = min(low, float(values.min())), max(high, float(values.max()))
    return found
