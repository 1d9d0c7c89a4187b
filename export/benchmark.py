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

    from export import manifest, runners
    from export.spec import Spec, State

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    content = manifest.read(bundle)
    sizes = {t["name"]: t["shape"][-1] for t in content["signatures"]["step"]["inputs"]}
    spec = Spec(
        content["vocabulary"]["size"],
        tuple(State(i, sizes[s["input"]], s["layer"], s["role"]) for i, s in enumerate(content["states"])),
    )
    models = {f["path"]: runners.OPENERS[f["format"]](bundle / f["path"], spec) for f in content["files"]}
    tokens = np.random.default_rng(0).integers(0, spec.vocabulary_size, (1, LONG), dtype=np.int32)
    times: dict[str, dict[str, list[float]]] = {path: {} for path in models}
    for turn in range(repeats + 1):
        for path, model in models.items():
            print(f"round {turn} of {repeats}: {path}", file=sys.stderr)
            for name, seconds in _round(model, tokens).items():
                if turn:  # the first is a warm-up
                    times[path].setdefault(name, []).append(seconds * 1e6)
    return _table(content, times)


def _round(model: Any, tokens: np.ndarray[Any, Any]) -> dict[str, float]:
    """Seconds a token: of single steps, and of sequences of each length."""
    states = model.initial_states(1)

    def steps() -> None:
        after = states
        for token in tokens[0, :STEPS]:
            _, after = model.step(np.array([token], np.int32), after)

    return {
        "step": _seconds(steps) / STEPS,
        "short": min(_seconds(lambda: model.sequence(tokens[:, :SHORT], states)) for _ in range(5)) / SHORT,
        "long": _seconds(lambda: model.sequence(tokens, states)) / LONG,
    }


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
