"""`python -m tests.golden`: makes tests/golden, a run and a bundle that later versions have to read, and what they say.

They stay what they are, made by the version that tests/golden/run/versions.json names. To be run again only where a version
gives up reading them, which its number must say.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

import export.__main__
from export.runtime import load
from seqapp import train
from seqapp.run import Run, write_json
from seqapp.step import KerasStepper
from tests.conftest import sentences

FOLDER = Path(__file__).parent / "golden"
TOKENS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]], np.int32)
PICTURES = ("*.png", "logs")  # which nothing reads


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)  # so that config.json names no folder of a machine
        run = Path("run")
        Path("text.txt").write_text(sentences(60))
        small = ["--cell", "lstm", "--units", "4", "--embedding", "4", "--epochs", "2", "--batch-size", "4", "--bptt", "8"]
        assert train.main(["--data", "text.txt", *small, "--learned-start", "--run", str(run)]) == 0
        assert export.__main__.main([str(run), "--out", str(FOLDER / "bundle"), "--overwrite"]) == 0
        shutil.rmtree(FOLDER / "run", ignore_errors=True)
        shutil.copytree(run, FOLDER / "run", ignore=shutil.ignore_patterns(*PICTURES))
    stepper, bundle = KerasStepper(Run.open(FOLDER / "run").load_model()), load(FOLDER / "bundle")
    logits, _ = stepper.sequence(TOKENS, stepper.initial_states(1))
    write_json(FOLDER / "says.json", {"logits": np.asarray(logits).tolist(), "predicts": bundle.predict("are you", top=3)})


if __name__ == "__main__":
    main()
