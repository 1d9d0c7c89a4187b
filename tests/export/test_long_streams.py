"""Streams that do not end: no drift, no growth, and no session that touches another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.__main__ import main as export_main
from export.keras_model import in_float64
from export.reference import ROUNDING_FACTOR
from export.runtime import load
from seqapp.run import Run
from seqapp.step import KerasStepper, log_softmax
from seqapp.stream import Stream
from tests.commands import run

DRIFT = 1e-4  # in log-probabilities, after any number of timesteps
GROWTH = 1 << 20  # bytes
MILLION = pytest.param(1_000_000, marks=pytest.mark.nightly)


def exported(run: Run, folder: Path) -> Path:
    assert export_main([str(run.path), "--format", "tflite", "onnx", "--out", str(folder / "bundle")]) == 0
    return folder / "bundle"


def values(stepper: Any, run: Run, words: list[str]) -> Any:
    """Log-probabilities after each hundredth of the words."""
    stream, found, every = Stream(stepper, run.vocabulary), [], len(words) // 100
    for first in range(0, len(words), every):
        stream.feed("".join(f" {word}" for word in words[first : first + every]))
        found.append(log_softmax(np.asarray(stream.next_logits(), np.float64)))
    return np.array(found)


@pytest.mark.parametrize("words", [10_000, MILLION])
@pytest.mark.parametrize("engine", ["litert", "onnx"])
@pytest.mark.parametrize("cell", ["lstm", pytest.param("lru", marks=pytest.mark.nightly)])
def test_a_stream_neither_drifts_nor_grows(
    cell: str, engine: str, words: int, trained: Callable[..., Run], tmp_path: Path
) -> None:
    of = trained("--cell", cell)
    bundle = exported(of, tmp_path)
    known = [token for token in of.vocabulary.tokens if token.isalpha()]
    text = list(np.random.default_rng(0).choice(known, words))
    (tmp_path / "text").write_text(" ".join(text))
    out = tmp_path / "out.npz"
    run([sys.executable, "-m", "tests.export.long_stream", str(bundle), engine, str(tmp_path / "text"), str(out)], tmp_path)
    with np.load(out) as found:
        logits, (at_first, at_last) = log_softmax(found["logits"].astype(np.float64)), found["memory"]
    model = of.load_model()
    expected = values(KerasStepper(model), of, text)
    drift = float(np.abs(logits - expected).max())
    exact = values(KerasStepper(in_float64(model, [layer.cell for layer in model.recurrent])), of, text)
    rounding = float(np.abs(expected - exact).max())
    print(
        f"{cell}, {engine}, {words:,} words: drift {drift:.1e}, Keras's own {rounding:.1e}, {at_last - at_first:,} bytes more"
    )
    assert drift <= max(DRIFT, ROUNDING_FACTOR * rounding)
    assert at_last - at_first <= GROWTH


@pytest.mark.parametrize("engine", ["litert", "onnx"])
def test_sixteen_sessions_in_each_of_eight_threads_are_what_they_are_alone(
    engine: str, trained: Callable[..., Run], tmp_path: Path
) -> None:
    """Each thread takes a word from one of its sessions after the other, so that all 128 are under way at once."""
    model = load(exported(trained("--cell", "lstm"), tmp_path), engine=engine)
    assert model.vocabulary
    known = [token for token in model.vocabulary.tokens if token.isalpha()]
    texts = np.random.default_rng(1).choice(known, (8, 16, 30))

    def alone(text: Any) -> Any:
        session = model.session()
        found = []
        for word in text:
            session.feed(f" {word}")
            found.append(session.next_logits())
        return np.array(found)

    def interleaved(some: Any) -> Any:
        sessions = [model.session() for _ in some]
        found = []
        for words in some.T:
            for session, word in zip(sessions, words, strict=True):
                session.feed(f" {word}")
            found.append([session.next_logits() for session in sessions])
        return np.swapaxes(np.array(found), 0, 1)

    wanted = np.array([[alone(text) for text in some] for some in texts])
    assert np.isfinite(wanted).all()
    with ThreadPoolExecutor(8) as pool:
        together = np.array(list(pool.map(interleaved, texts)))
    np.testing.assert_array_equal(together, wanted)
