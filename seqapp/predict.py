"""`python -m seqapp.predict`: what a run says of your own data, one row for each input."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from seqapp import errors
from seqapp.cli import Parser, add_import_flag, need_keras, open_run
from seqapp.errors import UsageError
from seqapp.run import check_file, replacing


@dataclass(frozen=True)
class Prediction:
    """What a model says of one input: the likeliest answer and its probability, and the likeliest few with theirs."""

    input: str
    reference: str | None
    prediction: str
    score: float
    likely: tuple[tuple[str, float], ...]


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m seqapp.predict",
        description="Predicts with a trained run: the class of each sequence, the next token of each line, the next keys of "
        "each piece, a translation of each line, or how each series goes on, a row for each timestep to come. Writes rows of "
        "input, reference (where the input has one), prediction and score, with tabs between them; the score is a probability, "
        "of a forecast the width of the interval that should hold 90 %, of a sum the root of the mean squared error.",
    )
    p.add_argument("run", metavar="RUN", help="a run directory that seqapp.train made")
    p.add_argument(
        "--input",
        default="-",
        metavar="FILE",
        help="lines of text, or data as the run was trained on, labels left out or not (default: -, standard input)",
    )
    p.add_argument("--output", metavar="FILE", help="write there instead of to standard output")
    p.add_argument(
        "--hold-back",
        action="store_true",
        help="of series: forecast the last timesteps that the file has, from those before, beside what they were",
    )
    p.add_argument("--json", action="store_true", help="write JSON objects, with the five likeliest answers or the quantiles")
    add_import_flag(p)
    a = p.parse_args(argv)
    return errors.run(lambda: command(a))


def command(a: argparse.Namespace) -> None:
    from seqapp.forecast import Forecast
    from seqapp.tasks import task_of

    run = open_run(a.run, a.modules)
    if a.output:
        check_file(Path(a.output), "--output")
    task = task_of(run.config.task)
    if not a.hold_back:
        predict = task.predictor(run, a.input)
    elif isinstance(task, Forecast):
        predict = task.predictor(run, a.input, hold_back=True)
    else:
        raise UsageError(f"--hold-back is for forecasts: leave it out. Received: a run of the task {run.config.task}")
    need_keras(a.modules)
    found = predict(run.load_model())
    with _opened(a.output) as stream:
        (_write_json if a.json else _write_rows)(stream, found)


@contextmanager
def _opened(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there only when it is whole."""
    if path is None:
        yield sys.stdout
        return
    with replacing(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        yield stream


def _write_rows(stream: TextIO, found: list[Prediction]) -> None:
    """Tabs and line ends within a text become spaces."""
    columns = ["input", "reference", "prediction", "score"]
    if all(p.reference is None for p in found):
        columns.remove("reference")
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None, escapechar=None)
    writer.writerow(columns)
    for p in found:
        row = {**asdict(p), "score": f"{p.score:.4f}" if p.score >= 0.001 else f"{p.score:.4g}", "reference": p.reference or ""}
        writer.writerow([" ".join(str(row[column]).split()) for column in columns])


def _write_json(stream: TextIO, found: list[Prediction]) -> None:
    for p in found:
        print(json.dumps(asdict(p), ensure_ascii=False), file=stream)


def text_of(source: str) -> tuple[str, str]:
    """The text of a file, or of standard input for `-`, and what it is called in messages.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    from seqapp.corpus import checked_text, read_text

    if source != "-":
        return read_text(Path(source)), Path(source).name
    return checked_text(sys.stdin.buffer.read(), "standard input"), "standard input"


def refuse_nothing(count: int, name: str) -> None:
    if not count:
        raise UsageError(f"{name} holds no input: give a line for each.")


if __name__ == "__main__":
    sys.exit(main())
