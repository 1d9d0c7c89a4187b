"""The checkpoints of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqapp.checkpoint import Checkpoints
from seqapp.errors import UsageError


def write(checkpoints: Checkpoints, content: str) -> None:
    with checkpoints.next() as folder:
        (folder / "weights").write_text(content)


def test_the_last_and_the_one_before_it_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    assert checkpoints.numbers == []
    for number in range(1, 5):
        write(checkpoints, str(number))
    assert checkpoints.numbers == [3, 4]
    assert (checkpoints.last() / "weights").read_text() == "4"


def test_one_that_goes_wrong_leaves_those_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    write(checkpoints, "1")
    write(checkpoints, "2")
    with pytest.raises(OSError, match="full"), checkpoints.next() as folder:
        (folder / "weights").write_text("half")
        raise OSError("full")
    assert checkpoints.numbers == [1, 2]
    assert {path.name for path in checkpoints.folder.iterdir()} == {"000001", "000002"}


@pytest.mark.parametrize("damage", ["changed", "missing", "more", "no sums", "no json"])
def test_a_damaged_one_is_named_and_left_out(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    write(checkpoints, "1")
    write(checkpoints, "2")
    last = checkpoints.last()
    assert capsys.readouterr().err == ""
    if damage == "changed":
        (last / "weights").write_text("3")
    elif damage == "missing":
        (last / "weights").unlink()
    elif damage == "more":
        (last / "other").touch()
    elif damage == "no sums":
        (last / "checksums.json").unlink()
    else:
        (last / "checksums.json").write_text("{")
    assert (checkpoints.last() / "weights").read_text() == "1"
    assert capsys.readouterr().err == f"{last} is damaged, it is not what its checksums.json says: left out\n"
    (tmp_path / "checkpoint" / "000001" / "weights").unlink()
    with pytest.raises(UsageError, match=r"holds no checkpoint that is whole: start again with --overwrite"):
        checkpoints.last()


def test_to_remove_them_leaves_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    write(checkpoints, "1")
    checkpoints.remove()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".old-checkpoint" / "000001").mkdir(parents=True)
    checkpoints.remove()
    assert list(tmp_path.iterdir()) == []
