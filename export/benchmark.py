"""`python -m export.benchmark`: how large and how fast the files of a bundle are, on one thread, beside Keras's `predict`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export import reading
from export.spec import SEQUENCE_LENGTHS, Spec
from seqapp import errors
from seqapp.cli import Parser
from seqapp.errors import UsageError
from seqapp.run import replacing
from seqapp.step import Array
from seqapp.untrusted import inside

SHORT, LONG = 100, 4096
STEPS = 200
KERAS = "Keras predict"
BEGIN, END = "<!-- artifacts: begin -->", "<!-- artifacts: end -->"


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m export.benchmark",
        description="Times each file of a bundle, batch 1, one thread: microseconds a token of `step`, of `sequence` at "
        f"{SHORT} timesteps, and how that grows at {LONG:,}; and the memory that each takes. Prints a Markdown table.",
    )
    p.add_argument("bundle", metavar="BUNDLE", help="a bundle that python -m export made")
    p.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds in which the files take turns (default: 7)")
    p.add_argument("--run", metavar="RUN", help="the run to time Keras's predict of (default: the folder above, if it is one)")
    p.add_argument("--readme", metavar="FILE", help=f"put the table into this file, between {BEGIN} and {END}")
    a = p.parse_args(argv)
    return errors.run(lambda: command(Path(a.bundle), a.repeats, a.run and Path(a.run), a.readme and Path(a.readme)))


def command(bundle: Path, repeats: int, run: Path | None, readme: Path | None) -> None:
    content = reading.read(bundle)
    spec = reading.spec_of(bundle, content)
    if repeats < 1:
        raise UsageError(f"--repeats must be at least 1. Received: {repeats}")
    if run and not (run / "model.keras").exists():
        raise UsageError(f"{run} is no run directory, it has no model.keras: give one that seqapp.train made.")
    if readme and not (readme.is_file() and BEGIN in readme.read_text("utf-8")):
        raise UsageError(f"{readme} has no line {BEGIN}: put one where the table should go, and {END} after it.")
    if run is None and (bundle.resolve().parent / "model.keras").exists():
        run = bundle.resolve().parent
    figures = measure(bundle, content, spec, repeats, run)
    result = "\n".join([*table(content, figures), *remarks(content, figures)])
    print(result)
    if readme:
        before, _, rest = readme.read_text("utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        with replacing(readme) as temporary:
            temporary.write_text(f"{before}{BEGIN}\n{result}\n{END}{after}", "utf-8")


@dataclass
class Figures:
    """Of one file: microseconds a token of `step` and of `sequence` at 100 timesteps, call by call; the ratio of those at
    4,096, round by round; and the megabytes that the process grew by.
    """

    step: list[float] = field(default_factory=list)
    short: list[float] = field(default_factory=list)
    growth: list[float] = field(default_factory=list)
    memory: float | None = None


@dataclass(frozen=True)
class Work:
    """What is timed: a step as Python makes it, sequences in the engine alone."""

    step: Callable[[], object] | None
    short: Callable[[], object] | None = None
    long: Callable[[], object] | None = None
    steps: int = STEPS  # calls of `step` in a round


def measure(bundle: Path, content: dict[str, Any], spec: Spec, repeats: int, run: Path | None) -> dict[str, Figures]:
    """Files take turns in each round, so that a slow moment of the machine meets them all."""
    paths = {file.path: checked(bundle, file) for file in reading.files_of(bundle, content)}
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    inputs = drawn(content, spec)
    works = {file["path"]: _work(file, paths[file["path"]], spec, inputs) for file in _timed(content)}
    if run:
        works[KERAS] = _keras_work(run, inputs)
    figures = {path: Figures() for path in works}
    for turn in range(repeats + 1):
        for path, work in works.items():
            print(f"round {turn} of {repeats}: {path}", file=sys.stderr)
            found = _round(work)
            if turn:  # the first is a warm-up
                figures[path].step += found.step
                figures[path].short += found.short
                figures[path].growth += found.growth
    for file in _timed(content):
        figures[file["path"]].memory = _memory(bundle, file["path"])
    return figures


def checked(bundle: Path, file: reading.File) -> Path:
    """As `reading.checked`, of a SavedModel too, which is a folder.

    Raises:
        UsageError: the file is missing, changed, or not in the bundle.
    """
    path = bundle / file.path
    if file.format != "saved_model" or not path.is_dir():
        return reading.checked(bundle, file)
    from export.manifest import digest

    if not inside(bundle, file.path) or any(part.is_symlink() for part in path.rglob("*")):
        raise UsageError(f"{path} leads to what is not in the bundle, by its name or a link: do not use the bundle.")
    if (now := digest(path)) != file.sha256:
        raise UsageError(f"{path} was changed: its SHA-256 is {now} and should be {file.sha256}; copy it again.")
    return path


def drawn(content: dict[str, Any], spec: Spec) -> Array:
    """Tokens (1, T) that the model knows, or features (1, T, F)."""
    rng = np.random.default_rng(0)
    if spec.features is not None:
        return rng.normal(size=(1, LONG, spec.features)).astype(np.float32)
    return rng.integers(0, content.get("token_count", spec.output_size), (1, LONG)).astype(np.int32)


def _timed(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The files of a manifest but for those of microcontrollers, of whose speed this machine can say nothing."""
    return [file for file in content["files"] if "arena" not in file]


