"""`python -m export`: from a run to a bundle."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from export import converter
from export.artifact import FORMATS, MICRO, PRECISIONS, TRAINABLE, check_wanted
from seqapp import errors
from seqapp.cli import Parser, add_import_flag, import_modules, need_keras, open_run
from seqapp.errors import RunFailed, told
from seqapp.lock import held
from seqapp.run import check_target


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m export",
        description="Converts a trained run to files for other programs and devices, each proved equal to the trained model "
        "before it gets its name. Prints the bundle's directory last.",
    )
    p.add_argument("run", metavar="RUN", help="a run directory that seqapp.train made")
    p.add_argument("--out", metavar="DIR", help="the bundle to make (default: RUN/bundle)")
    p.add_argument("--format", nargs="+", choices=FORMATS, default=FORMATS, help="what to write (default: all)")
    p.add_argument(
        "--quantize",
        nargs="+",
        choices=PRECISIONS,
        default=(),
        help="smaller files too, judged by what they lose: dynamic is the advice for TFLite, int8 the one for ONNX",
    )
    p.add_argument(
        "--profile",
        choices=(MICRO,),
        help="write model.micro.tflite too, one timestep for TensorFlow Lite Micro, with its C++ source; in int8 as well with "
        "--quantize int8",
    )
    p.add_argument("--trainable", action="store_true", help="write model.trainable.tflite too, which learns where it runs")
    p.add_argument("--overwrite", action="store_true", help="replace the bundle if it is there")
    add_import_flag(p)
    a = p.parse_args(argv)
    return errors.run(lambda: command(a))


def command(a: argparse.Namespace) -> None:
    profiles = [*([a.profile] if a.profile else []), *([TRAINABLE] if a.trainable else [])]
    check_wanted(a.format, a.quantize, profiles)
    run = open_run(a.run, a.modules)
    target = Path(a.out) if a.out else run.path / "bundle"
    check_target(target, "--out", "manifest.json", a.overwrite)
    need_keras([])
    if "tflite" in a.format or profiles:
        converter.start()  # before anything is computed, by a module of the user's for example
    import_modules(a.modules)
    conversion = importlib.import_module("export.conversion")
    with held(target, "--out"):
        try:
            table = conversion.export_run(run, target, list(a.format), list(a.quantize), profiles)
        except OSError as error:
            raise RunFailed(
                f"{told(error, target)}: make room, or name another directory with --out. Nothing was written."
            ) from None
    print(table)
    print(target)


if __name__ == "__main__":
    sys.exit(main())
