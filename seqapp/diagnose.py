"""`python -m seqapp.diagnose`: how far back a model learns from, before it is trained or after."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from seqapp import errors
from seqapp.cli import Parser, add_settings, need_keras, open_run, settings
from seqapp.errors import UsageError
from seqapp.run import check_file
from seqapp.tasks import task_of

PICTURE = "diagnosis.png"


def parser() -> Parser:
    p = Parser(
        prog="python -m seqapp.diagnose",
        description="Measures how far back the gradient of a loss reaches, in a run, or in a model that is yet to be trained "
        "with the settings of seqapp.train; says whether it vanishes, and what helps. Takes some seconds, and leaves no model.",
        epilog="The other flags are those of seqapp.train, and for a model that is yet to be trained.",
    )
    p.add_argument("run", metavar="RUN", nargs="?", help="a run directory that seqapp.train made")
    p.add_argument("--picture", metavar="FILE.png", help=f"where to draw it (default: {PICTURE}, in RUN or here)")
    p.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_settings(p)
    return p


def main(argv: list[str] | None = None) -> int:
    flags = vars(parser().parse_args(argv))
    return errors.run(lambda: command(flags))


def command(flags: dict[str, Any]) -> None:
    path, file, picture, as_json, modules = (flags.pop(name) for name in ("run", "config", "picture", "json", "modules"))
    given = ", ".join(f"--{name.replace('_', '-')}" for name in [*(["config"] if file else []), *flags])
    if path and given:
        raise UsageError(f"A run has its own settings: leave them out, or leave {path} out. Received: {given}")
    if path:
        run = open_run(path, modules)
        config = run.config
    else:
        run, config = None, settings(flags, file, modules)
    drawn = Path(picture) if picture else (run.path if run else Path()) / PICTURE
    check_file(drawn, "--picture")
    task_of(config.task).check_data(config)
    need_keras(modules)
    diagnosis = importlib.import_module("seqapp.job").diagnose(config, run)
    diagnosis.draw(drawn)
    print(json.dumps(diagnosis.as_json(), indent=1) if as_json else diagnosis.table())
    print(f"drawn in {drawn}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
