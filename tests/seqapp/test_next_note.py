"""The task `next-note`: what a run of music foretells, plays on, and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import seqapp.evaluate
import seqapp.generate
import seqapp.predict
from seqapp import pieces
from seqapp.chain import Stepwise
from seqapp.config import build
from seqapp.next_note import NextNote
from seqapp.pieces import Piece, told_before
from seqapp.roll_form import continued, foretold, load_rolls, save_rolls
from seqapp.run import Run
from seqapp.scores import KEYS, key_name, write_midi
from seqapp.step import KerasStepper, compiled
from tests.conftest import one_line, refused, tune

Composed = Callable[..., Run]
Out = pytest.CaptureFixture[str]


def test_a_run_of_music(composed: Composed) -> None:
    run = composed()
    kept = {path.name for path in run.path.iterdir()}
    assert {"train_rolls.npz", "validation_rolls.npz", "test_rolls.npz", "roll.png", "model.keras", "metrics.json"} <= kept
    rolls = load_rolls(run.path / "test_rolls.npz")
    assert run.metrics["test"]["nll_per_frame"]["count"] == sum(map(len, rolls))
    best = min(row["nll_per_frame"]["value"] for row in run.metrics["baselines"].values())
    assert run.metrics["test"]["nll_per_frame"]["value"] < best


def test_a_piece_alone_is_as_among_others(composed: Composed) -> None:
    model = compiled(composed().load_model())
    rolls = [tune(i, t) for i, t in enumerate((9, 40, 3, 17))]
    for roll, together in zip(rolls, foretold(model, rolls), strict=True):
        np.testing.assert_allclose(together, model(told_before(roll[None]))[0], atol=1e-5, equal_nan=False)


def test_what_comes_is_not_known_before() -> None:
    roll = tune(0, 5)
    before = told_before(np.stack([roll, roll]))
    assert not before[:, 0].any()
    np.testing.assert_array_equal(before[1, 1:], roll[:-1])


def test_music_goes_on_frame_by_frame(composed: Composed) -> None:
    model = composed().load_model()
    stepper, begun = KerasStepper(Stepwise(model), KEYS), tune(2, 12)
    roll = continued(stepper, begun, 9, 0, np.random.default_rng(0))
    assert roll.shape == (21, KEYS)
    np.testing.assert_array_equal(roll[:12], begun)
    logits = foretold(compiled(model), [roll])[0]
    np.testing.assert_array_equal(roll[12:], logits[12:] > 0)
    one, same, other = (continued(stepper, begun, 20, 1.0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


class Coin:
    """Every key sounds with the same chance."""

    def __init__(self, logit: float) -> None:
        self.logits = np.full((1, KEYS), logit, np.float32)

    def initial_states(self, batch_size: int) -> list[np.ndarray]:
        return []

    def sequence(self, x: np.ndarray, states: object) -> tuple[np.ndarray, list[np.ndarray]]:
        assert x.shape == (1, 1, KEYS)
        return self.logits[:, None], []

    def step(self, x: np.ndarray, states: object) -> tuple[np.ndarray, list[np.ndarray]]:
        return self.logits, []


@pytest.mark.parametrize(("logit", "temperature"), [(-1.0, 1.0), (1.0, 0.5), (-2.0, 4.0), (-3.0, 1e-9), (3.0, 0)])
def test_keys_are_drawn_by_their_chance(logit: float, temperature: float) -> None:
    roll = continued(Coin(logit), np.zeros((0, KEYS), np.uint8), 300, temperature, np.random.default_rng(0))
    wanted = float(logit > 0) if temperature < 1e-6 else 1 / (1 + np.exp(-logit / temperature))
    assert roll.mean() == pytest.approx(wanted, abs=0.01)


def test_generate_writes_music_and_its_picture(composed: Composed, music_folder: Path, tmp_path: Path, capsys: Out) -> None:
    run, prompt = composed(), music_folder / "3.mid"
    capsys.readouterr()
    flags = ["--prompt", str(prompt), "--length", "8", "--seed", "1", "--output", str(tmp_path / "new.mid")]
    assert seqapp.generate.main([str(run.path), *flags]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "new.png"), str(tmp_path / "new.mid")]
    (made,), (begun,) = (pieces.read_file(path, 1.0)["all"] for path in (tmp_path / "new.mid", prompt))
    np.testing.assert_array_equal(made.roll[: len(begun.roll)], begun.roll)
    assert len(begun.roll) < len(made.roll) <= len(begun.roll) + 8
    assert (made.meter, made.tempo) == ("3/4", pytest.approx(90))
    first = (tmp_path / "new.mid").read_bytes()
    assert seqapp.generate.main([str(run.path), *flags]) == 0
    assert (tmp_path / "new.mid").read_bytes() == first
    assert seqapp.generate.main([str(run.path), "--seed", "2", "--temperature", "1"]) == 0
    assert 0 < len(pieces.read_file(run.path / "generated.mid", 1.0)["all"][0].roll) <= 64


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--beam", "3"], ("--beam, --top-k", "leave out")),
        (["--top-k", "3"], ("leave out --beam, --top-k",)),
        (["--prompt", "no.mid"], ("There is no no.mid",)),
        (["--prompt", "-"], ("--prompt", ".mid")),
        (["--output", "a.wav"], ("--output must end in .mid", "a.wav")),
        (["--output", "no/such/a.mid"], ("no folder no/such", "--output")),
    ],
)
def test_generate_refuses(flags: list[str], parts: tuple[str, ...], composed: Composed, capsys: Out) -> None:
    run = composed()
    capsys.readouterr()
    assert seqapp.generate.main([str(run.path), *flags]) == 2
    one_line(capsys, *parts)


def test_a_folder_where_the_picture_would_be_stays(composed: Composed, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "a.png").mkdir()
    (tmp_path / "a.png" / "keep").touch()
    capsys.readouterr()
    assert seqapp.generate.main([str(composed().path), "--output", str(tmp_path / "a.mid")]) == 2
    assert "a.png is a directory" in capsys.readouterr().err
    assert (tmp_path / "a.png" / "keep").exists()


def test_one_piece_is_continued(composed: Composed, tmp_path: Path, capsys: Out) -> None:
    np.savez(tmp_path / "two.npz", a=tune(0), b=tune(1))
    capsys.readouterr()
    assert seqapp.generate.main([str(composed().path), "--prompt", str(tmp_path / "two.npz")]) == 2
    assert "--prompt must be one piece" in capsys.readouterr().err


def test_predict_says_what_sounds_next(composed: Composed, tmp_path: Path, capsys: Out) -> None:
    run, roll = composed(), tune(5, 30)
    write_midi(Piece("a", roll, 1.0).score, tmp_path / "a.mid")
    capsys.readouterr()
    assert seqapp.predict.main([str(run.path), "--input", str(tmp_path / "a.mid"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    stepper = KerasStepper(Stepwise(run.load_model()), KEYS)
    x = np.concatenate([np.zeros((1, KEYS), np.float32), roll])[None]
    logits = stepper.sequence(x, stepper.initial_states(1))[0][0, -1]
    wanted = [key_name(int(key)) for key in np.flatnonzero(logits > 0)]
    assert told["input"] == "a.mid"
    assert told["prediction"].split() == (wanted or [key_name(int(logits.argmax()))])
    assert told["likely"][0][0] == key_name(int(logits.argmax()))
    assert told["likely"][0][1] == pytest.approx(1 / (1 + np.exp(-logits.max())), rel=1e-4)
    refused(lambda: NextNote().predictor(run, "-"), "--input", ".mid")


def test_other_music_is_measured(composed: Composed, music_folder: Path, tmp_path: Path, capsys: Out) -> None:
    run = composed()
    capsys.readouterr()
    assert seqapp.evaluate.main([str(run.path), "--data", str(music_folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"]["nll_per_frame"]["count"] == sum(40 + i % 9 for i in range(40))
    assert seqapp.evaluate.main([str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test"] == run.metrics["test"]


def test_rolls_that_are_saved_are_read(tmp_path: Path) -> None:
    rolls, path = [tune(i, 5 + i) for i in range(4)], tmp_path / "rolls.npz"
    save_rolls(path, rolls)
    for one, same in zip(rolls, load_rolls(path), strict=True):
        np.testing.assert_array_equal(one, same)
    arrays = dict(np.load(path))
    for change in ({"lengths": np.array([3])}, {"rolls": np.zeros(4)}, {"lengths": np.array([-1, 27])}):
        np.savez(path, **{**arrays, **change})
        refused(lambda: load_rolls(path), "rolls.npz is damaged", "restore it")
    refused(lambda: load_rolls(tmp_path / "no.npz"), "There is no")


def test_own_notation_is_read_once_and_all_else_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.abc").write_text("X:1\nK:C\nC\n")
    monkeypatch.setattr(pieces, "read", lambda *_: pytest.fail("it is read"))
    NextNote().check_data(build({"task": "next-note", "data": str(tmp_path / "a.abc")}))
    NextNote().check_data(build({"task": "next-note"}))
