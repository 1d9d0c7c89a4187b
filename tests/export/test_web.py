"""The ONNX file of a trained run where browsers run it: onnxruntime-web, WebAssembly, here in Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.__main__ import main as export
from seqapp.run import Run, replacing
from seqapp.step import KerasStepper, log_softmax

PACKAGE = "onnxruntime-web@1.30.0"
WEB = Path(__file__).with_name("web.mjs")
CACHE = Path(__file__).parents[2] / ".cache"  # git-ignored; the package is 150 MB on disk
TIMESTEPS = 128
INSTALL = ["npm", "install", "--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts"]


def ran(command: list[str], **more: Any) -> str:
    """What a command prints, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **more)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """web.mjs beside the packages that it imports, installed once for this version."""
    if shutil.which("npm") is None:
        pytest.skip("npm is missing: install Node.js 20 or newer")
    installed = CACHE / PACKAGE
    if not installed.exists():
        with replacing(installed) as temporary:
            temporary.mkdir()
            ran([*INSTALL, "--prefix", str(temporary), PACKAGE])
    folder = tmp_path_factory.mktemp("web")
    (folder / "node_modules").symlink_to(installed / "node_modules")
    return Path(shutil.copy(WEB, folder))  # Node looks for packages beside the file itself, a link's target


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("--cell", "plain", "--layers", "2", "--epochs", "1"), id="two layers of plain", marks=pytest.mark.matrix),
        pytest.param(("--cell", "lstm"), id="lstm"),
        pytest.param((), id="gru"),
    ],
)
def test_the_same_numbers_as_keras(flags: tuple[str, ...], trained: Callable[..., Run], script: Path, tmp_path: Path) -> None:
    run, bundle = trained(*flags), tmp_path / "bundle"
    assert export([str(run.path), "--out", str(bundle), "--format", "onnx"]) == 0
    tokens = run.tokens("test")[:TIMESTEPS]
    printed = json.loads(ran(["node", str(script), str(bundle), "model.onnx"], input=json.dumps(tokens.tolist())))
    keras = KerasStepper(run.load_model())
    logits, states = keras.sequence(tokens[None], keras.initial_states(1))
    allowed = json.loads((bundle / "manifest.json").read_text("utf-8"))["parity"][0]
    assert sorted(printed) == ["sequence", "step"]
    for made in printed.values():
        found = log_softmax(np.reshape(made["logits"], logits.shape))
        np.testing.assert_allclose(found, log_softmax(logits.astype(np.float64)), rtol=0, atol=allowed["tolerance"])
        np.testing.assert_allclose(made["states"], np.concatenate(states), rtol=0, atol=allowed["state_tolerance"])
