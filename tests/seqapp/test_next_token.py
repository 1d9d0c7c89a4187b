"""Runs of conversations and recipes, by the real commands."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import seqapp.evaluate
import seqapp.generate
import seqapp.predict
import seqapp.train
from seqapp import forms
from seqapp.next_token import TokenReport
from seqapp.run import Run
from seqapp.scoring import metrics, score
from seqapp.step import KerasStepper
from tests.conftest import talks

Capture = pytest.CaptureFixture[str]


def generated(run: Run, capsys: Capture, *flags: str) -> tuple[str, str]:
    capsys.readouterr()
    assert seqapp.generate.main([str(run.path), *flags]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_run_is_measured_by_turns(talked: Run) -> None:
    metrics = talked.metrics
    assert (talked.path / "turns.png").exists()
    model, kneser = metrics["test"], metrics["baselines"]["kneser_ney_3"]
    places = [f"perplexity_turn_{name}" for name in ("1", "2", "3_to_5")]
    for row in (model, metrics["validation"], kneser, metrics["baselines"]["unigram"]):
        assert [key for key in row if "turn" in key] == ["nats_per_turn", *places]
    stream, v = talked.tokens("test"), talked.vocabulary
    logs, _ = score(KerasStepper(talked.load_model()), stream, v.end_number)
    conversation, turn = v.symbol_numbers
    assert model["nats_per_turn"]["count"] == int((stream == turn).sum()) == 4 * int((stream == conversation).sum())
    wanted = -logs[stream != conversation].sum() / (stream == turn).sum()
    assert model["nats_per_turn"]["value"] == pytest.approx(wanted, rel=1e-5)
    # An answer repeats its question, which the model has learnt.
    assert model["perplexity_turn_2"]["value"] < model["perplexity_turn_1"]["value"]
    assert sum(model[place]["count"] for place in places) == int((stream != conversation).sum())


def test_evaluate_tells_the_turns(talked: Run, tmp_path: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert seqapp.evaluate.main([str(talked.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if "turns: nats of each" in line)
    assert [line.split()[0] for line in lines[at + 2 :]] == ["gru", "unigram", "kneser-ney-3"]
    (tmp_path / "more.txt").write_text(talks(7), "utf-8")
    assert seqapp.evaluate.main([str(talked.path), "--data", str(tmp_path / "more.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["nats_per_turn"]["count"] == 28


def test_generate_writes_the_next_turn(talked: Run, capsys: Capture) -> None:
    out, err = generated(talked, capsys, "--prompt", "Is she xylophone <turn>?", "--seed", "1")
    assert "not in the vocabulary, read as <unk>: xylophone <" in err
    assert out.strip() and "<" not in out
    assert out == generated(talked, capsys, "--prompt", "A: Is she xylophone <TURN>?\n", "--seed", "1")[0]
    greedy = generated(talked, capsys, "--prompt", "Are they late now?", "--temperature", "0")[0]
    assert greedy.count("\n") == 1, "one line, as every turn of the data"
    assert greedy.split()[0] in ("yes,", "no,")
    assert greedy == generated(talked, capsys, "--prompt", "Are they late now?", "--beam", "1")[0]
    assert generated(talked, capsys, "--prompt", "Are they late now?", "--beam", "4")[0].count("\n") == 1
    short = generated(talked, capsys, "--prompt", "Are they late now?", "--temperature", "0", "--length", "2")[0]
    assert greedy.startswith(short.strip()) and short != greedy


def test_generate_begins_a_document(talked: Run, cooked: Run, capsys: Capture) -> None:
    out = generated(talked, capsys, "--seed", "1", "--length", "200")[0]
    assert out.startswith("A: ") and "<" not in out
    assert forms.prompt("conversation", out).count("<turn>") == out.count("\n")
    assert generated(talked, capsys, "--beam", "2", "--length", "20")[0].startswith("A: ")
    out = generated(cooked, capsys, "--seed", "1", "--length", "300")[0]
    assert "<" not in out and "# " in out


def test_generate_continues_a_recipe(
    cooked: Run, recipe_folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (cooked.path / "steps.png").exists()
    assert cooked.metrics["test"]["nats_per_step"]["count"] > 10
    file = recipe_folder / "soup.md"
    out = generated(cooked, capsys, "--prompt", str(file), "--seed", "1")[0]
    assert out.strip() and "<" not in out
    steps = "\n".join(line[3:] for line in file.read_text("utf-8").splitlines() if line.startswith("1. "))
    assert generated(cooked, capsys, "--prompt", steps, "--temperature", "0")[0].strip()
    capsys.readouterr()
    assert seqapp.generate.main([str(cooked.path), "--prompt", "no-soup.md"]) == 2
    assert "error: There is no no-soup.md" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(steps.encode())))
    assert generated(cooked, capsys, "--chat", "--length", "9")[0].count("\n") == 4


def test_predict_takes_a_line_for_a_turn(talked: Run, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "lines.txt").write_text("Are they\n", "utf-8")
    capsys.readouterr()
    assert seqapp.predict.main([str(talked.path), "--input", str(tmp_path / "lines.txt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    v, stepper = talked.vocabulary, KerasStepper(talked.load_model())
    numbers = [v.end_number, *v.encode("<conversation><turn>are they")[:-1]]
    logits, _ = stepper.sequence(np.array([numbers], np.int32), stepper.initial_states(1))
    p = np.exp(logits[0, -1] - np.log(np.exp(logits[0, -1]).sum()))
    assert found["likely"][0] == [v.tokens[p.argmax()], pytest.approx(float(p.max()), rel=1e-4)]


@pytest.mark.parametrize(("count", "told"), [(300, False), (200, True)])
def test_the_table_tells_where_the_baselines_were_cut_short(count: int, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqapp.next_token.COUNTED", 200)
    row = metrics(np.full(9, -1.0), np.zeros(9, np.int64), "word")
    known = {"unigram": {**row, "discount": {"value": 0.5, "unit": "counts", "count": count}}}
    report = TokenReport("test", {"test": {**row, "unknown": {"value": 0.1, "unit": "fraction", "count": 9}}}, known)
    assert ("the baselines were counted on the last 200 training tokens" in report.table("gru").splitlines()) == told


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--form", "recipe"], ["There are no default recipes"]),
        (["--form", "recipe", "--data", "{}/none"], ["There is no"]),
        (["--form", "recipe", "--data", "{}/odd"], ["holds no recipe", "odd/about.md has no steps"]),
        (["--form", "conversation", "--data", "{}/calls.txt"], ["calls.txt, line 1 begins a conversation without a speaker"]),
        (["--form", "conversation", "--task", "classify"], ["--form is for the task next-word or next-character alone"]),
    ],
)
def test_train_refuses_what_is_not_of_the_form(
    flags: list[str], parts: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqapp.train.need_keras", lambda _: pytest.fail("TensorFlow is not needed for that"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/about.md").write_text("# About\n")
    (tmp_path / "calls.txt").write_text("Call 1\nA: hello\n")
    run = tmp_path / "run"
    assert seqapp.train.main(["--run", str(run), *(flag.format(tmp_path) for flag in flags)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert all(part in err for part in parts)
    assert not run.exists()


@pytest.mark.usefixtures("stopped")
def test_odd_files_are_told_once(recipe_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = Path(shutil.copytree(recipe_folder, tmp_path / "recipes"))
    (folder / "about.md").write_text("# About\n")
    assert seqapp.train.main(["--run", str(tmp_path / "run"), "--form", "recipe", "--data", str(folder)]) == 130
    assert capsys.readouterr().err.count("left out: ") == 1


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that is stopped as soon as it has its data."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seqapp.job.prepare", stop)
