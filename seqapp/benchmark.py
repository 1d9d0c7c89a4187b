"""`python -m seqapp.benchmark`: how fast training is, beside Keras's layers, PyTorch and the matrix products alone."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from seqapp import backend, errors
from seqapp.cli import Parser, need_keras
from seqapp.config import CELL_NAMES
from seqapp.errors import UsageError

if TYPE_CHECKING:
    from seqapp.contenders import Shape, Work

SIZES = {"units": 256, "batch_size": 64, "timesteps": 100, "embedding": 64, "vocabulary": 100, "repeats": 9, "steps": 10}
EPOCH = 80  # batches: as many as are sorted by length in pools of their largest size
LONG, BATCHES = 4096, (1, 2, 4, 8, 16, 32, 64)  # timesteps and sequences, of the curve of a cell
SPAN = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2)  # of the timesteps, over which the growth of time is told


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m seqapp.benchmark",
        description="Times the recurrent layer, forward and backward, and the whole training step, in turns with Keras's own "
        "layers, with PyTorch where it is installed, and with the matrix products alone. Prints a Markdown table of medians "
        "and of ratios, round by round.",
    )
    p.add_argument("--cells", nargs="+", default=["plain", "lstm", "gru"], metavar="CELL", help="(default: plain lstm gru)")
    for name, value in SIZES.items():
        text = {"repeats": "rounds in which the contenders take turns", "steps": "training steps in a turn"}.get(name, name)
        other = {"timesteps": f", with --parallel {LONG}", "steps": f", with --lengths {EPOCH} batches of an epoch"}.get(
            name, ""
        )
        text += f" (default: {value}{other})"
        p.add_argument(f"--{name.replace('_', '-')}", type=int, default=argparse.SUPPRESS, metavar="N", help=text)
    p.add_argument(
        "--parallel",
        metavar="CELL",
        help="instead: a cell that learns many timesteps at once, beside an LSTM of as many parameters, over batch and length",
    )
    p.add_argument(
        "--lengths",
        action="store_true",
        help="instead: sequences of many lengths beside those of one, per timestep learnt from",
    )
    a = p.parse_args(argv)
    defaults = {**SIZES, **({"timesteps": LONG} if a.parallel else {"steps": EPOCH} if a.lengths else {})}
    sizes = {name: getattr(a, name, defaults[name]) for name in SIZES}
    return errors.run(lambda: command(a.cells, a.parallel, a.lengths, sizes))


def command(cells: list[str], parallel: str | None, lengths: bool, sizes: dict[str, int]) -> None:
    if parallel and lengths:
        raise UsageError("--parallel and --lengths are two benchmarks: leave one out.")
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1. Received: {value}")
    for cell in [*cells, *([parallel] if parallel else [])]:
        if cell not in CELL_NAMES:
            raise UsageError(f"A cell must be one of {', '.join(CELL_NAMES)}. Received: {cell}")
    # Where Triton is, PyTorch's compiler kills a process that TensorFlow is in already (2.14 and 2.21).
    with contextlib.suppress(ImportError):
        importlib.import_module("torch._dynamo")
    need_keras([])
    backend.keep_memory()
    from seqapp.cells import CELLS
    from seqapp.contenders import Shape
    from seqapp.linear_cells import LinearCell

    if parallel and not issubclass(CELLS[parallel], LinearCell):
        known = ", ".join(name for name, kind in CELLS.items() if issubclass(kind, LinearCell))
        raise UsageError(f"--parallel needs a cell that learns many timesteps at once: {known}. Received: {parallel}")
    repeats, steps = sizes.pop("repeats"), sizes.pop("steps")
    shape = Shape(**sizes)
    rows = curve(parallel, shape, repeats) if parallel else (of_lengths if lengths else table)(cells, shape, repeats, steps)
    for row in rows:
        print(row, flush=True)


def table(cells: list[str], shape: Shape, repeats: int, steps: int) -> Iterator[str]:
    """A row for each contender: milliseconds, tokens a second, and how many times as long it takes as ours."""
    from seqapp import contenders

    yield f"{shape.units} units, batch {shape.batch_size}, {shape.timesteps} timesteps; ratio of ours to it: median (quartiles)"
    yield "\n| cell | | | ms | tokens/s | ratio |\n|---|---|---|---:|---:|---:|"
    for cell in cells:
        for label, make in (("layer", contenders.layers_of), ("training step", contenders.training_steps_of)):
            times = race(make(cell, shape), repeats, steps, f"{cell}, {label}")
            ours = times[contenders.OURS]
            for name, own in times.items():
                low, ratio, high = np.percentile(ours / own, [25, 50, 75])
                against = "" if own is ours else f"{ratio:.2f} ({low:.2f}-{high:.2f})"
                median = float(np.median(own))
                yield f"| {cell} | {label} | {name} | {median * 1e3:.1f} | {shape.tokens / median:,.0f} | {against} |"


def of_lengths(cells: list[str], shape: Shape, repeats: int, batches: int) -> Iterator[str]:
    """How much longer a timestep takes among sequences of many lengths, epoch by epoch."""
    from seqapp import contenders

    yield f"{shape.units} units, batch {shape.batch_size}, up to {shape.timesteps} timesteps, epochs of {batches} batches"
    yield "\n| cell | one length, timesteps/s | many, timesteps/s | time for one: ratio (quartiles) |\n|---|---:|---:|---:|"
    for cell in cells:
        made = contenders.fits_of(cell, shape, batches)
        times = race({name: work for name, (work, _) in made.items()}, repeats, 1, cell)
        fixed, variable = (times[name] / made[name][1] for name in (contenders.FIXED, contenders.VARIABLE))
        low, ratio, high = np.percentile(variable / fixed, [25, 50, 75])
        yield f"| {cell} | {1 / np.median(fixed):,.0f} | {1 / np.median(variable):,.0f} | {ratio:.2f} ({low:.2f}-{high:.2f}) |"


def curve(cell: str, shape: Shape, repeats: int) -> Iterator[str]:
    """Training throughput of a cell that runs in parallel beside an LSTM of as many parameters; and how its time grows."""
    from seqapp import contenders

    units = equal_units(cell, shape)
    yield f"{cell} of {units} units beside an LSTM of {shape.units}, as many parameters; {shape.timesteps:,} timesteps\n"
    yield "| batch | tokens/s | LSTM, tokens/s | times as fast (quartiles) |\n|---:|---:|---:|---:|"
    for size in BATCHES:
        one = replace(shape, batch_size=size)
        works = {
            name: contenders.layers_of(name, replace(one, units=u))[contenders.OURS]
            for name, u in ((cell, units), ("lstm", shape.units))
        }
        times = race(works, repeats, 1, f"batch {size}")
        low, ratio, high = np.percentile(times["lstm"] / times[cell], [25, 50, 75])
        own, other = (one.tokens / np.median(times[name]) for name in (cell, "lstm"))
        yield f"| {size} | {own:,.0f} | {other:,.0f} | {ratio:.1f} ({low:.1f}-{high:.1f}) |"
    works = {}
    lengths = [max(1, round(part * shape.timesteps)) for part in SPAN]
    for timesteps in lengths:
        one = replace(shape, batch_size=1, timesteps=timesteps, units=units)
        works[f"{timesteps}"] = contenders.layers_of(cell, one)[contenders.OURS]
    times = race(works, repeats, 4, "length")
    medians = [float(np.median(times[f"{timesteps}"])) for timesteps in lengths]
    yield "\n| timesteps, batch 1 | ms |\n|---:|---:|"
    for timesteps, median in zip(lengths, medians, strict=True):
        yield f"| {timesteps:,} | {median * 1e3:.1f} |"
    slope = np.polyfit(np.log(lengths), np.log(medians), 1)[0]
    yield f"\nlog-log slope of time over length: {slope:.2f}"


def equal_units(cell: str, shape: Shape) -> int:
    """Units that give a cell as many parameters as an LSTM of `shape` has, or a few less."""
    from seqapp.cells import CELLS

    def parameters(name: str, units: int) -> int:
        made = CELLS[name](units)
        made.build((None, shape.embedding))
        return int(made.count_params())

    wanted, units = parameters("lstm", shape.units), 1
    while parameters(cell, 2 * units) <= wanted:
        units *= 2
    step = units
    while step > 1:
        step //= 2
        if parameters(cell, units + step) <= wanted:
            units += step
    return units


def race(works: dict[str, Work], repeats: int, steps: int, label: str) -> dict[str, np.ndarray]:
    """Seconds of each work, round by round; they take turns, so that a slow moment of the machine meets them all."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        print(f"{label}: round {turn} of {repeats}", file=sys.stderr, flush=True)
        for name, work in works.items():
            began = time.perf_counter()
            work(steps)
            if turn:  # the first is a warm-up
                times[name].append((time.perf_counter() - began) / steps)
    return {name: np.array(own) for name, own in times.items()}


if __name__ == "__main__":
    sys.exit(main())
