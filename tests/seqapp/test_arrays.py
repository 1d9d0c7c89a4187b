"""Arrays in files of NumPy's: written as NumPy does, and read with care."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqapp.arrays import read_npz, write_npy
from tests.conftest import refused


@pytest.mark.parametrize(
    "array", [np.arange(5, dtype=np.int32), np.zeros((0, 3)), np.asfortranarray(np.eye(3, 2)), np.arange(9)[::2]]
)
def test_a_file_is_that_of_numpy(array: Any, tmp_path: Path) -> None:
    write_npy(tmp_path / "ours.npy", array)
    np.save(tmp_path / "theirs.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_has_its_name() -> None:
    with pytest.raises(OSError, match="No space left") as error:
        write_npy(Path("/dev/full"), np.arange(5))
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("order", "<>")
def test_words_are_of_characters(order: str, tmp_path: Path) -> None:
    path, points = tmp_path / "a.npz", np.array([97, 0x10FFFF], f"{order}u4")
    np.savez(path, words=points.view(f"{order}U1"), none=np.array([], "U1"), empty=np.array(["", ""]))
    assert read_npz(path, "advice")["words"].tolist() == ["a", "\U0010ffff"]
    np.savez(path, words=(points + 1).view(f"{order}U1"))
    refused(lambda: read_npz(path, "advice"), "a.npz cannot be read as .npz (it has words of what are no characters): advice")
