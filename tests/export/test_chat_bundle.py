"""A run of conversations as a bundle, with which an app talks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import export.__main__
from export.runtime import ENGINES, load
from seqapp.decoding import Sampling
from seqapp.run import Run
from seqapp.step import KerasStepper
from seqapp.stream import Stream
from seqapp.vocabulary import Vocabulary

PAGE = Path(__file__).parents[2] / "docs/conversation.md"


@pytest.fixture(scope="module")
def bundle(talked: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talk") / "runs/chat/bundle"
    assert export.__main__.main([str(talked.path), "--out", str(path), "--format", "tflite", "onnx"]) == 0
    return path


def test_it_answers_as_keras_does(bundle: Path, talked: Run) -> None:
    """From the same seed, in each engine, the turns before being remembered."""
    stepper = KerasStepper(talked.load_model())
    keras, sessions = Stream(stepper, talked.vocabulary), [load(bundle, engine).session() for engine in ENGINES]
    for seed, said in enumerate(["Are they late now?", "", "Is she <turn> here?", "Am I hungry\nor tired?"]):
        wanted = keras.answered(said, 20, Sampling(0.8), np.random.default_rng(seed))
        assert wanted
        for session in sessions:
            assert session.answer(said, 20, seed=seed) == wanted


def test_the_vocabulary_says_what_begins_a_turn(bundle: Path, talked: Run) -> None:
    vocabulary = Vocabulary.load(bundle / "vocabulary.json")
    assert vocabulary == talked.vocabulary
    assert vocabulary.symbols == ("<conversation>", "<turn>")


def test_the_example_of_the_page(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(bundle.parents[2])
    capsys.readouterr()
    exec(example, {})
    assert len(capsys.readouterr().out.splitlines()) >= 2
