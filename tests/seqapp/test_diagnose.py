"""The command that says how far back a model learns from, and the recorder that says it while a model learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import seqapp.diagnose
import seqapp.train
from seqapp.run import Run
from tests.conftest import one_line
from tests.training import scalars

SMALL = ["--task", "adding", "--length", "100", "--units", "32", "--learning-rate", "0.003"]


def test_a_model_that_is_yet_to_be_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert seqapp.diagnose.main([*SMALL, "--cell", "plain", "--initialization", "glorot"]) == 0
    said = capsys.readouterr()
    assert "The gradient vanishes" in said.out
    assert "--cell gru --memory 100: " in said.out
    assert said.err.splitlines()[-1] == "drawn in diagnosis.png"
    assert [path.name for path in tmp_path.iterdir()] == ["diagnosis.png"]


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        (["--cell", "lstm"], "vanishes"),
        (["--cell", "plain", "--activation", "relu", "--initialization", "identity"], "reaches"),
        (["--cell", "gru", "--memory", "100"], "reaches"),
        (["--cell", "lru"], "reaches"),
    ],
)
def test_verdicts_of_beginnings(flags: list[str], verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seqapp.diagnose.main([*SMALL, *flags, "--json", "--picture", str(tmp_path / "p.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["timesteps"]) == (verdict, 100)
    assert (tmp_path / "p.png").exists()


def test_a_run_has_the_weights_that_it_learnt(added: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run, found = added(), []
    capsys.readouterr()
    for given in ([str(run.path)], ["--config", str(run.config_file), "--picture", str(run.path / "new.png")]):
        assert seqapp.diagnose.main([*given, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["layers"]["layer 1"]["radius"])
    assert abs(found[0] - found[1]) > 0.01


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["{run}", "--units", "3"], ["A run has its own settings", "Received: --units"]),
        (["nowhere"], ["nowhere"]),
        (["--cell", "none"], ["--cell must be one of"]),
        (["--task", "adding", "--units", "2", "--memory", "9", "--cell", "plain"], ["cannot be built", "memory"]),
    ],
)
def test_what_is_refused(
    given: list[str], parts: list[str], added: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = added()
    capsys.readouterr()
    assert seqapp.diagnose.main([part.format(run=run.path) for part in given]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ")
    assert all(part in lines[-1] for part in parts)


def test_a_picture_that_cannot_be_drawn_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept").touch()
    for path, parts in (("no/p.png", ["There is no folder", "--picture"]), (".", ["is a directory", "--picture"])):
        assert seqapp.diagnose.main([*SMALL, "--picture", str(tmp_path / path)]) == 2
        one_line(capsys, *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_tensorboard_is_told_after_each_epoch(added: Callable[..., Run]) -> None:
    run = added("--diagnose", "--epochs", "2", "--layers", "2")
    found = {tag: dict(points) for tag, points in scalars(run.path / "logs").items()}
    assert len(found["validation_nats"]) == 2
    for tag in ("gradient/horizon", "gradient/1 back", "radius/layer 1", "dead/layer 2", "saturated/layer 1"):
        assert list(found[tag]) == list(found["validation_nats"])
    assert set(found["gradient/1 back"].values()) == {1}
    assert len(set(found["radius/layer 1"].values())) == 2
    assert "gradient/20 back" not in found
    assert "gradient/horizon" not in scalars(added().path / "logs")