def _round(work: Work) -> Figures:
    found = Figures(step=[_microseconds(work.step) for _ in range(work.steps)] if work.step else [])
    if work.short and work.long:
        found.short = [_microseconds(work.short) / SHORT for _ in range(5)]
        # The best of them: a call of microseconds is easily disturbed.
        found.growth = [_microseconds(work.long) / LONG / min(found.short)]
    return found


def _microseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e6


def _work(file: dict[str, Any], path: Path, spec: Spec, inputs: Array) -> Work:
    from export import runners

    model = runners.OPENERS[file["format"]](path, spec)
    states = model.initial_states(1)

    def step() -> None:
        nonlocal states
        _, states = model.step(inputs[:, 0], states)

    one = None if spec.both_ways else step
    if "sequence" not in file["signatures"]:
        return Work(one)
    call = {"saved_model": _saved_model_call, "tflite": _tflite_call, "onnx": _onnx_call}[file["format"]]

    def sequence(length: int) -> Callable[[], object]:
        feed = {s.input: state for s, state in zip(spec.states, spec.initial_states(1), strict=True)}
        if spec.takes_lengths:
            feed[SEQUENCE_LENGTHS] = np.array([length], np.int32)
        return call(path, {spec.input: np.ascontiguousarray(inputs[:, :length]), **feed})

    return Work(one, sequence(SHORT), sequence(LONG))


def _keras_work(run: Path, inputs: Array) -> Work:
    """Keras's `predict` of the trained model, as people call it; it keeps no state between calls."""
    from seqapp.classifier import Classifier
    from seqapp.run import Run

    model = Run.open(run).load_model()

    def given(length: int) -> Any:
        part = inputs[:, :length]
        return [part, np.array([length], np.int32)] if isinstance(model, Classifier) else part

    # A call of it takes as long as hundreds of steps of a file.
    step, short, long = (partial(model.predict, given(n), verbose=0) for n in (1, SHORT, LONG))
    return Work(step, short, long, steps=5)


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


def _memory(bundle: Path, path: str) -> float:
    """Megabytes that a process of its own grows by when it loads a file and uses it."""
    command = [sys.executable, "-m", "export.memory", str(bundle), path]
    paths = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    result = subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True, check=True)
    return float(result.stdout.splitlines()[-1])


def table(content: dict[str, Any], figures: dict[str, Figures]) -> list[str]:
    """Rows of Markdown: medians, with the 95th percentile in parentheses."""
    rows = [
        "| file | bytes | memory, MB | largest difference | loses | `step`, µs a token | `sequence`, µs a token at "
        f"{SHORT} | at {LONG:,}: times that |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for file in _timed(content):
        found = figures[file["path"]]
        difference = max(entry["largest_difference"] for entry in content["parity"] if entry["file"] == file["path"])
        loss = next((f"{entry['value']:.2%}" for entry in file.get("losses", {}).values()), "")
        rows.append(
            f"| {file['path']} | {file['bytes']:,} | {found.memory:.1f} | {difference:.1e} | {loss} | {_times(found)} |"
        )
    if KERAS in figures:
        rows.append(f"| {KERAS} | | | | | {_times(figures[KERAS])} |")
    return rows


def remarks(content: dict[str, Any], figures: dict[str, Figures]) -> list[str]:
    """Which quantized files are slower than the one in float32 of their format, and what microcontrollers need."""
    whole: dict[str, str] = {}
    found = []
    for file in _timed(content):
        whole.setdefault(file["format"], file["path"])  # the first of a format is its file in float32
        for name, label in (("step", "`step`"), ("short", "`sequence`")):
            mine, others = (getattr(figures[path], name) for path in (file["path"], whole[file["format"]]))
            if file["precision"] != "float32" and mine and np.median(mine) > np.median(others):
                ratio = np.median(mine) / np.median(others)
                found.append(f"{file['path']} is slower than {whole[file['format']]}: {label} takes {ratio:.2f} times as long.")
    for file in content["files"]:
        if "arena" in file:
            arena = file["arena"]["bytes"]
            found.append(f"{file['path']}, for microcontrollers: {file['bytes']:,} bytes, and an arena of {arena:,} bytes.")
    return ["", *found] if found else []


def _times(found: Figures) -> str:
    return f"{_spread(found.step, '.1f')} | {_spread(found.short, '.1f')} | {_spread(found.growth, '.2f')}"


def _spread(values: list[float], form: str) -> str:
    """Median and 95th percentile."""
    return f"{np.median(values):{form}} ({np.percentile(values, 95):{form}})" if values else ""


if __name__ == "__main__":
    sys.exit(main())
