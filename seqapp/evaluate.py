"""`python -m seqapp.evaluate`: how good a run is, beside its baselines."""

from __future__ import annotations

import json
import sys

from seqapp import errors
from seqapp.cli import Parser, add_import_flag, need_keras, open_run
from seqapp.tasks import task_of


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m seqapp.evaluate",
        description="Measures a run on its test split, or on a text of yours, beside its baselines.",
    )
    p.add_argument("run", metavar="RUN", help="a run directory that seqapp.train made")
    p.add_argument(
        "--data",
        metavar="PATH",
        help="data of the run's kind, instead of the test split (of series, their last part)",
    )
    p.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_import_flag(p)
    a = p.parse_args(argv)
    return errors.run(lambda: command(a.run, a.data, a.json, a.modules))


def command(path: str, data: str | None, as_json: bool, modules: list[str]) -> None:
    run = open_run(path, modules)
    measure = task_of(run.config.task).evaluation(run, data)
    need_keras(modules)
    report = measure(run.load_model())
    print(json.dumps(report.as_json(), indent=1) if as_json else report.table(run.config.model.cell))


if __name__ == "__main__":
    sys.exit(main())
