"""Every task behind its name: what the commands ask of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seqapp import config
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


@pytest.mark.parametrize("name", TASKS)
def test_data_are_refused_before_any_work(name: str, tmp_path: Path) -> None:
    suffix = ".csv" if name == "forecast" else ".tsv"
    none, bad, good = (tmp_path / f"{stem}{suffix}" for stem in ("none", "bad", "good"))
    with pytest.raises(UsageError, match="There is no"):
        TASKS[name].check_data(str(none))
    bad.write_bytes(b"\x00\x01")
    with pytest.raises(UsageError, match=rf"bad\{suffix} is a binary file"):
        TASKS[name].check_data(str(bad))
    good.write_text("value\n1\n2\n" if name == "forecast" else "yes\tIt is.\nno\tIt is not.\n")
    TASKS[name].check_data(str(good))


def test_a_report_has_what_the_commands_show(
    classified: Callable[..., Run], trained: Callable[..., Run], forecasted: Callable[..., Run]
) -> None:
    for run in (classified("talk"), trained(), forecasted()):
        task, model = TASKS[run.config.task], run.load_model()
        report = task.evaluation(run, None)(model)
        assert {name: row for name, row in run.metrics.items() if name in report.as_json()} == report.as_json()
        assert set(report.levels) == set(report.as_json()["baselines"])
        assert all(level > 0 for level in report.levels.values())
        assert report.table("mine").splitlines()[2].startswith("mine ")
