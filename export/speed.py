"""`python -m export.speed`: exported models beside their matrix products alone, beside PyTorch and Keras's own ONNX export.

One thread, batch 1, 100 timesteps, random weights. The works of a comparison take turns, and each ratio is of two neighbours,
so that a slow moment of the machine meets both.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seqapp import errors
from seqapp.cli import Parser, need_keras
from seqapp.errors import UsageError
from seqapp.step import Array

Call = Callable[[], object]
TIMESTEPS, VOCABULARY, EMBEDDING = 100, 1000, 128


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m export.speed",
        description="Times exported models of plain and LSTM cells beside their matrix products alone, beside PyTorch (if it "
        "is there) and beside Keras's own ONNX export; one thread, batch 1, 100 timesteps. Prints a Markdown table.",
    )
    p.add_argument("--units", type=int, nargs="+", default=[256, 512], metavar="N", help="widths (default: 256 512)")
    p.add_argument("--repeats", type=int, default=40, metavar="N", help="rounds of each comparison (default: 40)")
    a = p.parse_args(argv)
    return errors.run(lambda: command(a.units, a.repeats))


def command(units: list[int], repeats: int) -> None:
    for name, values in (("--units", units), ("--repeats", [repeats])):
        if min(values) < 1:
            raise UsageError(f"{name} must be at least 1. Received: {min(values)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    need_keras([])
    print("| cell | units | | µs a token | ratio: median (quartiles) |\n|---|---:|---|---:|---:|", flush=True)
    for cell in ("plain", "lstm"):
        for width in units:
            with tempfile.TemporaryDirectory() as folder:
                for label, mine, other in comparisons(cell, width, Path(folder)):
                    print(f"| {cell} | {width} | {label} | {race(mine, other, repeats)} |", flush=True)


def race(mine: Call, other: Call, repeats: int) -> str:
    """Microseconds a token of the first, and how many times as long the second takes as the first."""
    times = np.array([[_best(mine), _best(other)] for _ in range(repeats + 1)])[1:]  # the first round is a warm-up
    low, ratio, high = np.percentile(times[:, 1] / times[:, 0], [25, 50, 75])
    return f"{np.median(times[:, 0]):.1f} | {ratio:.2f} ({low:.2f}-{high:.2f})"


def _best(call: Call) -> float:
    found = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found) / TIMESTEPS * 1e6


def comparisons(cell: str, units: int, folder: Path) -> list[tuple[str, Call, Call]]:
    """What is compared: a label, the first work and the second, each of 100 timesteps."""
    from export import quantize, tflite
    from export.network import Network
    from export.onnx_graph import write_onnx
    from export.spec import Spec
    from seqapp.config import ModelConfig
    from seqapp.job import build_model

    print(f"converting: {cell}, {units} units", file=sys.stderr, flush=True)
    model = build_model(ModelConfig(cell=cell, units=units, embedding=EMBEDDING, tied=False), VOCABULARY)
    network = Network.of(model)
    spec = Spec.of(network)
    whole = tflite.float32(network, spec)
    write_onnx(network, spec, folder / "native.onnx")
    feed = {spec.input: np.zeros((1, TIMESTEPS), np.int32), **dict(zip(_inputs(spec), spec.initial_states(1), strict=True))}
    loop = _tflite_call(whole, feed)
    found = [
        ("matrix products alone: TFLite takes", _tflite_call(_products(network, folder), {}), loop),
        ("TFLite: ONNX Runtime takes", loop, native := _onnx_call(folder / "native.onnx", feed)),
        ("ONNX native: the Loop of Keras's own export takes", native, _onnx_call(_keras_onnx(model, folder), feed)),
    ]
    if importlib.util.find_spec("torch"):
        dynamic = _tflite_call(quantize.dynamic_range(whole), feed)
        found.append(("TFLite dynamic-range: PyTorch in float32 takes", dynamic, _torch_call(cell, units)))
    return found


def _inputs(spec: Any) -> list[str]:
    return [state.input for state in spec.states]


def _products(network: Any, folder: Path) -> bytes:
    """The matrix products of `sequence` in their order and nothing else, as TFLite: those of the input, one for each timestep
    in a loop of a counter, those of the output.

    The product in the loop goes into a loop variable, or the engine would leave it out.
    """
    import tensorflow as tf

    from export.converter import convert
    from seqapp.cells import PlainCell

    cell = network.recurrent[0].cell
    kernel = cell.kernel[cell.units :] if isinstance(cell, PlainCell) else cell.kernel.value
    recurrent = cell.kernel[: cell.units] if isinstance(cell, PlainCell) else cell.recurrent_kernel.value
    w, r, out = (tf.constant(np.asarray(value)) for value in (kernel, recurrent, network.tail[-1].kernel.value))

    def products(x: Any, h: Any, y: Any) -> dict[str, Any]:
        _, _, last = tf.while_loop(
            lambda k, h, z: k < TIMESTEPS,
            lambda k, h, z: (k + 1, h, tf.matmul(h, r)),
            (tf.constant(0), h, tf.zeros((1, r.shape[1]))),
        )
        return {"projected": tf.matmul(x, w), "last": last, "logits": tf.matmul(y, out)}

    shapes = {"x": (TIMESTEPS, EMBEDDING), "h": (1, cell.units), "y": (TIMESTEPS, cell.units)}
    specs = {name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()}
    function = tf.function(products, autograph=False).get_concrete_function(**specs)
    tf.saved_model.save(tf.Module(), str(folder / "products"), signatures={"products": function})
    return convert(folder / "products", ["products"])


def _keras_onnx(model: Any, folder: Path) -> Path:
    """The same model as Keras's own layers would hold it, with the same cell, by Keras's own ONNX export."""
    import keras

    layers = [keras.layers.Embedding(VOCABULARY, EMBEDDING), keras.layers.RNN(model.recurrent[0].cell, return_sequences=True)]
    whole = keras.Sequential([keras.Input((None,), dtype="int32"), *layers, keras.layers.Dense(VOCABULARY)])
    whole(np.zeros((1, TIMESTEPS), np.int32))
    whole.export(str(folder / "keras.onnx"), format="onnx", verbose=False)
    return folder / "keras.onnx"


def _tflite_call(content: bytes, feed: dict[str, Array]) -> Call:
    """The first graph of a file with its inputs in place; those that are not given are zeros."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    if feed:
        details = interpreter.get_signature_runner("sequence").get_input_details()
        for name, value in feed.items():
            interpreter.resize_tensor_input(details[name]["index"], value.shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    return interpreter.invoke


def _onnx_call(path: Path, feed: dict[str, Array]) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tokens = next(iter(feed.values()))
    given = {i.name: feed.get(i.name, tokens) for i in session.get_inputs()}
    return lambda: session.run(None, given)


def _torch_call(cell: str, units: int) -> Call:
    import torch

    torch.set_num_threads(1)
    embedding, head = torch.nn.Embedding(VOCABULARY, EMBEDDING), torch.nn.Linear(units, VOCABULARY)
    layer = {"plain": torch.nn.RNN, "lstm": torch.nn.LSTM}[cell](EMBEDDING, units, batch_first=True)
    tokens = torch.zeros((1, TIMESTEPS), dtype=torch.long)

    def call() -> object:
        with torch.inference_mode():
            return head(layer(embedding(tokens))[0])

    return call


if __name__ == "__main__":
    sys.exit(main())
