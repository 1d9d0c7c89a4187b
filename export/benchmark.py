"""`python -m export.benchmark`: how large and how fast the files of a bundle are, on one thread."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seqapp import errors
from seqapp.cli import Parser
from seqapp.errors import UsageError
from seqapp.step import Array

SHORT, LONG = 100, 4096
STEPS = 200
BEGIN, END = "<!-- artifacts: begin -->", "<!-- artifacts: end -->"


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m export.benchmark",
        description="Times each file of a bundle, batch 1, one thread: microseconds a token of `step`, of `sequence` at "
        f"{SHORT} timesteps, and how that grows at {LONG:,}. Prints a Markdown table.",
    )
    p.add_argument("bundle", metavar="BUNDLE", help="a bundle that python -m export made")
    p.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds; each figure is a median (default: 7)")
    p.add_argument("--readme", metavar="FILE", help=f"put the table into this file, between {BEGIN} and {END}")
    a = p.parse_args(argv)
    return errors.run(lambda: command(Path(a.bundle), a.repeats, Path(a.readme) if a.readme else None))


def command(bundle: Path, repeats: int, readme: Path | None) -> None:
    if not (bundle / "manifest.json").exists():
        raise UsageError(f"{bundle} is no bundle, it has no manifest.json: make one with python -m export.")
    if repeats < 1:
        raise UsageError(f"--repeats must be at least 1. Received: {repeats}")
    if readme and not (readme.is_file() and BEGIN in readme.read_text("utf-8")):
        raise UsageError(f"{readme} has no line {BEGIN}: put one where the table should go, and {END} after it.")
    table = measure(bundle, repeats)
    print(table)
    if readme:
        before, _, rest = readme.read_text("utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", "utf-8")


def measure(bundle: Path, repeats: int) -> str:
    """The table, a row for each file. Files take turns in each round, so that a slow moment of the machine meets them all."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from export import manifest
    from export.spec import Spec, State

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    content = manifest.read(bundle)
    sizes = {t["name"]: t["shape"][-1] for t in content["signatures"]["step"]["inputs"]}
    spec = Spec(
        content["vocabulary"]["size"],
        tuple(State(i, sizes[s["input"]], s["layer"], s["role"]) for i, s in enumerate(content["states"])),
    )
    tokens = np.random.default_rng(0).integers(0, spec.vocabulary_size, (1, LONG), dtype=np.int32)
    works = {file["path"]: _works(file["format"], bundle / file["path"], spec, tokens) for file in content["files"]}
    times: dict[str, dict[str, list[float]]] = {path: {} for path in works}
    for turn in range(repeats + 1):
        for path, work in works.items():
            print(f"round {turn} of {repeats}: {path}", file=sys.stderr)
            for name, (call, count) in work.items():
                # The best of a few calls: a call of microseconds is easily disturbed.
                seconds = min(_seconds(call) for _ in range(max(1, 5 * SHORT // count)))
                if turn:  # the first is a warm-up
                    times[path].setdefault(name, []).append(seconds / count * 1e6)
    return _table(content, times)


def _works(format: str, path: Path, spec: Any, tokens: Array) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed of a file, and how many tokens that is: steps as Python makes them, sequences in the engine alone."""
    from export import runners

    model = runners.OPENERS[format](path, spec)
    states = model.initial_states(1)
    call = {"saved_model": _saved_model_call, "tflite": _tflite_call, "onnx": _onnx_call}[format]

    def steps() -> None:
        after = states
        for token in tokens[0, :STEPS]:
            _, after = model.step(np.array([token], np.int32), after)

    def sequence(length: int) -> Callable[[], object]:
        feed = {s.input: state for s, state in zip(spec.states, states, strict=True)}
        return call(path, {"tokens": np.ascontiguousarray(tokens[:, :length]), **feed})

    return {"step": (steps, STEPS), "short": (sequence(SHORT), SHORT), "long": (sequence(LONG), LONG)}


# One call of `sequence` with its inputs and outputs in place. To hand all logits to Python would cost more than some models do.


def _saved_model_call(path: Path, feed: dict[str, Array]) -> Callable[[], object]:
    import tensorflow as tf

    loaded, tensors = tf.saved_model.load(str(path)), {name: tf.constant(value) for name, value in feed.items()}
    return lambda: loaded.signatures["sequence"](**tensors)


def _tflite_call(path: Path, feed: dict[str, Array]) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    inputs = interpreter.get_signature_runner("sequence").get_input_details()
    # The interpreter's own methods act on the first graph of the file, which must be the sequence.
    shapes = {detail["index"]: list(detail["shape_signature"]) for detail in interpreter.get_input_details()}
    if shapes != {detail["index"]: list(detail["shape_signature"]) for detail in inputs.values()}:
        raise UsageError(f"{path} does not begin with its sequence graph: make the bundle again with python -m export.")
    for name, value in feed.items():
        interpreter.resize_tensor_input(inputs[name]["index"], value.shape)
    interpreter.allocate_tensors()
    for name, value in feed.items():
        interpreter.set_tensor(inputs[name]["index"], value)
    return interpreter.invoke


def _onnx_call(path: Path, feed: dict[str, Array]) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, value in feed.items():
        binding.bind_cpu_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _table(content: dict[str, Any], times: dict[str, dict[str, list[float]]]) -> str:
    rows = [
        f"| file | bytes | operators | largest difference | `step`, µs a token | `sequence`, µs a token at {SHORT} "
        f"| at {LONG:,}: times that |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for file in content["files"]:
        difference = max(entry["largest_difference"] for entry in content["parity"] if entry["file"] == file["path"])
        operators = ", ".join(file["operators"]) if "operators" in file else "TensorFlow's"
        step, short, long = (times[file["path"]][name] for name in ("step", "short", "long"))
        ratios = [b / a for a, b in zip(short, long, strict=True)]
        rows.append(
            f"| {file['path']} | {file['bytes']:,} | {operators} | {difference:.1e} | {_spread(step, '.1f')} "
            f"| {_spread(short, '.1f')} | {_spread(ratios, '.2f')} |"
        )
    return "\n".join(rows)


def _spread(values: list[float], form: str) -> str:
    """Median (smallest to largest)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


if __name__ == "__main__":
    sys.exit(main())
