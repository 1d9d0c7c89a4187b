"""One process at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seqapp.errors import UsageError
from seqapp.lock import held


def test_who_comes_second_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run"
    with held(path, "--run"):
        with (
            pytest.raises(UsageError, match=rf"run is in use by process {os.getpid()} on .*: wait .*--run"),
            held(path, "--run"),
        ):
            raise AssertionError
        with held(tmp_path / "new" / "other", "--run"):
            pass
    with held(path, "--run"):
        pass
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def test_a_file_that_was_left_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / ".lock-run").write_text("{")
    with held(tmp_path / "run", "--run"):
        assert (tmp_path / ".lock-run").exists()
    assert not (tmp_path / ".lock-run").exists()


def test_what_goes_wrong_meanwhile_lets_go(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), held(tmp_path / "run", "--run"):
        raise RuntimeError
    with held(tmp_path / "run", "--run"):
        pass


def test_a_folder_that_got_something_in_it_stays(tmp_path: Path) -> None:
    with held(tmp_path / "runs" / "run", "--run"):
        (tmp_path / "runs" / "run").mkdir()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
