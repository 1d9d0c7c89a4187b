"""The code in a bundle's README begins with the first states that the model has."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import export
from export.snippets import snippets
from seqapp.step import KerasStepper
from tests.export.conftest import model_of, tokens_of

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "bundle"
    model = model_of(cell="lstm", learned_start=True)
    export.convert(model, folder, formats=("tflite",), inputs=tokens_of(1, 1001)[0], output="logits")
    return folder


def test_the_python_code_begins_with_a_learned_start(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = next(block for block in PYTHON.findall((bundle / "README.md").read_text("utf-8")) if "signature_runner" in block)
    monkeypatch.chdir(bundle)
    exec(code, {})
    stepper = KerasStepper(model_of(cell="lstm", learned_start=True))
    states: Any = stepper.initial_states(1)
    assert all(np.abs(state).max() > 0.1 for state in states)
    for token in (0, 1, 2):
        wanted, states = stepper.step(np.array([token], np.int32), states)
    printed = capsys.readouterr().out
    last = ast.literal_eval(re.sub(r"\s+", ",", printed[printed.rindex("[") :].strip().replace("[ ", "[")))
    np.testing.assert_allclose(last, wanted[0], rtol=1e-4, atol=1e-4)


def test_each_language_reads_the_first_states_where_they_are(bundle: Path) -> None:
    content = json.loads((bundle / "manifest.json").read_text("utf-8"))
    h, c = (state["initial"] for state in content["states"])
    for name, (_, _, code) in snippets(content).items():
        assert h in code and c in code, name
    content["states"][0]["initial"], content["states"][1]["initial"] = 0.0, 0.25
    for name, (_, _, code) in snippets(content).items():
        assert ".npy" not in code and "0.25" in code, name
