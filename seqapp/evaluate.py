"""`python -m seqapp.evaluate`: how good a run is, beside its baselines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqapp import errors
from seqapp.cli import Parser, add_import_flag, need_keras
from seqapp.corpus import read_files
from seqapp.errors import UsageError
from seqapp.run import Run
from seqapp.scoring import Metrics, Tokens, baselines, metrics, score_all, unknown_fraction
from seqapp.step import KerasStepper
from seqapp.vocabulary import Vocabulary


@dataclass(frozen=True)
class Report:
    """The figures of one held-out part, of the model and of its baselines."""

    part: str
    figures: dict[str, Metrics]
    baselines: dict[str, Metrics]

    def as_json(self) -> dict[str, Any]:
        return {**self.figures, "baselines": self.baselines}

    def table(self, name: str) -> str:
        """For people: a line each for the model and the baselines, and how far the model is below the best of them."""
        mine = self.figures[self.part]
        rows = {name: mine, **self.baselines}
        unit = "bits_per_character" if "bits_per_character" in mine else "perplexity"
        lines = [f"{self.part}, {mine['perplexity']['count']:,} tokens, {mine['unknown']['value']:.1%} unknown"]
        lines += [f"{'':16}{unit.replace('_', ' '):>20}{'top 1':>10}{'top 3':>10}"]
        for label, row in rows.items():
            value, top_1, top_3 = (row[key]["value"] for key in (unit, "top_1_recall", "top_3_recall"))
            lines.append(f"{label.replace('_', '-'):16}{value:20.3f}{top_1:10.1%}{top_3:10.1%}")
        best = min(self.baselines, key=lambda key: float(self.baselines[key]["perplexity"]["value"]))
        below = 1 - mine["perplexity"]["value"] / self.baselines[best]["perplexity"]["value"]
        lines.append(f"perplexity {abs(below):.1%} {'below' if below >= 0 else 'above'} {best.replace('_', '-')}")
        return "\n".join(lines)


def evaluate(model: Any, vocabulary: Vocabulary, streams: Mapping[str, Tokens], part: str) -> Report:
    """Scores `part` and the validation stream, each from the zero state, beside the baselines on `part`."""
    names, end = list(dict.fromkeys(("validation", part))), vocabulary.end_number
    scores = score_all(KerasStepper(model), [streams[name] for name in names], end)
    figures: dict[str, Metrics] = {}
    for name, (logs, ranks) in zip(names, scores, strict=True):
        figures[name] = metrics(logs, ranks, vocabulary.unit)
        figures[name]["unknown"] = unknown_fraction(streams[name], vocabulary.unknown_number)
    return Report(
        part,
        figures,
        baselines(streams["train"], streams["validation"], streams[part], len(vocabulary), end, vocabulary.unit),
    )


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m seqapp.evaluate",
        description="Measures a run on its test split, or on a text of yours, beside its baselines.",
    )
    p.add_argument("run", metavar="RUN", help="a run directory that seqapp.train made")
    p.add_argument("--data", metavar="PATH", help="a UTF-8 text file or a folder of them, instead of the test split")
    p.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_import_flag(p)
    a = p.parse_args(argv)
    return errors.run(lambda: command(a.run, a.data, a.json, a.modules))


def command(path: str, data: str | None, as_json: bool, modules: list[str]) -> None:
    run = Run.open(path)
    vocabulary, part = run.vocabulary, "data" if data else run.held_out
    streams = {name: run.tokens(name) for name in dict.fromkeys(("train", "validation", run.held_out))}
    if data:
        numbers = [number for text in read_files(Path(data)).values() for number in vocabulary.encode(text)]
        if not numbers:
            raise UsageError(f"{data} holds no token: give a text with words in it.")
        streams["data"] = np.asarray(numbers, np.int32)
    need_keras(modules)
    report = evaluate(run.load_model(), vocabulary, streams, part)
    print(json.dumps(report.as_json(), indent=1) if as_json else report.table(run.config.model.cell))


if __name__ == "__main__":
    sys.exit(main())
