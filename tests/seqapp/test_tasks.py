"""Every task behind its name: what the commands ask of one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import seqapp.diagnose
import seqapp.generate
from seqapp import config
from seqapp.drawn import Drawn
from seqapp.errors import UsageError
from seqapp.run import Run
from seqapp.tasks import TASKS


def test_the_names_are_those_that_settings_know() -> None:
    assert tuple(TASKS) == config.TASKS


@pytest.mark.parametrize("name", TASKS)
def test_defaults_name_their_task(name: str) -> None:
    for own_data in (True, False):
        assert TASKS[name].defaults(own_data).task == name
        assert TASKS[name].defaults(own_data).data.data is None


def image_file() -> bytes:
    """Two images with their classes, as `.npz`."""
    np.savez(file := io.BytesIO(), x=np.zeros((2, 3, 3)), y=[0, 1])
    return file.getvalue()


FILES = {
    "digits": (".npz", image_file()),
    "forecast": (".csv", "value\n" + "1\n3\n" * 50),
    "next-note": (".abc", "X:1\nK:C\nC D E F\n"),
    "translate": (".tsv", "".join(f"{i}\t{-i}\n" for i in range(80))),
}


@pytest.mark.parametrize("name", [name for name in TASKS if not isinstance(TASKS[name], Drawn)])
def test_data_are_refused_before_any_work(name: str, tmp_path: Path) -> None:
    suffix, content = FILES.get(name, (".tsv", "yes\tIt is.\nno\tIt is not.\n"))
    none, good = tmp_path / f"none{suffix}", tmp_path / f"good{suffix}"
    bad = tmp_path / ("bad.mid" if name == "next-note" else f"bad{suffix}")

    def check(path: Path) -> None:
        TASKS[name].check_data(config.build({"task": name, "data": str(path)}))

    with pytest.raises(UsageError, match="There is no"):
        check(none)
    bad.write_bytes(b"\x00\x01")
    with pytest.raises(UsageError, match=rf"{bad.name} (is a binary file|cannot be read as (MIDI|\.npz))"):
        check(bad)
    good.write_bytes(content if isinstance(content, bytes) else content.encode())
    check(good)


@pytest.mark.parametrize("name", ["classify", "forecast", "translate", "adding", "copy-memory", "digits"])
def test_labels_forecasts_and_translations_are_not_generated(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(f'{{"task": "{name}"}}')
    (tmp_path / "model.keras").touch()  # it is refused before the model is read
    assert seqapp.generate.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: A run of the task {name} generates nothing: use python -m seqapp.predict {tmp_path}.\n"
    )


def test_a_report_has_what_the_commands_show(
    classified: Callable[..., Run],
    trained: Callable[..., Run],
    forecasted: Callable[..., Run],
    composed: Callable[..., Run],
    added: Callable[..., Run],
    remembered: Callable[..., Run],
) -> None:
    for run in (classified("talk"), trained(), forecasted(), composed(), added(), remembered()):
        task, model = TASKS[run.config.task], run.load_model()
        report = task.evaluation(run, None)(model)
        assert {name: row for name, row in run.metrics.items() if name in report.as_json()} == report.as_json()
        assert set(report.levels) == set(report.as_json()["baselines"])
        assert all(level > 0 for level in report.levels.values())
        assert report.table("mine").splitlines()[2].startswith("mine ")


def test_every_kind_of_run_is_diagnosed(
    classified: Callable[..., Run],
    forecasted: Callable[..., Run],
    sung: Callable[..., Run],
    translated: Callable[..., Run],
    remembered: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """But for texts, which the README's command is of, and rolls of music, which are as melodies are."""
    monkeypatch.setattr("seqapp.job.PRACTICE", 20)
    both, translator = classified("talk", "--both-ways"), translated()
    for run in (both, forecasted(), sung(), translator, remembered()):
        capsys.readouterr()
        assert seqapp.diagnose.main([str(run.path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["gradient"][0] == 1
        assert 0 < found["horizon"] <= found["timesteps"]
        assert (run.path / "diagnosis.png").exists()
        back = ["layer 1 back"] if run in (both, translator) else []
        assert list(found["layers"]) == ["layer 1", *back, *(["decoder 1"] if run is translator else [])]
