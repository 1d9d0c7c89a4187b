"""What is installed, what will work, and what to install."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from seqapp import __version__, backend, doctor

REQUIRES = [
    "numpy>=2",
    "good>=1,<3; extra == 'litert'",
    'new<2; extra == "onnx"',
    "none>=1; extra == 'micro'",
    "seqapp[litert,onnx]; extra == 'train'",
    "engine<3,>=2; extra == 'train'",
    "seqapp[train]; extra == 'forecast'",
]
INSTALLED = {"good": "1.5", "new": "2.0", "engine": "2.1"}


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    installed = dict(INSTALLED)

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    return installed


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return {first: rest for first, *rest in cells[2:]}


def test_what_is_missing_or_of_another_version_is_named_with_the_command_that_mends_it(
    packages: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main([]) == 0
    found = rows(capsys)
    assert found["bundles in LiteRT"] == ["yes", "good 1.5"]
    assert found["bundles in ONNX Runtime"] == ["no, new is 2.0 and should be <2: pip install 'seqapp[onnx]'", ""]
    assert found["export for microcontrollers"] == ["no, none is missing: pip install 'seqapp[micro]'", ""]
    training = found["training and export to TFLite, ONNX and SavedModel"]
    assert training == ["no, new is 2.0 and should be <2: pip install 'seqapp[train]'", "engine 2.1"]
    assert found["the task forecast"][0].startswith("no, new is 2.0"), "what an extra includes is part of it"


def test_ranges_are_not_told_where_nothing_can_tell(packages: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging.specifiers", None)
    assert list(doctor.found("onnx")) == [("new 2.0", "")]
    assert list(doctor.found("micro")) == [("none", "none is missing")]


def test_here_everything_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"seqapp {__version__}, Python 3.")
    assert "| no" not in out
    assert f"tensorflow {metadata.version('tensorflow')}, " in out
    assert "Keras trains on tensorflow: CPU:0" in out
    assert f"the processor that trains has {'' if backend.has_bfloat16() else 'no '}bfloat16" in out
    assert set(doctor.PURPOSES) == set(metadata.metadata("seqapp").get_all("Provides-Extra") or []) - {"dev"}
