"""Runs of melodies: what they foretell, how they go on, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import seqapp.evaluate
import seqapp.generate
import seqapp.predict
import seqapp.train
from seqapp import melody
from seqapp.chain import Stepwise
from seqapp.config import build
from seqapp.decoding import Sampling
from seqapp.melody import END, PITCHES, REST, Durations, Melody, load_codes, pitch_name
from seqapp.melody_form import continued, durations_of
from seqapp.run import Run
from seqapp.scores import write_midi
from seqapp.step import KerasStepper, compiled, log_softmax
from tests.conftest import one_line, verse

Sung = Callable[..., Run]
Out = pytest.CaptureFixture[str]
GREEDY = Sampling(0)


def test_a_run_of_melodies(sung: Sung) -> None:
    run = sung()
    kept = {path.name for path in run.path.iterdir()}
    assert {"train_melodies.npz", "test_melodies.npz", "melody.json", "melody.png", "model.keras", "metrics.json"} <= kept
    codes = load_codes(run.path / "test_melodies.npz", durations_of(run))
    mine, baselines = run.metrics["test"], run.metrics["baselines"]
    assert mine["nats_per_note"]["count"] == sum(map(len, codes))
    assert mine["nats_per_note"]["value"] < min(row["nats_per_note"]["value"] for row in baselines.values())
    assert mine["duration_accuracy"]["value"] > 0.95


def stepper_of(run: Run) -> KerasStepper:
    return KerasStepper(Stepwise(run.load_model()), durations_of(run).width)


def test_the_likeliest_goes_on_note_by_note(sung: Sung) -> None:
    run = sung()
    known = durations_of(run)
    begun = known.coded(Melody("a", verse(3)))[:9]
    added = np.array(list(continued(stepper_of(run), known, begun, 12, GREEDY, np.random.default_rng(0))))
    assert added.shape == (12, 2)
    logits = compiled(run.load_model())(known.told(np.r_[begun, added].astype(np.int32))[None])[0, 9:]
    for (pitch, duration), row, before in zip(added, logits, np.r_[begun[-1:], added], strict=False):
        banned = [END, REST] if before[0] == REST else [END]
        scores = row[:PITCHES].copy()
        scores[banned] = -np.inf
        assert (pitch, duration) == (scores.argmax(), row[PITCHES:].argmax())


def test_a_melody_ends_where_it_is_told_to(sung: Sung) -> None:
    run = sung()
    known, stepper = durations_of(run), stepper_of(run)
    whole = known.coded(Melody("a", verse(6, 32)))[:-1]
    ended = [len(list(continued(stepper, known, whole, None, Sampling(1.0), np.random.default_rng(i)))) for i in range(12)]
    assert 0 <= min(ended) < max(ended) <= 64
    asked = list(continued(stepper, known, whole, 90, Sampling(1.0), np.random.default_rng(0)))
    assert len(asked) == 90 and END not in {pitch for pitch, _ in asked}


class Dice:
    """Every pitch and every duration has the same chance, but two of each are likelier."""

    def __init__(self, known: Durations) -> None:
        self.logits = np.zeros((1, known.width), np.float32)
        self.logits[0, [7, 9, PITCHES, PITCHES + 1]] = 5.0

    def initial_states(self, batch_size: int) -> list[np.ndarray]:
        return []

    def sequence(self, x: np.ndarray, states: object) -> tuple[np.ndarray, list[np.ndarray]]:
        return np.repeat(self.logits[:, None], x.shape[1], 1), []

    def step(self, x: np.ndarray, states: object) -> tuple[np.ndarray, list[np.ndarray]]:
        return self.logits, []


def test_notes_are_drawn_by_their_chance_and_cut_to_the_likeliest() -> None:
    known, none = Durations((6, 12, 24)), np.zeros((0, 2), np.int32)

    def drawn(sampling: Sampling) -> np.ndarray:
        return np.array(list(continued(Dice(known), known, none, 4000, sampling, np.random.default_rng(0))))

    found = drawn(Sampling(1.0))
    assert (found[:, 0] == 7).mean() == pytest.approx(np.exp(5) / (2 * np.exp(5) + PITCHES - 3), abs=0.02)
    assert (found[:, 1] == 2).mean() == pytest.approx(1 / (2 * np.exp(5) + 1), abs=0.01)
    assert set(drawn(Sampling(1.0, top_k=2))[:, 0]) == {7, 9}
    rests = np.flatnonzero(drawn(Sampling(30.0))[:, 0] == REST)
    assert len(rests) and (np.diff(rests) > 1).all() and rests[0] > 0


def test_generate_goes_on_and_begins(sung: Sung, melody_folder: Path, tmp_path: Path, capsys: Out) -> None:
    run, prompt = sung(), melody_folder / "3.mid"
    capsys.readouterr()
    flags = ["--prompt", str(prompt), "--length", "8", "--seed", "1", "--top-k", "3", "--output", str(tmp_path / "new.mid")]
    assert seqapp.generate.main([str(run.path), *flags]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "new.png"), str(tmp_path / "new.mid")]
    (made,), (begun,) = (melody.read(path)["all"] for path in (tmp_path / "new.mid", prompt))
    np.testing.assert_array_equal(made.notes[: len(begun.notes)], begun.notes)
    assert len(begun.notes) + 6 <= len(made.notes) <= len(begun.notes) + 8
    assert (made.meter, made.tempo) == ("6/8", pytest.approx(100))
    first = (tmp_path / "new.mid").read_bytes()
    assert seqapp.generate.main([str(run.path), *flags]) == 0
    assert (tmp_path / "new.mid").read_bytes() == first
    assert seqapp.generate.main([str(run.path), "--seed", "2"]) == 0
    (new,) = melody.read(run.path / "generated.mid")["all"]
    assert 2 <= len(new.notes) <= 64 and new.meter == "4/4"


def test_what_a_prompt_has_of_its_own_stays(sung: Sung, tmp_path: Path) -> None:
    """Durations that the model does not know are told it as the nearest, and written as they were."""
    write_midi(Melody("a", np.array([[40, 17], [42, 31], [43, 24]])).score, tmp_path / "odd.mid")
    flags = ["--prompt", str(tmp_path / "odd.mid"), "--length", "4", "--output", str(tmp_path / "new.mid")]
    assert seqapp.generate.main([str(sung().path), *flags]) == 0
    assert melody.read(tmp_path / "new.mid")["all"][0].notes[:3].tolist() == [[40, 17], [42, 31], [43, 24]]


def test_predict_says_the_next_note(sung: Sung, melody_folder: Path, capsys: Out) -> None:
    run, path = sung(), melody_folder / "5.mid"
    capsys.readouterr()
    assert seqapp.predict.main([str(run.path), "--input", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    known, (piece,) = durations_of(run), melody.read(path)["all"]
    logits = compiled(run.load_model())(known.told(known.coded(piece))[None])[0, -1]
    pitch, duration = (np.exp(log_softmax(part.astype(np.float64))) for part in np.split(logits, [PITCHES]))
    best = int(pitch.argmax())
    name = "end" if best == END else f"{pitch_name(best)} {known.ticks[duration.argmax()] / 24:g}"
    assert told["prediction"] == name and len(told["likely"]) == 5
    assert told["score"] == pytest.approx(pitch[best] * (1 if best == END else duration.max()), rel=1e-3)


def test_evaluate_on_other_melodies(sung: Sung, melody_folder: Path, capsys: Out) -> None:
    run = sung()
    capsys.readouterr()
    assert seqapp.evaluate.main([str(run.path), "--data", str(melody_folder / "7.mid"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["data"]
    assert found["nats_per_note"]["count"] == len(melody.read(melody_folder / "7.mid")["all"][0].notes) + 1


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--beam", "3"], ("leave out --beam", "--temperature 0")),
        (["--prompt", "no.mid"], ("There is no no.mid",)),
        (["--prompt", "-"], ("--prompt", ".abc")),
        (["--output", "a.wav"], ("--output must end in .mid", "a.wav")),
    ],
)
def test_generate_refuses(flags: list[str], parts: tuple[str, ...], sung: Sung, capsys: Out) -> None:
    run = sung()
    capsys.readouterr()
    assert seqapp.generate.main([str(run.path), *flags]) == 2
    one_line(capsys, *parts)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--music", "song"], ("--music must be roll or melody", "song")),
        (["--music", "melody", "--frame", "0.5"], ("leave --frame out", "0.5")),
        (["--music", "melody", "--data", "rolls.npz"], ("rolls.npz should be one of .mid",)),
    ],
)
def test_train_refuses(
    flags: list[str], parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("rolls.npz", a=np.ones((4, 88)))
    assert seqapp.train.main(["--task", "next-note", "--run", "run", *flags]) == 2
    one_line(capsys, *parts)
    assert not Path("run").exists()


def test_the_default_melodies_have_settings_of_their_own() -> None:
    default = build({"task": "next-note", "music": "melody"})
    assert (default.next_note.transpose, default.training.bptt) == (0, 64)
    assert build({}, {"task": "next-note", "next_note": {"music": "melody"}}) == default
    assert build({"task": "next-note", "music": "melody", "transpose": 3, "bptt": 9}).training.bptt == 9
    for other in ({"task": "next-note"}, {"task": "next-note", "music": "melody", "data": "a.mid"}):
        config = build(other)
        assert (config.next_note.transpose, config.training.bptt) == (5, 128)
