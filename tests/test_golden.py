"""A run and a bundle of an earlier version: read by this one, and saying what they said. `tests.golden` made them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import export.__main__
import seqapp.evaluate
from export.runtime import load
from seqapp.errors import UsageError
from seqapp.run import Run, write_json
from seqapp.step import KerasStepper
from seqapp.versions import FORMAT
from tests.conftest import one_line
from tests.golden import FOLDER, TOKENS

SAYS: dict[str, Any] = json.loads((FOLDER / "says.json").read_text("utf-8"))


def test_the_run_loads_and_says_what_it_said() -> None:
    run = Run.open(FOLDER / "run")
    run.check()
    stepper = KerasStepper(run.load_model())
    logits, _ = stepper.sequence(TOKENS, stepper.initial_states(1))
    np.testing.assert_allclose(logits, SAYS["logits"], rtol=1e-4, atol=1e-5)


def test_the_run_is_measured_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert seqapp.evaluate.main([str(FOLDER / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["test"]["perplexity"]["value"]
    assert found == pytest.approx(Run.open(FOLDER / "run").metrics["test"]["perplexity"]["value"], rel=1e-4)


def test_the_run_is_exported_still(tmp_path: Path) -> None:
    assert export.__main__.main([str(FOLDER / "run"), "--format", "onnx", "--out", str(tmp_path / "bundle")]) == 0
    says(load(tmp_path / "bundle").predict("are you", top=3))


@pytest.mark.parametrize("engine", ["litert", "onnx"])
def test_the_bundle_loads_and_says_what_it_said(engine: str) -> None:
    says(load(FOLDER / "bundle", engine=engine).predict("are you", top=3))


def says(predicted: list[tuple[str, float]]) -> None:
    assert [token for token, _ in predicted] == [token for token, _ in SAYS["predicts"]]
    np.testing.assert_allclose([p for _, p in predicted], [p for _, p in SAYS["predicts"]], rtol=1e-4)


@pytest.mark.parametrize("command", [seqapp.evaluate.main, export.__main__.main])
def test_a_run_of_a_format_to_come_is_refused(command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(Path(shutil.copytree(FOLDER / "run", tmp_path / "run")))
    write_json(run.path / "versions.json", {"format": FORMAT + 1, "versions": {"seqapp": "9.9"}})
    run.seal()
    assert command([str(run.path)]) == 2
    one_line(capsys, f"{run.path} was made by seqapp 9.9, in format {FORMAT + 1}", "install seqapp 9.9 or newer")


def test_a_bundle_of_a_format_to_come_is_refused(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(FOLDER / "bundle", tmp_path / "bundle"))
    content = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert content["format"] <= FORMAT
    write_json(bundle / "manifest.json", {**content, "format": FORMAT + 1})
    with pytest.raises(UsageError, match=rf"was made by seqapp .* in format {FORMAT + 1}"):
        load(bundle)
    del content["format"]  # as before there were any
    write_json(bundle / "manifest.json", content)
    load(bundle)
