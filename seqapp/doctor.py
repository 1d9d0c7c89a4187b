"""`python -m seqapp.doctor`: what is installed, what will work here, and what to install for the rest."""

from __future__ import annotations

import importlib
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata

from seqapp import __version__, backend, errors
from seqapp.cli import Parser, need_keras

# What an extra is for, in the words of its users.
PURPOSES = {
    "litert": "bundles in LiteRT",
    "onnx": "bundles in ONNX Runtime",
    "train": "training and export to TFLite, ONNX and SavedModel",
    "micro": "export for microcontrollers",
    "classify": "the tasks classify and digits",
    "forecast": "the task forecast",
    "music": "the task next-note",
    "text": "recipes",
    "translate": "the task translate",
}
# As the metadata of a package have them: name[extras]range; extra == "name"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[\w,]+)\])?(?P<wanted>[^;]*);.*extra\s*==\s*['\"](?P<extra>\w+)['\"]")


def main(argv: list[str] | None = None) -> int:
    p = Parser(
        prog="python -m seqapp.doctor",
        description="Prints the versions of what is installed, the devices, what will work here, and what to install for the "
        "rest.",
    )
    p.parse_args(argv)
    return errors.run(command)


def command() -> None:
    print(f"seqapp {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print("\n| for | works | with |\n|---|---|---|")
    told: set[str] = set()
    for extra, purpose in PURPOSES.items():
        packages = dict(found(extra))
        wrong = [problem for problem in packages.values() if problem]
        works = f"no, {', '.join(wrong)}: pip install 'seqapp[{extra}]'" if wrong else "yes"
        print(f"| {purpose} | {works} | {', '.join(n for n, problem in packages.items() if not problem and n not in told)} |")
        told.update(packages)
    if not any(problem for _, problem in found("train")):
        print()
        need_keras([])
        for line in devices():
            print(line)


def found(extra: str) -> Iterator[tuple[str, str]]:
    """The packages of an extra, and of those in it: name and version, and what is wrong with it, or nothing."""
    for line in metadata.requires("seqapp") or []:
        parts = REQUIREMENT.match(line)
        if parts is None or parts["extra"] != extra:
            continue
        name, wanted = parts["name"], parts["wanted"].strip()
        if name == "seqapp":
            for other in parts["extras"].split(","):
                yield from found(other)
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, f"{name} is missing"
            continue
        fits = _fits(installed, wanted)
        yield f"{name} {installed}", "" if fits else f"{name} is {installed} and should be {wanted}"


def _fits(installed: str, wanted: str) -> bool:
    """Whether a version is in a range; where nothing can tell, it is taken to be."""
    try:
        specifiers = importlib.import_module("packaging.specifiers")
    except ModuleNotFoundError:
        return True
    return bool(specifiers.SpecifierSet(wanted).contains(installed, prereleases=True))


def devices() -> Iterator[str]:
    """What the engine under Keras trains on."""
    engine = backend.engine()
    if engine == "tensorflow":
        listed = importlib.import_module("tensorflow").config.list_physical_devices()
        names = [device.name.removeprefix("/physical_device:") for device in listed]
    else:
        names = [str(device) for device in importlib.import_module(engine).devices()]
    yield f"Keras trains on {engine}: {', '.join(names)}"
    has = "has" if backend.has_bfloat16() else "has no"
    yield f"the processor that trains {has} bfloat16 of its own (--precision)"
    if engine != "tensorflow":
        yield "export needs TensorFlow: run it without KERAS_BACKEND"


if __name__ == "__main__":
    sys.exit(main())
