"""`python -m export`: from a run to a bundle."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from seqapp import errors
from seqapp.cli import Parser, add_import_flag, need_keras
from seqapp.run import Run, check_target

FORMATS = ("saved_model", "tflite", "onnx")


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m export",
        description="Converts a trained run to files for other programs and devices, each proved equal to the trained model "
        "before it gets its name. Prints the bundle's directory last.",
    )
    p.add_argument("run", metavar="RUN", help="a run directory that seqapp.train made")
    p.add_argument("--out", metavar="DIR", help="the bundle to make (default: RUN/bundle)")
    p.add_argument("--format", nargs="+", choices=FORMATS, default=FORMATS, help="what to write (default: all)")
    p.add_argument("--overwrite", action="store_true", help="replace the bundle if it is there")
    add_import_flag(p)
    a = p.parse_args(argv)
    return errors.run(lambda: command(a.run, a.out, list(a.format), a.overwrite, a.modules))


def command(path: str, out: str | None, formats: list[str], overwrite: bool, modules: list[str]) -> None:
    run = Run.open(path)
    target = Path(out) if out else run.path / "bundle"
    check_target(target, "--out", "manifest.json", overwrite)
    need_keras(modules)
    importlib.import_module("export.bundle").write_bundle(run, target, [f for f in FORMATS if f in formats])
    print(target)


if __name__ == "__main__":
    sys.exit(main())
